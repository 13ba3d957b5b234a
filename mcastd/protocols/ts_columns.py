"""The PIDs of many packets at once: a byte for each packet that tells its PID from the others of the stream.

A PID has 13 bits, in two bytes of the header. Of these two columns one is made, in which ``find``, ``rfind``
and ``translate`` work on all packets at once. Which byte stands for a PID is chosen so that no two of those
that were seen have the same.
"""

from __future__ import annotations

from mcastd.protocols.ts import PACKET_BYTES

_LOW_FIVE_BITS = bytes(byte & 0x1F for byte in range(256))
# Where a key stands for no PID that is known: no high byte of a PID.
_NO_PID = 0xFF
_FACTORS = range(1, 256)


class PidColumn:
    """Gives the column of keys of a stream; :attr:`keys` has the key of each PID that was seen in it."""

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}  # by PID
        self._factor = _FACTORS[0]
        self.is_full = False  # there were more PIDs than can be told apart
        self._make_tables()

    def of(self, packets: bytes | bytearray) -> bytes | None:
        """A key for each of the whole packets; None: there are too many PIDs to tell them apart so, for good.

        Keys hold until this is called again.
        """
        return self.of_columns(packets[1::PACKET_BYTES], packets[2::PACKET_BYTES])

    def of_columns(self, first: bytes | bytearray, low: bytes | bytearray) -> bytes | None:
        """The same, of the bytes 1 and 2 of the packets."""
        if self.is_full:
            return None
        high = first.translate(_LOW_FIVE_BITS)
        while True:
            mixed = int.from_bytes(high.translate(self._mix)) ^ int.from_bytes(low)
            column = mixed.to_bytes(len(low))
            # A key and the high byte that it was made with tell the low one
            if column.translate(self._high) == high:
                return column
            if not self._learn({one << 8 | other for one, other in set(zip(high, low, strict=True))}):
                return None

    def _learn(self, pids: set[int]) -> bool:
        """Choose keys for these PIDs, too. Returns False if there are none that differ."""
        known = sorted(pids.union(self.keys))
        for factor in _FACTORS:
            keys = {pid: (pid >> 8) * factor & 0xFF ^ pid & 0xFF for pid in known}
            if len(set(keys.values())) == len(known):
                self.keys, self._factor = keys, factor
                self._make_tables()
                return True
        self.is_full = True
        return False

    def _make_tables(self) -> None:
        high = bytearray((_NO_PID,)) * 256
        for pid, key in self.keys.items():
            high[key] = pid >> 8
        self._high = bytes(high)
        self._mix = bytes(byte * self._factor & 0xFF for byte in range(256))
