"""What is read of the host, once for one examination, and when it is first asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from mcastd.config import GroupSettings, InboundSubscription, OutboundChannel, WorkerSettings
from mcastd.doctor.subject import Subject, by_leg, is_of
from mcastd.doctor.watch import Observation
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import Address
from mcastd.net import interfaces, routes, socket_owners, tables, unaided
from mcastd.net.interfaces import Host, Interface
from mcastd.net.netlink import FORBIDDEN
from mcastd.net.routes import Route
from mcastd.net.socket_owners import Owners
from mcastd.net.tables import MulticastRoute, UdpSocket


class Troubles(NamedTuple):
    """What the daemon cannot do beside its workers, in a sentence each; "" if all is well."""

    metrics: str = ""
    log: str = ""


NO_TROUBLES = Troubles()


class Evidence:
    """The host as one examination sees it. For tests every part can be given."""

    def __init__(
        self,
        subjects: Sequence[Subject[WorkerSettings]] = (),
        observation: Observation | None = None,
        *,
        look: Callable[[], Host] = interfaces.look,
        route_to: Callable[..., Route] = routes.route_to,
        multicast_routes: Callable[[int], list[MulticastRoute]] = tables.multicast_routes,
        root: Path = Path("/"),
        configuration: tuple[str, str] = ("", ""),
        troubles: Troubles = NO_TROUBLES,
    ) -> None:
        self.subjects = subjects  # all of the daemon, not only those that are examined
        self.observation = observation  # None: nobody watched
        self.configuration = configuration  # on disk: a cause and a sentence, if there is one
        self.troubles = troubles
        self.root = root  # below which /proc and /sys are looked for
        self.route_to = cache(self._route)
        self.read = cache(self._read)
        self.multicast_routes = cache(multicast_routes)
        self._look = look
        self._route_to = route_to
        self.forbidden: CannotAskError | None = None  # netlink, to which looking at the host came

    @cached_property
    def host(self) -> Host:
        """Interfaces, addresses and memberships. Raises LinkError."""
        try:
            return self._look()
        except CannotAskError as error:
            if error.errno not in FORBIDDEN:
                raise
            self.forbidden = error
            return unaided.look()

    def _route(self, group: Address, *, by: int = 0) -> Route:
        host = self.host
        return self._route_to(group, by=by) if self.forbidden is None else host.routes.to(group, by=by)

    @property
    def watched(self) -> float:
        """Seconds that were watched."""
        return self.observation.seconds if self.observation else 0.0

    def ways(self, subject: Subject[GroupSettings]) -> list[Interface]:
        """The interfaces that a subject's settings mean now; none if there are none."""
        settings = subject.settings
        if settings.interface is None:
            route = self.route_to(settings.group)
            found = self.host.interfaces.get(route.ifindex)
            return [found] if found else []
        try:
            return self.host.meant(settings.interface, settings.group)
        except LinkError:
            return []

    def senders_to(self, settings: GroupSettings) -> list[Subject[OutboundChannel]]:
        """The channels, of those that :attr:`subjects` has, to a group and port."""
        return [one for one in self._same(settings) if is_of(one, OutboundChannel)]

    def receivers_of(self, settings: GroupSettings) -> list[Subject[InboundSubscription]]:
        """The subscriptions to a group and port."""
        return [one for one in self._same(settings) if is_of(one, InboundSubscription)]

    def _same(self, settings: GroupSettings) -> list[Subject[GroupSettings]]:
        return self._by_group[settings.group, settings.port]

    @cached_property
    def _by_group(self) -> dict[tuple[Address, int], list[Subject[GroupSettings]]]:
        found: dict[tuple[Address, int], list[Subject[GroupSettings]]] = defaultdict(list)
        for one in self.subjects:
            for part in by_leg(one):
                if is_of(part, GroupSettings):
                    found[part.settings.group, part.settings.port].append(part)
        return found

    @cached_property
    def sockets(self) -> dict[int, list[UdpSocket]]:
        """The UDP sockets of this host by port, read once for all workers."""
        found: dict[int, list[UdpSocket]] = defaultdict(list)
        for version in (4, 6):
            for sock in tables.udp_sockets(version):
                found[sock.port].append(sock)
        return found

    @cached_property
    def owners(self) -> Owners:
        """The processes with sockets on the workers' ports. Reads the open files of all processes."""
        settings = [one.settings for one in self.subjects if is_of(one, InboundSubscription)]
        ports = {leg.port for each in settings for leg in each.by_leg()}
        return socket_owners.owners(sock.inode for port in ports for sock in self.sockets.get(port, ()))

    def exists(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).exists()

    def _read(self, path: str) -> str | None:
        """The text of a file, less white space around it; None if it cannot be read.

        Not by /proc/net, which a unit with ProcSubset=pid does not have, but by /proc/self/net.
        """
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def sysctl(self, name: str) -> str | None:
        """``net/ipv4/conf/eth0/rp_filter``: with slashes, since an interface's name may have dots."""
        return self.read(f"/proc/sys/{name}")
