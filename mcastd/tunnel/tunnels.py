"""All tunnels of a host, in one thread: messages and datagrams between relays and subscriptions.

```
  relay --- UDP ---> socket, one for each family and local port
                        +-- control messages ---> gateway.py ---> what it answers
                        +-- data ---> alike.py, or inner.py ---> by group and port ---> receiver.py, of each
                                                                                         subscription
```
"""

from __future__ import annotations

import errno
import math
import select
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from mcastd import clock, log
from mcastd.bell import Bell
from mcastd.bounded import begin
from mcastd.errors import SHORTAGE_WAYS_OUT, LinkError, reason_of
from mcastd.ip import LINK_LOCAL, Address, SourceFilter, merged, stays_at_home
from mcastd.net.link import Batch, Origin
from mcastd.net.tunnel_socket import TunnelSocket
from mcastd.protocols.amt import DATA_HEADER, PORT
from mcastd.rows import Rows, listed
from mcastd.threads import NoThreadError
from mcastd.tunnel.alike import by_group, datagrams_alike
from mcastd.tunnel.candidates import Candidate, Candidates, candidates_of
from mcastd.tunnel.gateway import Gateway, Phase, TunnelMessage, UdpEnd, is_data
from mcastd.tunnel.inner import TunnelledDatagram, TunnelledRun
from mcastd.tunnel.receiver import TunnelReceiver
from mcastd.tunnel.tunnel import RESOLVE_SECONDS, AmtTunnel, RelayWay, TunnelKey, setting
from mcastd.tunnel.woken_thread import WokenThread

# Batches of one socket before the others have their turn.
BATCHES_AT_ONCE = 16
# What came for nobody here: of another group, port or sender. A relay may send it long after it is left.
FOREIGN = "foreign"


class Tunnels:
    """The tunnels, and their thread, which starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the tunnels, their receivers and sockets
        self._tunnels: dict[TunnelKey, AmtTunnel] = {}
        self._sockets: dict[tuple[int, int], TunnelSocket] = {}  # by IP version and local port
        self._thread = WokenThread("tunnels", self._run)
        self._log = log.get_logger()

    # -- for any thread

    def open(
        self, way: RelayWay, group: Address, port: int, source_filter: SourceFilter, receive_buffer: int
    ) -> TunnelReceiver:
        """A link to a group by a tunnel. Raises LinkError, also without a descriptor or a thread for it."""
        with self._lock:
            tunnel = self._tunnels.get(way.key) or AmtTunnel(way, self)
            address = way.address
            self._socket(4 if address is None else address.version, way.local_port)
            try:
                self._thread.begin()
                receiver = TunnelReceiver(
                    tunnel, group, port, source_filter, receive_buffer, refresh_seconds=way.refresh_seconds
                )
            except (OSError, NoThreadError) as error:
                raise _shortage(error) from error
            tunnel.receivers = (*tunnel.receivers, receiver)
            self._tunnels[way.key] = tunnel
        self._thread.wake()
        return receiver

    def forget(self, tunnel: AmtTunnel, receiver: TunnelReceiver) -> None:
        with self._lock:
            tunnel.receivers = tuple(one for one in tunnel.receivers if one is not receiver)

    def wake(self) -> None:
        self._thread.wake()

    def close(self) -> None:
        """Take leave of all relays, and end the thread."""
        self._thread.close()

    def _socket(self, version: int, local_port: int) -> TunnelSocket:
        key = version, local_port
        if key not in self._sockets:
            self._sockets[key] = TunnelSocket(version, local_port)
        return self._sockets[key]

    # -- the thread

    def _run(self, bell: Bell) -> None:
        while not self._thread.ends:
            self._turn(bell)
        with self._lock:
            for tunnel in self._tunnels.values():
                if tunnel.gateway is not None:
                    self._send(tunnel, tunnel.gateway.end())
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()

    def _turn(self, bell: Bell) -> None:
        """Wait for what comes, and do what is due."""
        with self._lock:
            tunnels, sockets = [*self._tunnels.values()], [*self._sockets.values()]
        poll = select.poll()
        for fd in (bell.fileno(), *(sock.fileno() for sock in sockets)):
            poll.register(fd, select.POLLIN)
        deadline = min([tunnel.deadline for tunnel in tunnels], default=math.inf)
        wait = None if deadline == math.inf else max(0.0, 1000 * (deadline - clock.monotonic()))
        ready = {fd for fd, _ in poll.poll(wait)}
        bell.quiet()
        for sock in sockets:
            if sock.fileno() in ready:
                self._receive(sock, tunnels)
        now = clock.monotonic()
        # All are resolved first: one that goes on for another does not tell the relay that nobody is there
        for step in (self._resolve, self._attend):
            for tunnel in tunnels:
                try:
                    step(tunnel, tunnels, now)
                except Exception as error:  # it must not cost the other tunnels their thread
                    self._log.exception("tunnel.crashed", relay=str(tunnel.way))
                    tunnel.restart(f"it failed: {type(error).__name__}: {reason_of(error)}", now)
        self._drop_unused(tunnels)

    def _attend(self, tunnel: AmtTunnel, tunnels: Sequence[AmtTunnel], now: float) -> None:
        if tunnel.leave_bad_relay(now):
            self._leave(tunnel, tunnels)
            self._seek(tunnel, tunnel.candidates, tunnels, now)
        if not tunnel.receivers:
            tunnel.search = None
        if tunnel.search is not None:
            self._send(tunnel, tunnel.search.tick(now))
        if (gateway := tunnel.gateway) is not None:
            receivers = [each for one in tunnels if one.gateway is gateway for each in one.receivers]
            if receivers:
                gateway.refresh_every(min(receiver.refresh_seconds for receiver in receivers), now)
            self._send(tunnel, gateway.want(_wanted(receivers), now))
            self._send(tunnel, gateway.tick(now))
            tunnel.inner.expire(now)
        if tunnel.look():
            if problem := tunnel.problem:
                self._log.warning("tunnel.hindered", relay=str(tunnel.way), reason=problem)
            elif tunnel.is_open:
                seen = tunnel.seen
                self._log.info("tunnel.open", relay=seen.relay, asked=str(tunnel.way), by=seen.found_by)
            for receiver in tunnel.receivers:
                receiver.on_lost()

    def _drop_unused(self, tunnels: Iterable[AmtTunnel]) -> None:
        """Forget tunnels that nobody wants any more, and whose relays know it; and sockets without any."""
        with self._lock:
            for tunnel in tunnels:
                gateway = tunnel.gateway
                is_over = gateway is None or gateway.phase is Phase.IDLE
                goes_on = gateway is not None and any(
                    one is not tunnel and one.gateway is gateway for one in self._tunnels.values()
                )
                if not tunnel.receivers and (goes_on or (is_over and tunnel.deadline == math.inf)):
                    del self._tunnels[tunnel.way.key]
            ports = {local_port for _, local_port, _ in self._tunnels}
            for key in [key for key in self._sockets if key[1] not in ports]:
                self._sockets.pop(key).close()

    # -- where the relay is

    def _resolve(self, tunnel: AmtTunnel, tunnels: Sequence[AmtTunnel], now: float) -> None:
        """Find the relay: at once if its address is known, else by asking, which may take long."""
        if not tunnel.receivers:
            return
        try:
            if (answer := tunnel.resolving) is not None:
                if answer.done():
                    tunnel.resolving, tunnel.resolve_at = None, now + RESOLVE_SECONDS
                    self._seek(tunnel, answer.result(), tunnels, now)
            elif tunnel.is_to_resolve and now >= tunnel.resolve_at:
                if (address := tunnel.way.address) is not None:
                    self._seek(tunnel, Candidates((setting(address),)), tunnels, now)
                else:
                    way = tunnel.way
                    tunnel.resolving = begin(lambda: candidates_of(way.relay, way.sources), "find-relay")
                    tunnel.resolving.add_done_callback(lambda _: self.wake())
        except LinkError as error:
            tunnel.hindrance, tunnel.resolve_at = error.trouble, now + RESOLVE_SECONDS
        except OSError as error:
            tunnel.hindrance = f"cannot resolve the relay {tunnel.way}: {reason_of(error)}"
            tunnel.resolve_at = now + RESOLVE_SECONDS

    def _seek(
        self, tunnel: AmtTunnel, candidates: Candidates, tunnels: Sequence[AmtTunnel], now: float
    ) -> None:
        """Ask these, as far as there is a socket for them. Raises LinkError if there is none for any."""
        usable, refused = [], None
        for candidate in candidates.found:
            try:
                with self._lock:
                    self._socket(candidate.address.version, tunnel.way.local_port)
                usable.append(candidate)
            except LinkError as error:
                refused = error
        if refused is not None and not usable:
            raise refused
        chosen = tunnel.seek(candidates._replace(found=tuple(usable)), now)
        if chosen is not None:
            self._choose(tunnel, chosen, tunnels)
        elif tunnel.search is not None:
            self._leave(tunnel, tunnels)

    def _choose(self, tunnel: AmtTunnel, chosen: Candidate, tunnels: Sequence[AmtTunnel]) -> None:
        """Ask there. What others have asked there by the same port goes on for both: a relay knows no more of
        this host than its address and port."""
        relay, port = chosen.address, tunnel.way.local_port
        with self._lock:
            tunnel.come_by(self._socket(relay.version, port))
        if tunnel.gateway is not None and tunnel.gateway.discovery == relay:
            tunnel.hindrance, tunnel.search = "", None
            return
        self._leave(tunnel, tunnels)
        there = [
            one.gateway
            for one in tunnels
            if one.gateway is not None and (one.gateway.discovery, one.way.local_port) == (relay, port)
        ]
        refresh = tunnel.way.refresh_seconds
        tunnel.choose(chosen, there[0] if there else Gateway(relay, refresh_seconds=refresh))

    def _leave(self, tunnel: AmtTunnel, tunnels: Sequence[AmtTunnel]) -> None:
        """Have no more to do with the relay; if no other tunnel has, it is told so."""
        gateway, tunnel.gateway = tunnel.gateway, None
        if gateway is not None and not any(one.gateway is gateway for one in tunnels):
            self._send(tunnel, gateway.end())

    # -- messages

    def _send(self, tunnel: AmtTunnel, messages: Iterable[TunnelMessage]) -> None:
        for message, to in messages:
            sock = tunnel.socket
            if sock is None or to[0].version != sock.version:
                sock = self._sockets.get((to[0].version, tunnel.way.local_port))
            tunnel.refusal = (
                f"this host has no IPv{to[0].version}" if sock is None else sock.send(message, to)
            )

    def _receive(self, sock: TunnelSocket, tunnels: Iterable[AmtTunnel]) -> None:
        ours = [one for one in tunnels if one.way.local_port == sock.local_port]
        for _ in range(BATCHES_AT_ONCE):
            try:
                batch = sock.receive()
            except OSError as error:  # what an earlier message met: the next ones meet it, too, or do not
                self._log.debug("tunnel.refused", reason=reason_of(error))
                return
            if not len(batch):
                return
            try:
                self._take(batch, ours)
            except Exception:  # what one message does must not cost all tunnels their thread
                self._log.exception("tunnel.crashed")

    def _take_control(
        self, tunnel: AmtTunnel, message: bytes, end: UdpEnd, tunnels: Sequence[AmtTunnel]
    ) -> None:
        if tunnel.gateway is not None:
            self._send(tunnel, tunnel.gateway.take(message, end, clock.monotonic()))
        elif tunnel.search is not None and (chosen := tunnel.search.take(message, end)) is not None:
            self._choose(tunnel, chosen, tunnels)

    def _take(self, batch: Batch, tunnels: Sequence[AmtTunnel]) -> None:
        """Take what came to the port of these tunnels."""
        now = clock.monotonic()
        by_relay = defaultdict[UdpEnd, list[AmtTunnel]](list)
        for tunnel in tunnels:
            if tunnel.gateway is not None and tunnel.gateway.relay is not None:
                by_relay[tunnel.gateway.relay, PORT].append(tunnel)
        found = defaultdict[AmtTunnel, list[TunnelledRun]](list)
        for each in _together(batch):
            for tunnel, run in self._read(each, by_relay.get(each.end, ()), tunnels, now):
                found[tunnel].append(run)
        for tunnel, runs in found.items():
            relay = tunnel.gateway and tunnel.gateway.relay
            beside = [one for one in by_relay.get((relay, PORT), ()) if one is not tunnel] if relay else []
            _deliver(tunnel, runs, beside)

    def _read(
        self, came: _Messages, takers: Sequence[AmtTunnel], tunnels: Sequence[AmtTunnel], now: float
    ) -> Iterator[tuple[AmtTunnel, TunnelledRun]]:
        """The datagrams in messages, by the tunnel that has them; those of one busy stream all at once.

        ``takers`` are the tunnels that have this end for their relay.
        """
        end, rows, times = came
        alike = datagrams_alike(rows, len(DATA_HEADER)) if takers and is_data(rows.row(0)) else None
        if alike is not None:
            run = TunnelledRun(alike[0], [*map(bytes, alike[1])], times)
            yield from ((tunnel, run) for tunnel in takers if tunnel.admit(end, len(times), now))
            return
        for row, time in enumerate(times):
            message = bytes(rows.row(row))
            if not is_data(message):
                for one in tunnels:
                    self._take_control(one, message, end, tunnels)
                continue
            for tunnel in takers:
                if tunnel.admit(end, 1, now):
                    datagram = tunnel.inner.read(message[len(DATA_HEADER) :], now)
                    if datagram is not None:
                        yield tunnel, TunnelledRun(datagram, [datagram.payload], [time])


def _shortage(error: OSError | NoThreadError) -> LinkError:
    """Why no receiver can be had. A subscription may fall back to what comes natively then."""
    what = "cannot receive by a tunnel"
    if isinstance(error, NoThreadError):
        return LinkError(what, error.cause, error.way_out, errno=errno.EAGAIN)
    number = error.errno or 0
    return LinkError(what, reason_of(error), SHORTAGE_WAYS_OUT.get(number, ""), errno=number)


class _Messages(NamedTuple):
    """Messages from one end, of one size, with packets to one group if they have any."""

    end: UdpEnd
    rows: Rows
    times: Sequence[int]


def _together(batch: Batch) -> Iterator[_Messages]:
    """The messages of a batch, which has one at least; those to one group in order."""
    origins, times, at = batch.origins, batch.times, 0
    parts: Iterable[tuple[Origin, Sequence[Rows]]] = [(origins[0], batch.rows)]
    if origins.count(origins[0]) != len(batch):
        pairs = groupby(zip(origins, batch.payloads, strict=True), itemgetter(0))
        parts = ((origin, listed(payload for _, payload in together)) for origin, together in pairs)
    for origin, each in parts:
        end = ip_address(origin.source), origin.port
        for rows in each:
            for some, numbers in by_group(rows, len(DATA_HEADER)):
                yield _Messages(end, some, [times[at + number] for number in numbers])
            at += len(rows)


def _wanted(receivers: Iterable[TunnelReceiver]) -> dict[Address, SourceFilter]:
    """All that these want together."""
    filters = defaultdict[Address, list[SourceFilter]](list)
    for receiver in receivers:
        if receiver.wanted is not None:
            filters[receiver.group].append(receiver.wanted)
    return {group: merged(each) for group, each in filters.items()}


def _deliver(tunnel: AmtTunnel, runs: Iterable[TunnelledRun], beside: Sequence[AmtTunnel]) -> None:
    """Give datagrams to all receivers that want them. ``beside`` are tunnels that had them, too."""
    receivers = defaultdict[tuple[Address, int], list[TunnelReceiver]](list)
    for receiver in tunnel.receivers:
        receivers[receiver.group, receiver.port].append(receiver)
    others = [receiver for one in beside for receiver in one.receivers]
    given = defaultdict[TunnelReceiver, list[TunnelledRun]](list)
    for run in runs:
        datagram = run.first
        if stays_at_home(datagram.source):
            tunnel.dropped[LINK_LOCAL] += len(run.payloads)
            continue
        end = datagram.group, datagram.port
        takers = [receiver for receiver in receivers.get(end, ()) if _wants(receiver, datagram)]
        if not takers and not any(
            (receiver.group, receiver.port) == end and _wants(receiver, datagram) for receiver in others
        ):
            tunnel.dropped[FOREIGN] += len(run.payloads)
        for receiver in takers:
            given[receiver].append(run)
    for receiver, each in given.items():
        receiver.deliver(each)
    if given:
        tunnel.note_delivered()


def _wants(receiver: TunnelReceiver, datagram: TunnelledDatagram) -> bool:
    """Relays may ignore sources, as that of Linux does: so they are looked at here."""
    wanted = receiver.wanted
    return wanted is not None and wanted.wants(datagram.source)
