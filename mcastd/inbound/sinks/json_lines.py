"""The format ``json``: an object a line. Pure."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from json.encoder import (
    encode_basestring as quote,
)  # in C; makes a JSON string, and leaves non-ASCII as it is

from mcastd.clock import NANO
from mcastd.inbound.sinks.format import Format, metadata_of
from mcastd.inbound.sinks.records import Joined, Made, Record, Records
from mcastd.net.link import Batch, Origin

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment] # optional: the standard library's takes longer for long payloads

# Batches with more payload than this are escaped one by one: copying them together would cost more.
ESCAPED_TOGETHER_MAX_BYTES = 1 << 16


class JsonLines(Format):
    """An object a line. What datagrams have in common, the second and the sender, is formatted once for all.

    This takes a fraction of the time of json.dumps().
    """

    needs_metadata = True

    def records(self, batch: Batch) -> Records:
        origins, times = metadata_of(batch)
        if not origins:
            return Made([])
        first = min(times)
        if first and max(times) // NANO == first // NANO and origins.count(origins[0]) == len(origins):
            try:
                return self._of_one_sender(batch.payloads, origins[0], times)
            except UnicodeDecodeError:
                pass
        return Made(list(self._each(batch.payloads, origins, times)))

    def _of_one_sender(self, payloads: Sequence[Record], origin: Origin, times: Sequence[int]) -> Records:
        """Texts of one sender, all of one second: as usual. Raises UnicodeDecodeError if one is no text."""
        second = times[0] // NANO
        base, head, sender = second * NANO, _stamp(second), self._sender(origin)
        if pieces := escaped(payloads):
            record = b'%b%%09dZ",%b%%d,"payload":"%%b"}\n' % (head, sender.replace(b"%", b"%%"))
            lengths, fractions = map(len, payloads), [time - base for time in times]
            values = chain.from_iterable(zip(fractions, lengths, pieces, strict=True))
            return Joined(record * len(pieces) % tuple(values), len(pieces))
        return Made(
            [
                b'%b%09dZ",%b%d,"payload":%b}\n'
                % (head, time - base, sender, len(payload), quoted(str(payload, "utf-8")))
                for payload, time in zip(payloads, times, strict=True)
            ]
        )

    def _each(
        self, payloads: Sequence[Record], origins: Sequence[Origin], times: Sequence[int]
    ) -> Iterator[bytes]:
        senders = {origin: self._sender(origin) for origin in set(origins)}
        for payload, origin, time in zip(payloads, origins, times, strict=True):
            try:
                content = quoted(str(payload, "utf-8"))
            except UnicodeDecodeError:
                content = b'"%b","encoding":"base64"' % b2a_base64(payload, newline=False)
            second, nanoseconds = divmod(time, NANO)
            stamp = b'%b%09dZ"' % (_stamp(second), nanoseconds) if time else b'{"time":null'
            yield b'%b,%b%d,"payload":%b}\n' % (stamp, senders[origin], len(payload), content)

    def _sender(self, origin: Origin) -> bytes:
        """The middle of a record, from its source up to its length."""
        source, port, ifindex, ttl, _ = origin
        interface = quote(self.stream.interface_name(ifindex)) if ifindex else "null"
        text = (
            f'"source":{quote(source)},"source_port":{port},"port":{port},"group":{quote(self.stream.group())},'
            f'"interface":{interface},"ttl":{ttl if ttl >= 0 else "null"},"length":'
        )
        return text.encode(errors="replace")  # an interface's name may be no UTF-8


@lru_cache(maxsize=4)
def _stamp(second: int) -> bytes:
    """The beginning of a record, up to the fraction of the second."""
    return f'{{"time":"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.'.encode()


def escaped(payloads: Sequence[Record]) -> list[bytes]:
    """Return each payload as the inside of a JSON string; none if each has to be escaped by itself.

    All are escaped together, with a NUL between two, which becomes an escape as well. A payload with a NUL of
    its own makes more pieces than payloads: then none are returned. Raises UnicodeDecodeError.
    """
    if sum(map(len, payloads)) > ESCAPED_TOGETHER_MAX_BYTES:
        return []
    pieces = quoted(str(b"\0".join(payloads), "utf-8"))[1:-1].split(b"\\u0000")
    return pieces if len(pieces) == len(payloads) else []


def _in_quotes(text: str) -> bytes:
    return quote(text).encode()


quoted: Callable[[str], bytes] = _in_quotes if orjson is None else orjson.dumps
