"""The gateways of a relay: messages between its sockets and the protocol, and a socket for each tunnel."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address

from mcastd import log
from mcastd.amt_relay.fan_out import ServedGateway
from mcastd.errors import reason_of
from mcastd.ip import Address
from mcastd.net.link import Batch
from mcastd.net.relay_sockets import GatewaySocket, ListeningSocket, RelaySockets
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.relay import IGNORED, AmtRelay

# Messages, and bytes of these, that are taken before packets have their turn again, however many wait.
MESSAGES_AT_ONCE, BYTES_AT_ONCE = 256, 1 << 14
SHORTAGE = "shortage"  # a gateway for which there is no descriptor left
IGNORED_REASONS = (*IGNORED, SHORTAGE)


class Gateways:
    """For the worker's thread; others may read ``served``."""

    def __init__(
        self, relay: AmtRelay, sockets: RelaySockets, mtu_to: Callable[[Address], int], worker: str
    ) -> None:
        self.relay = relay
        self._mtu_to = mtu_to
        self.sockets = sockets
        self.served: dict[UdpEnd, ServedGateway] = {}  # replaced, never changed
        self.waiting: frozenset[UdpEnd] = frozenset()  # those without a socket
        self.rate: int | None = None  # bits per second for each
        self.max_unreachable = 0
        self.query_seconds = math.inf
        self._asked_at: dict[UdpEnd, UdpEnd] = {}  # where those with a new tunnel have asked
        self._log = log.get_logger(worker=worker)

    def limit(self, rate: int | None, max_unreachable: int, query_seconds: float) -> None:
        """Give this to each from now on."""
        if rate != self.rate:
            for gateway in self.served.values():
                gateway.limit(rate)
        self.rate, self.max_unreachable, self.query_seconds = rate, max_unreachable, query_seconds

    def listen(self, names: Collection[UdpEnd]) -> None:
        """Be asked at these addresses and ports, and no others, by which tunnels end. Raises LinkError."""
        self.sockets.listen(names)
        asked_at = {**self._asked_at, **{end: gateway.sock.name for end, gateway in self.served.items()}}
        for end, name in asked_at.items():
            if name not in names:
                self.relay.forget(end)

    def takers(self, group: Address, source: Address) -> Sequence[ServedGateway]:
        """Those that want what a sender sends to a group."""
        served = self.served
        return [served[end] for end in self.relay.takers(group, source) if end in served]

    def receive(self, now: float) -> None:
        """Take messages that have come, up to a bounded number."""
        left, bytes_left = MESSAGES_AT_ONCE, BYTES_AT_ONCE
        while left > 0 and bytes_left > 0 and (sock := self.sockets.ready()) is not None:
            left -= 1
            if isinstance(sock, GatewaySocket):
                self._look_at_errors(sock, now)
            if (batch := self.sockets.receive(sock)) is not None:
                left, bytes_left = left - len(batch), bytes_left - batch.size
                self._take(batch, sock, now)

    def _take(self, batch: Batch, sock: ListeningSocket | GatewaySocket, now: float) -> None:
        relay, ends = self.relay, dict[tuple[str, int], UdpEnd]()
        for payload, origin in zip(batch.payloads, batch.origins, strict=True):
            key = origin.source, origin.port
            if (end := ends.get(key)) is None:
                end = ends[key] = ip_address(origin.source), origin.port
            for message, to in relay.take(bytes(payload), end, now):
                sock.answer(message, to)
            if (gateway := self.served.get(end)) is not None:
                gateway.unreachable = 0
            elif end in relay.tunnels:
                self._asked_at[end] = sock.name

    def _look_at_errors(self, sock: GatewaySocket, now: float) -> None:
        if (gateway := self.served.get(sock.gateway)) is None:
            return
        gateway.look_at_errors()
        if 0 < self.max_unreachable <= gateway.unreachable and self._is_gone(gateway.end, now):
            self._log.info("gateway.lost", gateway=_text(gateway.end), answers=gateway.unreachable)
            self.relay.forget(gateway.end)

    def _is_gone(self, end: UdpEnd, now: float) -> bool:
        """Return True if nothing that comes shows that a gateway is there still."""
        tunnel = self.relay.tunnels.get(end)
        return tunnel is not None and tunnel.is_overdue(now, self.query_seconds)

    def fit(self, now: float) -> None:
        """Send each no longer packets from now on than go."""
        for gateway in self.served.values():
            gateway.fit(now)

    def settle(self) -> None:
        """Have a socket for each tunnel that there is now, as far as there are descriptors."""
        tunnels = self.relay.tunnels
        served = {end: gateway for end, gateway in self.served.items() if end in tunnels}
        for end in self.served.keys() - served.keys():
            self.sockets.disconnect(self.served[end].sock)
            self._log.info("gateway.left", gateway=_text(end))
        waiting: dict[UdpEnd, UdpEnd] = {}
        for end in tunnels.keys() - served.keys():
            try:
                sock = self.sockets.connect(self._asked_at[end], end)
            except OSError as error:
                waiting[end] = self._asked_at[end]
                if end not in self.waiting:
                    self._log.warning("gateway.refused", gateway=_text(end), reason=reason_of(error))
                    self.relay.ignored[SHORTAGE] += 1
                continue
            served[end] = ServedGateway(end, sock, self.rate, self._mtu_to)
            self._log.info("gateway.came", gateway=_text(end))
        self.waiting, self._asked_at = frozenset(waiting), waiting
        self.served = served

    def close(self) -> None:
        self.served = {}
        self.sockets.close()


def _text(end: UdpEnd) -> str:
    address, port = end
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
