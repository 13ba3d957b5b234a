"""The host's side of IGMPv3 and MLDv2 without a kernel: what it says of its memberships, as IP packets.

RFC 3376 section 5, RFC 3810 section 6. A gateway has no interface that its kernel could report on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from mcastd.ip import NO_SOURCE, Address, SourceFilter
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import (
    ICMPV6,
    IGMP,
    MEMBERSHIP_TOS,
    MEMBERSHIP_TTL,
    IpPacket,
    build_ip,
    read_ip,
)
from mcastd.protocols.membership import GroupRecord, MembershipQuery, MembershipReport, RecordKind
from mcastd.protocols.membership_packets import read_message

Wanted = Mapping[Address, SourceFilter]
"""Which sources of which groups are wanted."""

# Bytes of a report at most: with all headers it fits into 1280 bytes, the least that IPv6 carries.
REPORT_MAX_BYTES = 1100
# RFC 7450 section 5.2.1 lets a gateway send reports from the unspecified address.
_FROM_4, _FROM_6 = IPv4Address(0), IPv6Address(0)


def current_state(wanted: Wanted) -> list[GroupRecord]:
    """What a general query is answered with: RFC 3376 section 5.2."""
    return [
        _record(group, one, RecordKind.IS_INCLUDE, RecordKind.IS_EXCLUDE) for group, one in wanted.items()
    ]


def state_change(before: Sequence[Wanted], now: Wanted) -> list[GroupRecord]:
    """What is said when what is wanted has changed, maybe several times: the tables of RFC 3376 section 5.1.

    Whoever has heard of any of the states ``before`` knows after it what is wanted ``now``.
    """
    records: list[GroupRecord] = []
    for group in dict.fromkeys(group for wanted in (*before, now) for group in wanted):
        new = now.get(group, NO_SOURCE)
        olds = [wanted.get(group, NO_SOURCE) for wanted in before]
        if any(old.exclude != new.exclude for old in olds):
            records.append(_record(group, new, RecordKind.TO_INCLUDE, RecordKind.TO_EXCLUDE))
            if new.exclude:
                continue
            olds = [old for old in olds if not old.exclude]  # whoever has heard of these keeps their sources
        more = {source for old in olds for source in new.sources if source not in old.sources}
        less = {source for old in olds for source in old.sources if source not in new.sources}
        allowed, blocked = (less, more) if new.exclude else (more, less)
        for kind, sources in ((RecordKind.ALLOW, allowed), (RecordKind.BLOCK, blocked)):
            if sources:
                records.append(GroupRecord(kind, group, tuple(sorted(sources, key=int))))
    return records


def _record(group: Address, one: SourceFilter, include: RecordKind, exclude: RecordKind) -> GroupRecord:
    return GroupRecord(exclude if one.exclude else include, group, tuple(one.sources))


def report_packets(records: Iterable[GroupRecord], version: int) -> Iterator[bytes]:
    """IP packets of ``version`` with reports of these records."""
    if version == 4:
        for message in igmp.build_reports(records, REPORT_MAX_BYTES):
            to = igmp.ALL_IGMPV3_ROUTERS
            packet = IpPacket(_FROM_4, to, IGMP, MEMBERSHIP_TTL, message, router_alert=True)
            yield build_ip(packet, MEMBERSHIP_TOS)
        return
    for message in mld.build_reports(records, REPORT_MAX_BYTES, _FROM_6, mld.ALL_MLDV2_ROUTERS):
        packet = IpPacket(_FROM_6, mld.ALL_MLDV2_ROUTERS, ICMPV6, MEMBERSHIP_TTL, message, router_alert=True)
        yield build_ip(packet)


def read_membership(data: bytes) -> MembershipQuery | MembershipReport | None:
    """Read the message of IGMP or MLD in an IP packet of a tunnel. Returns None if there is none.

    It may come from any address: RFC 7450 sections 5.2.1 and 5.3.1.
    """
    packet = read_ip(data)
    return None if packet is None else read_message(packet)
