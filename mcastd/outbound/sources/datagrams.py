"""Datagrams that come by UDP, or to a socket at a path: each is sent as it came.

They lie where the kernel has put them until they have gone: read() is called again only then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from mcastd import clock
from mcastd.analysis.circles import CircleGuard
from mcastd.config import OpenFilesOf, OutboundChannel, UdpSource, UnixSource, split_end
from mcastd.errors import LinkError, NoArenaError, SourceError
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.link import Batch
from mcastd.net.listeners import DatagramListener, listen_at_path, listen_udp
from mcastd.net.payloads import ListPayloads, Payloads, SlotPayloads, as_payloads
from mcastd.outbound.sources.at_path import PathBinding
from mcastd.outbound.sources.received import CIRCLE, SENDER, TOO_LONG, Admission, ReceivedSource
from mcastd.outbound.sources.source import NAP_MAX_SECONDS

# Batches that are looked at in one read, where none of them has a datagram to send.
BATCHES_AT_ONCE = 16

SenderRuns = Sequence[tuple[str, int]]
"""Addresses in order, each with how many datagrams in a row came from it."""
PayloadBytes = Sequence[bytes | memoryview]


def open_udp(channel: OutboundChannel, _: OpenFilesOf | None = None, __: str = "") -> ReceivedSource:
    """A source of ``kind = "udp"``, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, UdpSource)
    host, port = split_end(settings.listen)

    def listen() -> DatagramListener:
        return listen_udp(
            ip_address(host),
            port,
            receive_buffer=settings.receive_buffer,
            senders_apart=bool(settings.senders),
        )

    return DatagramSource(listen, Admission(settings.senders), latency=settings.max_latency)


def open_unix(settings: UnixSource) -> ReceivedSource:
    """A source of ``kind = "unix"`` and ``type = "datagram"``."""
    binding = PathBinding(settings.path, settings.mode)
    return DatagramSource(
        lambda: listen_at_path(str(settings.path), binding.bind), Admission(), binding=binding
    )


class DatagramSource(ReceivedSource):
    """One socket of datagrams."""

    reasons = (SENDER, TOO_LONG, CIRCLE)

    def __init__(
        self,
        listen: Callable[[], DatagramListener],
        admission: Admission,
        *,
        latency: float = 0.0,
        binding: PathBinding | None = None,
    ) -> None:
        """``listen`` opens the socket, and raises LinkError or SourceError; ``binding``: if it has a path.

        What comes faster than every ``latency`` seconds gathers for that time.
        """
        super().__init__(admission)
        self._listen = listen
        self._binding = binding
        self._nap = self.nap if binding is None else NAP_MAX_SECONDS
        self.nap = self._nap
        self._latency = latency
        self._listener: DatagramListener | None = None
        self._shortage = ""  # why nothing can be received now, though the socket is open
        self._is_empty = False  # the last batch was all that there was
        self._came_at = 0.0  # monotonic seconds, of the last batch
        # The overflow of sockets that are closed, and the one that is open: only replaced, others read it
        self._overflowed: tuple[int, DatagramListener | None] = 0, None
        self._guard = CircleGuard()
        self._is_returned = False  # whether somebody was sending back what is sent, at the last look

    def fileno(self) -> int | None:
        listener = self._listener
        return None if listener is None or self._shortage else listener.fileno()

    @property
    def trouble(self) -> str:
        return self._shortage or super().trouble

    @property
    def returned_by(self) -> str:
        return self._guard.returned_by(clock.monotonic())

    def overflow(self, *, exact: bool) -> int:
        before, listener = self._overflowed
        if listener is None:
            return before
        return before + (listener.overflow() if exact else listener.lost())

    @property
    def receive_buffer(self) -> int | None:
        listener = self._listener
        return None if listener is None else listener.buffer

    def has_news(self) -> bool:
        is_over = self._is_returned and not self.returned_by
        return is_over or (self._binding is not None and self._binding.is_lost)

    def read(self) -> Payloads:
        """Raises SourceError."""
        listener = self._listener
        if listener is None:
            listener = self._listener = self._open()
        for _ in range(BATCHES_AT_ONCE):
            if not self._is_empty:
                try:
                    batch = listener.receive()
                except NoArenaError as error:  # the socket holds what comes, until there is memory
                    self._shortage, self.nap = str(error), MEMORY_RETRY_SECONDS
                    break
                except LinkError as error:
                    self.restart()
                    raise _as_source_error(error) from error
                self._shortage, self.nap = "", self._nap
                count = len(batch)
                # What gathers is looked for again, at the cost of a call that may find nothing
                self._is_empty = listener.emptied and not (count and self._gathers(count))
                if count and (payloads := self._taken(batch, count, listener.names_senders)):
                    return payloads
            if self._is_empty:
                listener.idle()
                self._is_empty, self.gather = False, 0.0
                self._is_returned = bool(self.returned_by)
                if self._is_returned:  # until that is over, whether more comes or not
                    self.nap = NAP_MAX_SECONDS
                if self._binding is not None and self._binding.look():  # nothing is left in the socket
                    self.restart()
                    self._listener = self._open()
                break
        return ListPayloads()

    def _gathers(self, count: int) -> bool:
        """See from a batch whether datagrams come so fast that they are to gather. Returns True if so."""
        now = clock.monotonic()
        self.gather = self._latency if count > 1 or now - self._came_at < self._latency else 0.0
        self._came_at = now
        return self.gather > 0

    def restart(self) -> None:
        if (listener := self._listener) is not None:
            self._listener = None
            listener.close()
            self._overflowed = self._overflowed[0] + listener.overflow(), None
            if self._binding is not None:
                self._binding.remove()
        self._is_empty, self._shortage, self.nap = False, "", self._nap
        self.gather, self.state = 0.0, "not opened"

    def _open(self) -> DatagramListener:
        try:
            listener = self._listen()
        except LinkError as error:
            raise _as_source_error(error) from error
        self._overflowed = self._overflowed[0], listener
        self.state = "waiting for datagrams"
        return listener

    def _taken(self, batch: Batch, count: int, names_senders: bool) -> ListPayloads | SlotPayloads:
        """What of a batch of ``count`` is to be sent; all else is counted."""
        self.state = "receiving"
        self.position += batch.size
        if names_senders:
            admitted = self._admitted(batch.sources, batch.payloads)
            payloads = as_payloads(self._sifted(*admitted, self._came_at))
        else:
            self._came("", count)
            payloads = as_payloads(batch.payloads)
        if batch.size > MAX_DATAGRAM_BYTES and max(payloads.sizes, default=0) > MAX_DATAGRAM_BYTES:
            whole = [payload for payload in payloads if len(payload) <= MAX_DATAGRAM_BYTES]
            self._drop(TOO_LONG, len(payloads) - len(whole))
            return ListPayloads(whole)
        return payloads

    def _admitted(self, senders: SenderRuns, payloads: PayloadBytes) -> tuple[SenderRuns, PayloadBytes]:
        """Those of senders that may send."""
        admission = self._admission
        if not admission.prefixes:
            for sender, count in senders:
                self._came(sender, count)
            return senders, payloads
        runs: list[tuple[str, int]] = []
        taken: list[bytes | memoryview] = []
        start = 0
        for sender, count in senders:
            if admission.admits(sender):
                self._came(sender, count)
                runs.append((sender, count))
                taken += payloads[start : start + count]
            else:
                self._refuse(sender, count)
            start += count
        return runs, taken

    def _sifted(self, senders: SenderRuns, payloads: PayloadBytes, now: float) -> PayloadBytes:
        """Without what comes back since it was sent on."""
        if len(senders) == 1 and senders[0][0] == self._guard.only_sender:
            return payloads
        go_on = self._guard.sift(senders, payloads, now)
        if go_on is None:
            return payloads
        self._drop(CIRCLE, len(payloads) - len(go_on))
        return [payloads[index] for index in go_on]


def _as_source_error(error: LinkError) -> SourceError:
    return SourceError(error.what, error.cause, error.way_out, waits=error.waits, errno=error.errno)
