"""All tunnels of a host, in one thread: messages and datagrams between relays and subscriptions.

```
  relay --- UDP ---> socket, one for each family and local port
                        +-- control messages ---> gateway.py ---> what it answers
                        +-- data ---> inner.py ---> by group and port ---> receiver.py, of each subscription
```
"""

from __future__ import annotations

import math
import select
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from mcastd import clock, log
from mcastd.bounded import begin
from mcastd.errors import reason_of
from mcastd.ip import Address, SourceFilter, merged
from mcastd.net.link import Batch
from mcastd.net.tunnel_socket import Bell, TunnelSocket, resolve
from mcastd.protocols.amt import PORT
from mcastd.status import TunnelStatus
from mcastd.threads import Thread
from mcastd.tunnel.gateway import Gateway, Phase, TunnelMessage, UdpEnd, is_data
from mcastd.tunnel.inner import InnerDatagrams, TunnelledDatagram
from mcastd.tunnel.receiver import TimedDatagram, TunnelReceiver

# A name that could not be resolved is asked for again after so long.
RESOLVE_SECONDS = 10.0
# So many questions without an answer are trouble.
UNANSWERED_MAX = 3
# Batches of one socket before the others have their turn.
BATCHES_AT_ONCE = 16
# What came for nobody here: of another group, port or sender. A relay may send it long after it is left.
FOREIGN = "foreign"


class RelayWay(NamedTuple):
    """How a relay is reached: one tunnel for all subscriptions that have the same."""

    relay: str  # an address or a name
    local_port: int
    refresh_seconds: float


@dataclass(slots=True)
class _Seen:
    """What others see of a tunnel: replaced as a whole."""

    phase: Phase = Phase.IDLE
    relay: str = ""
    problem: str = ""


class AmtTunnel:
    """One tunnel. The thread of Tunnels changes it; any thread may ask what is seen of it."""

    def __init__(self, way: RelayWay, owner: Tunnels) -> None:
        self.way = way
        self.receivers: tuple[TunnelReceiver, ...] = ()  # replaced, never changed
        self.gateway: Gateway | None = None  # None: the relay's address is not known yet
        self.dropped: Counter[str] = Counter()
        self.inner = InnerDatagrams(self.dropped)
        self.received = 0  # packets of data
        self.refusal = ""  # why the last message could not be sent
        self.unresolved = ""  # why the name has no address
        self.resolving: Future[Address] | None = None
        self.resolve_at = 0.0  # monotonic seconds
        self.socket: TunnelSocket | None = None
        self.seen = _Seen()
        self._owner = owner

    # -- for any thread

    def changed(self, receiver: TunnelReceiver) -> None:
        if receiver.wanted is None:
            self._owner.forget(self, receiver)
        self._owner.wake()

    @property
    def problem(self) -> str:
        return self.seen.problem

    @property
    def is_open(self) -> bool:
        return self.seen.phase is Phase.OPEN

    @property
    def overflow(self) -> int:
        return 0 if (sock := self.socket) is None else sock.overflow

    def status(self) -> TunnelStatus:
        gateway, seen = self.gateway, self.seen
        round_trip = None if gateway is None else gateway.round_trip
        return TunnelStatus(
            kind="amt",
            asked=self.way.relay,
            relay=seen.relay,
            local_port=self.way.local_port,
            phase=seen.phase.value,
            round_trip_ms=None if round_trip is None else 1000 * round_trip,
            unanswered=0 if gateway is None else max(gateway.tries, gateway.unanswered),
            full=gateway is not None and gateway.is_full,
            received=self.received,
            dropped=dict(self.dropped),
            overflow=self.overflow,
        )

    # -- for the thread of Tunnels

    @property
    def deadline(self) -> float:
        if self.gateway is None:
            return self.resolve_at if self.receivers and self.resolving is None else math.inf
        return min(self.gateway.deadline, self.inner.deadline)

    def wanted(self) -> dict[Address, SourceFilter]:
        """All that its receivers want together."""
        filters = defaultdict[Address, list[SourceFilter]](list)
        for receiver in self.receivers:
            if receiver.wanted is not None:
                filters[receiver.group].append(receiver.wanted)
        return {group: merged(each) for group, each in filters.items()}

    def look(self) -> bool:
        """Note what others see. Returns True if its problem, or whether it is open, has changed."""
        gateway, before = self.gateway, self.seen
        phase = Phase.IDLE if gateway is None else gateway.phase
        relay = "" if gateway is None or gateway.relay is None else str(gateway.relay)
        self.seen = _Seen(phase, relay, self._problem(phase))
        return (before.problem, before.phase is Phase.OPEN) != (self.seen.problem, self.is_open)

    def _problem(self, phase: Phase) -> str:
        gateway, relay, problem = self.gateway, self.way.relay, ""
        if not self.receivers:
            pass
        elif self.unresolved:
            problem = f"cannot resolve the relay {relay}: {self.unresolved}"
        elif self.refusal:
            problem = f"cannot send to the relay {relay}: {self.refusal}"
        elif gateway is None:
            pass
        elif gateway.is_full:
            problem = f"the relay {relay} takes no new gateways: asking again within a minute"
        elif phase is Phase.DISCOVERING and gateway.tries >= UNANSWERED_MAX:
            problem = f"no relay answers at {relay}, UDP port {PORT}: asking again"
        elif phase is Phase.REQUESTING and gateway.unanswered >= UNANSWERED_MAX:
            problem = (
                f"the relay {gateway.relay} advertises itself and answers no request: it may know this host"
                f" by another port than {self.way.local_port}, or a NAT is between"
            )
        return problem


class Tunnels:
    """The tunnels, and their thread, which starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the tunnels, their receivers and the thread
        self._tunnels: dict[RelayWay, AmtTunnel] = {}
        self._sockets: dict[tuple[int, int], TunnelSocket] = {}  # by IP version and local port
        self._thread: Thread | None = None
        self._bell: Bell | None = None
        self._is_closed = False
        self._log = log.get_logger()

    # -- for any thread

    def open(
        self, way: RelayWay, group: Address, port: int, source_filter: SourceFilter, receive_buffer: int
    ) -> TunnelReceiver:
        """A link to a group by a tunnel. Raises LinkError, and RuntimeError if there is no thread."""
        with self._lock:
            tunnel = self._tunnels.get(way)
            if tunnel is None:
                tunnel = self._tunnels[way] = AmtTunnel(way, self)
            for version in _versions(way.relay):
                self._socket(version, way.local_port)
            self._start()
            receiver = TunnelReceiver(tunnel, group, port, source_filter, receive_buffer)
            tunnel.receivers = (*tunnel.receivers, receiver)
        self.wake()
        return receiver

    def forget(self, tunnel: AmtTunnel, receiver: TunnelReceiver) -> None:
        with self._lock:
            tunnel.receivers = tuple(one for one in tunnel.receivers if one is not receiver)

    def wake(self) -> None:
        with self._lock:
            if self._bell is not None:
                self._bell.ring()

    def close(self) -> None:
        """Take leave of all relays, and end the thread."""
        with self._lock:
            self._is_closed, thread = True, self._thread
            if self._bell is not None:
                self._bell.ring()
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._bell = Bell()
            thread = Thread(target=self._run, name="tunnels", args=(self._bell,))
            try:
                thread.start()
            except RuntimeError:
                self._bell.close()
                self._bell = None
                raise
            self._thread = thread

    def _socket(self, version: int, local_port: int) -> TunnelSocket:
        key = version, local_port
        if key not in self._sockets:
            self._sockets[key] = TunnelSocket(version, local_port)
        return self._sockets[key]

    # -- the thread

    def _run(self, bell: Bell) -> None:
        while not self._is_closed:
            self._turn(bell)
        with self._lock:
            for tunnel in self._tunnels.values():
                if tunnel.gateway is not None:
                    self._send(tunnel, tunnel.gateway.end())
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()
            self._bell = None
            bell.close()

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
        for tunnel in tunnels:
            self._attend(tunnel, now)
        self._drop_unused(tunnels)

    def _attend(self, tunnel: AmtTunnel, now: float) -> None:
        if tunnel.gateway is None:
            self._resolve(tunnel, now)
        if (gateway := tunnel.gateway) is not None:
            self._send(tunnel, gateway.want(tunnel.wanted(), now))
            self._send(tunnel, gateway.tick(now))
            tunnel.inner.expire(now)
        if tunnel.look():
            if problem := tunnel.problem:
                self._log.warning("tunnel.hindered", relay=tunnel.way.relay, reason=problem)
            elif tunnel.is_open:
                self._log.info("tunnel.open", relay=tunnel.seen.relay, asked=tunnel.way.relay)
            for receiver in tunnel.receivers:
                receiver.on_lost()

    def _drop_unused(self, tunnels: Iterable[AmtTunnel]) -> None:
        """Forget tunnels that nobody wants any more, and whose relays know it; and sockets without any."""
        with self._lock:
            for tunnel in tunnels:
                is_over = tunnel.gateway is None or tunnel.gateway.phase is Phase.IDLE
                if not tunnel.receivers and is_over and tunnel.deadline == math.inf:
                    del self._tunnels[tunnel.way]
            ports = {way.local_port for way in self._tunnels}
            for key in [key for key in self._sockets if key[1] not in ports]:
                self._sockets.pop(key).close()

    # -- where the relay is

    def _resolve(self, tunnel: AmtTunnel, now: float) -> None:
        """Find the relay's address: at once if it is one, else by asking, which may take long."""
        if not tunnel.receivers:
            return
        with suppress(ValueError):
            self._found(tunnel, ip_address(tunnel.way.relay))
            return
        if tunnel.resolving is not None:
            if not tunnel.resolving.done():
                return
            answer, tunnel.resolving = tunnel.resolving, None
            try:
                self._found(tunnel, answer.result())
            except OSError as error:
                tunnel.unresolved, tunnel.resolve_at = reason_of(error), now + RESOLVE_SECONDS
        elif now >= tunnel.resolve_at:
            try:
                tunnel.resolving = begin(lambda: resolve(tunnel.way.relay), "resolve-relay")
            except OSError as error:
                tunnel.unresolved, tunnel.resolve_at = reason_of(error), now + RESOLVE_SECONDS
            else:
                tunnel.resolving.add_done_callback(lambda _: self.wake())

    def _found(self, tunnel: AmtTunnel, relay: Address) -> None:
        with self._lock:
            tunnel.socket = self._socket(relay.version, tunnel.way.local_port)
        tunnel.unresolved = ""
        tunnel.gateway = Gateway(relay, refresh_seconds=tunnel.way.refresh_seconds)

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
        for _ in range(BATCHES_AT_ONCE):
            try:
                batch = sock.receive()
            except OSError as error:  # what an earlier message met: the next ones meet it, too, or do not
                self._log.debug("tunnel.refused", reason=reason_of(error))
                return
            if not len(batch):
                return
            self._take(batch, tunnels)

    def _take(self, batch: Batch, tunnels: Iterable[AmtTunnel]) -> None:
        now = clock.monotonic()
        by_relay = {(tunnel.gateway.relay, PORT): tunnel for tunnel in tunnels if tunnel.gateway is not None}
        found = defaultdict[AmtTunnel, list[TimedDatagram]](list)
        ends: dict[tuple[str, int], UdpEnd] = {}
        for payload, origin, time in zip(batch.payloads, batch.origins, batch.times, strict=True):
            known = origin.source, origin.port
            end = ends.get(known)
            if end is None:
                end = ends[known] = (ip_address(origin.source), origin.port)
            message = bytes(payload)
            tunnel = by_relay.get(end)
            if not is_data(message):
                for one in tunnels:
                    if one.gateway is not None:
                        self._send(one, one.gateway.take(message, end, now))
            elif (
                tunnel is not None
                and tunnel.gateway is not None
                and (packet := tunnel.gateway.admit(message, end, now)) is not None
            ):
                tunnel.received += 1
                if (datagram := tunnel.inner.read(packet, now)) is not None:
                    found[tunnel].append((datagram, time))
        for tunnel, datagrams in found.items():
            _deliver(tunnel, datagrams)


def _deliver(tunnel: AmtTunnel, datagrams: Iterable[TimedDatagram]) -> None:
    """Give datagrams to all receivers that want them."""
    receivers = defaultdict[tuple[Address, int], list[TunnelReceiver]](list)
    for receiver in tunnel.receivers:
        receivers[receiver.group, receiver.port].append(receiver)
    given = defaultdict[TunnelReceiver, list[TimedDatagram]](list)
    for one in datagrams:
        datagram = one[0]
        takers = [
            receiver
            for receiver in receivers.get((datagram.group, datagram.port), ())
            if _wants(receiver, datagram)
        ]
        if not takers:
            tunnel.dropped[FOREIGN] += 1
        for receiver in takers:
            given[receiver].append(one)
    for receiver, each in given.items():
        receiver.deliver(each)


def _wants(receiver: TunnelReceiver, datagram: TunnelledDatagram) -> bool:
    """Relays may ignore sources, as that of Linux does: so they are looked at here."""
    wanted = receiver.wanted
    return wanted is not None and wanted.wants(datagram.source)


def _versions(relay: str) -> list[int]:
    """The families that a relay may have an address of."""
    with suppress(ValueError):
        return [ip_address(relay).version]
    return [4]
