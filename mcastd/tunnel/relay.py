"""The relay's side of AMT tunnels (RFC 7450 section 5.3): who asks, and what each of them wants.

```
  Discovery --->  Advertisement       nothing is kept of who asks
  Request   --->  Query, with a MAC   nor here: the MAC proves later that he receives what is sent to him
  Update    --->  a tunnel: groups and sources that are sent to this address and port from now on
  Teardown  --->  no tunnel
```

Without a socket or a clock. An answer is at most some three times as long as what asked for it, and memory is
kept for a host only when it has proved its address.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

from mcastd.ip import (
    Address,
    SourceFilter,
    host_of,
    is_source_specific,
    limited,
    merged,
)
from mcastd.protocols import igmp, mld
from mcastd.protocols.amt import (
    MAC_BYTES,
    GatewayAddress,
    RelayAdvertisement,
    RelayDiscovery,
    TunnelQuery,
    TunnelRequest,
    TunnelTeardown,
    TunnelUpdate,
    build,
    read,
)
from mcastd.protocols.internet import (
    ICMPV6,
    IGMP,
    MEMBERSHIP_TOS,
    MEMBERSHIP_TTL,
    IpPacket,
    build_ip,
)
from mcastd.protocols.membership import (
    DEFAULT_ROBUSTNESS,
    GroupRecord,
    MembershipQuery,
    MembershipReport,
)
from mcastd.tunnel.budgets import HostBudgets
from mcastd.tunnel.gateway import TunnelMessage, UdpEnd
from mcastd.tunnel.relay_limits import RelayLimits
from mcastd.tunnel.relayed import RelayedTunnel, WantedGroup
from mcastd.tunnel.reports import read_membership

# Reasons to ignore a message.
MALFORMED = "malformed"
UNPROVEN = "unproven"  # its MAC is none that we gave to this address and port, or too old
TOO_OFTEN = (
    "too-often"  # more questions from one address, or changes, or bytes of updates, than a gateway has
)
TOO_MANY_TUNNELS = "too-many-tunnels"
TOO_MANY_GROUPS = "too-many-groups"  # or sources, of one tunnel
NOT_ALLOWED = "not-allowed"  # a group, or a source, that is not served
WITHOUT_SOURCE = "without-source"  # a group of source-specific multicast that is wanted of any source
STRANGER = "stranger"  # a gateway that is not served
IGNORED = (
    *(MALFORMED, UNPROVEN, TOO_OFTEN, TOO_MANY_TUNNELS, TOO_MANY_GROUPS),
    *(NOT_ALLOWED, WITHOUT_SOURCE, STRANGER),
)

# A secret is used for so many intervals of queries, and then known for two more. RFC 7450 section 5.3.6
# allows two hours; but as long as it is known, whoever has overheard an update can send it again.
SECRET_INTERVALS = 2
FORMER_INTERVALS = 2
SECRET_BYTES = 16
# Tunnels that were torn down, whose last update nobody can send again.
TORN_DOWN_KEPT = 4096
# A host asks once in a query's interval, or as often as its NAT wants. One address, which may be a NAT's with
# many hosts behind it, is answered so often in a second.
ANSWERS_PER_SECOND = 20.0
# Each group that somebody begins to want, or wants of other sources, may cost the network upstream a report,
# and its routers a route. All tunnels of an address may fill up at once; afterwards it is so many a second.
CHANGES_PER_SECOND = 10.0
# Updates of one address are read as far as they have so many bytes at once, and so many a second: a long one
# takes as much time as a thousand packets.
UPDATE_BYTES_AT_ONCE, UPDATE_BYTES_PER_SECOND = 1 << 18, 1 << 14
# Of a group, of a tunnel; and of all its groups so many on average: each ten sources take a descriptor.
SOURCES_MAX, SOURCES_A_GROUP = 128, 16
# To look at all that tunnels want takes time, so what is no longer wanted ends up to so much later.
EXPIRE_SECONDS = 1.0
# Senders to groups whose takers are remembered. More may be forged than there are.
TAKERS_KEPT = 4096
RESPONSE_SECONDS = 0.1  # RFC 7450 section 5.3.3.3 has it as short as it can be said
# Where a query comes from: any address will do (section 5.2.1), but a router's is one of the link.
_FROM_4, _FROM_6 = IPv4Address("0.0.0.0"), IPv6Address("fe80::1")


class AmtRelay:
    """All tunnels of a relay. One thread's."""

    def __init__(
        self,
        addresses: Mapping[int, Address],
        limits: RelayLimits,
        now: float,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``addresses`` are those that it is to be asked at, by IP version."""
        self.ignored: Counter[str] = Counter()  # messages, by reason
        self.tunnels: dict[UdpEnd, RelayedTunnel] = {}
        self.edition = 0  # another one whenever what is wanted, or by whom, has changed
        self._addresses = addresses
        self._limits = limits
        self._random = random
        self._secret, self._former = random(SECRET_BYTES), b""
        self._secret_since = now
        self._torn_down: OrderedDict[tuple[UdpEnd, bytes], None] = OrderedDict()
        self._answers = HostBudgets(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND)
        self._changes = HostBudgets(limits.changes_at_once, CHANGES_PER_SECOND)
        self._updates = HostBudgets(UPDATE_BYTES_AT_ONCE, UPDATE_BYTES_PER_SECOND)
        self._takers: dict[tuple[Address, Address], tuple[UdpEnd, ...]] = {}  # by group and source
        self._per_host: Counter[Address] = Counter()  # tunnels, by host_of()
        self._expires_at = math.inf  # monotonic seconds; nothing ends earlier

    # -- what is wanted, and by whom

    def wanted(self) -> dict[Address, SourceFilter]:
        """What all tunnels want together, of the sources that it comes from."""
        filters: dict[Address, list[SourceFilter]] = {}
        for tunnel in self.tunnels.values():
            for group, wanted in tunnel.groups.items():
                filters.setdefault(group, []).append(limited(wanted.filter, self._limits.sources))
        return {group: merged(each) for group, each in filters.items()}

    def takers(self, group: Address, source: Address) -> tuple[UdpEnd, ...]:
        """Where a datagram of a sender to a group is to go."""
        key = group, source
        if (found := self._takers.get(key)) is None:
            if len(self._takers) >= TAKERS_KEPT:
                self._takers.clear()
            is_taken = self._limits.takes_from(source)
            found = self._takers[key] = tuple(
                end for end, tunnel in self.tunnels.items() if is_taken and tunnel.wants(group, source)
            )
        return found

    def advertise(self, addresses: Mapping[int, Address]) -> None:
        """Be asked at these addresses from now on, by IP version."""
        self._addresses = addresses

    def limit(self, limits: RelayLimits) -> None:
        """Give this from now on; what is beyond it ends, of tunnels and groups those that came last."""
        self._limits = limits
        self._changes.most = limits.changes_at_once
        tunnels, self.tunnels = self.tunnels, {}
        self._per_host.clear()
        for end, tunnel in tunnels.items():
            if limits.serves(end[0]) and self._is_below_limits(end[0]):
                allowed = [group for group in tunnel.groups if limits.allows(group)]
                tunnel.groups = {group: tunnel.groups[group] for group in allowed[: limits.max_groups]}
                self._settle(tunnel)
        self._changed()

    def _changed(self) -> None:
        self.edition += 1
        self._takers.clear()

    # -- messages

    def take(self, message: bytes, end: UdpEnd, now: float) -> list[TunnelMessage]:
        """Take a message from an address and port. Returns what is to be sent."""
        if not self._limits.serves(end[0]):
            self.ignored[STRANGER] += 1
            return []
        match read(message):
            case RelayDiscovery(nonce):
                return self._advertise(nonce, end, now)
            case TunnelRequest(nonce, is_mld):
                return self._ask(nonce, end, now, is_mld=is_mld)
            case TunnelUpdate() as update:
                self._update(update, end, now)
            case TunnelTeardown() as teardown:
                self._tear_down(teardown, now)
            case _:
                self.ignored[MALFORMED] += 1
        return []

    def _advertise(self, nonce: bytes, end: UdpEnd, now: float) -> list[TunnelMessage]:
        if (address := self._addresses.get(end[0].version)) is None or not self._may_answer(end[0], now):
            return []
        return [TunnelMessage(build(RelayAdvertisement(nonce, address)), end)]

    def _ask(self, nonce: bytes, end: UdpEnd, now: float, *, is_mld: bool) -> list[TunnelMessage]:
        if not self._may_answer(end[0], now):
            return []
        self._renew_secret(now)
        gateway = GatewayAddress(*end) if self._limits.teardown else None
        query = TunnelQuery(
            nonce,
            _mac(self._secret, GatewayAddress(*end), nonce),
            self._general_query(is_mld=is_mld),
            full=end not in self.tunnels and not self._has_room(end[0], now),
            gateway=gateway,
        )
        return [TunnelMessage(build(query), end)]

    def _general_query(self, *, is_mld: bool) -> bytes:
        query = MembershipQuery(
            response_seconds=RESPONSE_SECONDS, interval_seconds=self._limits.query_seconds
        )
        if is_mld:
            body = mld.build_query(query, _FROM_6, mld.ALL_NODES)
            return build_ip(IpPacket(_FROM_6, mld.ALL_NODES, ICMPV6, MEMBERSHIP_TTL, body, router_alert=True))
        body = igmp.build_query(query)
        packet = IpPacket(_FROM_4, igmp.ALL_SYSTEMS, IGMP, MEMBERSHIP_TTL, body, router_alert=True)
        return build_ip(packet, MEMBERSHIP_TOS)

    def _update(self, update: TunnelUpdate, end: UdpEnd, now: float) -> None:
        if not self._is_proven(update.mac, GatewayAddress(*end), update.nonce, now):
            return
        if (end, update.nonce) in self._torn_down:
            self.ignored[UNPROVEN] += 1
            return
        if not self._updates.take(end[0], now, len(update.packet)):
            self.ignored[TOO_OFTEN] += 1
            return
        report = read_membership(update.packet)
        if not isinstance(report, MembershipReport):
            self.ignored[MALFORMED] += 1
            return
        tunnel = self.tunnels.get(end)
        if tunnel is None:
            if not self._has_room(end[0], now):
                self.ignored[TOO_MANY_TUNNELS] += 1
                return
            self._make_room(end[0], now)
            tunnel = RelayedTunnel(end, since=now, heard=now)
        tunnel.prove(now)
        if [record for record in report.records if self._apply(record, tunnel, now)]:
            self._settle(tunnel)
            self._changed()

    def _tear_down(self, teardown: TunnelTeardown, now: float) -> None:
        """End the tunnel of the address in the message, which its MAC is for: the host has another now."""
        gateway = teardown.gateway
        if not self._is_proven(teardown.mac, gateway, teardown.nonce, now):
            return
        end = gateway.address, gateway.port
        self._torn_down[end, teardown.nonce] = None
        if len(self._torn_down) > TORN_DOWN_KEPT:
            self._torn_down.popitem(last=False)
        self.forget(end)

    def forget(self, end: UdpEnd) -> None:
        """Nobody is there any more, or is to be."""
        if self.tunnels.pop(end, None) is not None:
            host = host_of(end[0])
            self._per_host[host] -= 1
            if not self._per_host[host]:
                del self._per_host[host]
            self._changed()

    # -- what a tunnel wants

    def _apply(self, record: GroupRecord, tunnel: RelayedTunnel, now: float) -> bool:
        """Returns True if that has changed what is wanted."""
        group, until = record.group, now + self._lasts_seconds
        known = tunnel.groups.get(group)
        before = WantedGroup() if known is None else known
        wanted = before.after(record, until)
        is_change = not wanted.is_like(before)
        reason = self._refusal(wanted, group, tunnel)
        if not reason and is_change and not wanted.is_nothing and not self._changes.take(tunnel.end[0], now):
            reason = TOO_OFTEN
        if reason:
            self.ignored[reason] += 1
            return False
        if wanted.is_nothing:
            tunnel.groups.pop(group, None)
        else:
            tunnel.groups[group] = wanted
            self._expires_at = min(self._expires_at, until)
        return is_change

    def _refusal(self, wanted: WantedGroup, group: Address, tunnel: RelayedTunnel) -> str:
        """Why a tunnel may not have that; "" if it may."""
        if wanted.is_nothing:
            return ""
        limits = self._limits
        if not limits.allows(group) or not (wanted.exclude or any(map(limits.takes_from, wanted.sources))):
            return NOT_ALLOWED
        if wanted.exclude and is_source_specific(group):  # RFC 4604 section 2.2
            return WITHOUT_SOURCE
        is_new = group not in tunnel.groups
        of_others = sum(len(one.sources) for other, one in tunnel.groups.items() if other != group)
        most = min(SOURCES_MAX, max(SOURCES_MAX, SOURCES_A_GROUP * limits.max_groups) - of_others)
        if (is_new and len(tunnel.groups) >= limits.max_groups) or len(wanted.sources) > most:
            return TOO_MANY_GROUPS
        return ""

    def _settle(self, tunnel: RelayedTunnel) -> None:
        """Keep a tunnel while it wants something."""
        for group in [group for group, wanted in tunnel.groups.items() if wanted.is_nothing]:
            del tunnel.groups[group]
        if not tunnel.groups:
            self.forget(tunnel.end)
        elif tunnel.end not in self.tunnels:
            self.tunnels[tunnel.end] = tunnel
            self._per_host[host_of(tunnel.end[0])] += 1

    # -- time

    @property
    def _lasts_seconds(self) -> float:
        """How long what was reported is wanted: RFC 3376 section 8.4, and a while for the tunnel."""
        return DEFAULT_ROBUSTNESS * self._limits.query_seconds + 10.0

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return self._expires_at if self.tunnels else math.inf

    def expire(self, now: float) -> None:
        """Forget what has not been reported for too long."""
        if now < self.deadline:
            return
        for tunnel in [*self.tunnels.values()]:
            left = {group: wanted.at(now) for group, wanted in tunnel.groups.items()}
            is_changed = any(not left[group].is_like(wanted) for group, wanted in tunnel.groups.items())
            tunnel.groups = left
            if is_changed:
                self._settle(tunnel)
                self._changed()
        wanted = (each for tunnel in self.tunnels.values() for each in tunnel.groups.values())
        earliest = min((end for each in wanted for end in each.ends()), default=math.inf)
        self._expires_at = max(earliest, now + EXPIRE_SECONDS)

    # -- who may ask

    def _has_room(self, address: Address, now: float) -> bool:
        return self._is_below_limits(address) or bool(self._left_behind(address, now))

    def _make_room(self, address: Address, now: float) -> None:
        """For one more of a host that has room: where it has come from another port, the one before goes."""
        if not self._is_below_limits(address):
            self.forget(min(self._left_behind(address, now), key=lambda end: self.tunnels[end].heard))

    def _is_below_limits(self, address: Address) -> bool:
        of_host = self._per_host[host_of(address)]
        return len(self.tunnels) < self._limits.max_tunnels and of_host < self._limits.max_per_address

    def _left_behind(self, address: Address, now: float) -> list[UdpEnd]:
        """Tunnels of a host from which nothing is heard any more: it or its NAT may have another port now."""
        host, pause = host_of(address), self._limits.query_seconds
        tunnels = self.tunnels.items() if self._per_host[host] else ()
        return [end for end, one in tunnels if host_of(end[0]) == host and one.is_overdue(now, pause)]

    def _may_answer(self, address: Address, now: float) -> bool:
        """Return True if an address, which may be forged, is to be answered once more."""
        if self._answers.take(address, now):
            return True
        self.ignored[TOO_OFTEN] += 1
        return False

    def _is_proven(self, mac: bytes, gateway: GatewayAddress, nonce: bytes, now: float) -> bool:
        known_until = self._secret_since + FORMER_INTERVALS * self._limits.query_seconds
        former = self._former if now < known_until else b""
        for secret in filter(None, (self._secret, former)):
            if hmac.compare_digest(_mac(secret, gateway, nonce), mac):
                return True
        self.ignored[UNPROVEN] += 1
        return False

    def _renew_secret(self, now: float) -> None:
        if now >= self._secret_since + SECRET_INTERVALS * self._limits.query_seconds:
            self._secret, self._former = self._random(SECRET_BYTES), self._secret
            self._secret_since = now


def _mac(secret: bytes, gateway: GatewayAddress, nonce: bytes) -> bytes:
    """Section 5.3.5. It is the same for both families of groups: Linux asks for them with one nonce."""
    text = gateway.address.packed + gateway.port.to_bytes(2) + nonce
    return hmac.digest(secret, text, "sha256")[:MAC_BYTES]
