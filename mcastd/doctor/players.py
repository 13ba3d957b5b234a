"""What keeps players from what they ask a gateway for, as far as it shows at the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mcastd.config import GatewaySettings, split_end
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.listening import unheard_finding, ways_to_listen
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject, counted_more
from mcastd.status import GatewayStatus, PlayedGroupStatus

# Groups, and players, that a finding names.
NAMED_MAX = 5
# A group that players have, and of which nothing has come for so long, is silent.
SILENT_SECONDS = 10.0
# What max_clients and max_per_address may be at most.
CLIENTS_MAX = 10_000


def listening(subject: Subject[GatewaySettings], evidence: Evidence) -> Iterator[Said]:
    """Check that players can connect where they are to, and not everybody else."""
    settings, now = subject.settings, subject.now(GatewayStatus)
    hosts = {end: ip_address(split_end(end)[0]) for end in settings.listen}
    for end, address in hosts.items():
        use, table = "players are to connect", subject.table
        if found := unheard_finding("gateway-unheard", address, use, table, evidence):
            yield found
        elif why := now.refused_listen.get(end):
            yield Finding(
                "gateway-unheard",
                Severity.BROKEN,
                f"it cannot listen at {end}: {why}",
                (f"refused_listen: {end}: {why} (status)",),
                f"{ways_to_listen(split_end(end)[1])}; or name another one in listen of {subject.table}",
            )
    everywhere = [end for end, address in hosts.items() if address.is_unspecified]
    if everywhere and not settings.allow_clients and settings.token is None:
        yield Finding(
            "gateway-open",
            Severity.HINT,
            "anybody who reaches this host by any of its addresses is served",
            (f"listen = {', '.join(everywhere)}, neither allow_clients nor token ({subject.table})",),
            f"name who may ask by allow_clients in {subject.table}, or ask for a token, or listen at an"
            " address of the network that the players are in",
        )
    name = now.refused_name
    if name and name not in settings.names:
        names = ", ".join(f'"{one}"' for one in (*settings.names, name))
        yield Finding(
            "gateway-name",
            Severity.HINT,
            f"players have asked for {name}, which is none of its names, and are refused",
            (f"refused for their name: {now.counters.refused.get('name', 0)} requests (status)",),
            f"if that is this host, and not a page that has its name lead here: names = [{names}] in"
            f" {subject.table}",
        )


def joining(subject: Subject[GatewaySettings], evidence: Evidence) -> Iterator[Said]:
    """Check that there are the interfaces on which groups are joined, once a player asks for them."""
    setting, host = subject.settings.interface, evidence.host
    named = setting if isinstance(setting, tuple) else (setting,) if setting else ()
    if not (missing := host.missing(named)):
        return
    has_none = len(missing) == len(named)
    have = ", ".join(sorted(one.name for one in host.interfaces.values())) or "none"
    yield Finding(
        "interface-missing",
        Severity.BROKEN if has_none else Severity.WARNING,
        f"there is no interface {', '.join(missing)}: {'no group is' if has_none else 'groups are not'}"
        " joined there for players",
        (f"interface of {subject.table}", f"interfaces: {have} (rtnetlink)"),
        f"name another one in interface of {subject.table}; if it is to come, wait: mcastd does",
    )


def playing(subject: Subject[GatewaySettings], _: Evidence) -> Iterator[Said]:
    """Check that there are places for players, that what they ask for comes, and that they take it."""
    now = subject.now(GatewayStatus)
    yield from _places(subject, now)
    yield from _silence(subject, now)
    yield from _slowness(subject, now)


def _places(subject: Subject[GatewaySettings], now: GatewayStatus) -> Iterator[Said]:
    settings, counters = subject.settings, now.counters
    before = subject.before(GatewayStatus).counters
    refused, in_all = counted_more(counters.refused, before.refused, "full"), counters.refused.get("full", 0)
    if refused or now.served >= settings.max_clients:
        line = f"max_clients = {min(CLIENTS_MAX, 2 * settings.max_clients)}"
        yield Finding(
            "gateway-full",
            Severity.WARNING,
            "all its places are taken: no more players are served",
            (
                f"{now.served} players of {settings.max_clients} (status)",
                f"refused as full: {refused} while watched, {in_all} in all (status)",
            ),
            f"{line} in {subject.table}, if the network to them takes as many streams",
            ways=(Way(table=subject.table, lines=(line,)),),
        )
    if refused := counted_more(counters.refused, before.refused, "per-address"):
        line = f"max_per_address = {min(CLIENTS_MAX, 2 * settings.max_per_address)}"
        yield Finding(
            "gateway-full",
            Severity.WARNING,
            f"an address that has {settings.max_per_address} players gets no more",
            (f"refused as per-address: {refused} while watched (status)",),
            f"if many players are behind one address, that of a proxy or a NAT: {line} in {subject.table}",
            ways=(Way(table=subject.table, lines=(line,)),),
        )
    if attempts := counted_more(counters.refused, before.refused, "shortage"):
        yield Finding(
            "gateway-full",
            Severity.WARNING,
            "there are no descriptors, or no memory, for more players: those who connect wait",
            (f"refused as shortage: {attempts} attempts while watched (status)",),
            f"what is short is in the detail of {command('mcastctl', 'status', subject.name)}: raise"
            " LimitNOFILE= of the service, or have fewer workers and players in one daemon",
        )


def _silence(subject: Subject[GatewaySettings], now: GatewayStatus) -> Iterator[Said]:
    """What players have asked for, or did just now, and what does not come."""
    known = {_told(one): one.received for one in subject.before(GatewayStatus).groups}
    silent = [
        one
        for one in now.groups
        if known.get(_told(one)) == one.received
        and (one.received == 0 or (one.players and (one.age or 0.0) >= SILENT_SECONDS))
    ]
    if not silent:
        return
    first = silent[0]
    where = f"-i {first.interfaces[0]} " if first.interfaces else ""
    sender = f" --source {first.sender}" if first.sender else ""
    listen = f"mcastctl listen {where}{_end(first)}{sender}"
    forgotten = ""
    if subject.settings.rejoin_every is None and any(one.received for one in silent):
        forgotten = (
            "; if groups come for some minutes and then no more, no querier asks for members there:"
            f' rejoin_every = "2min" in {subject.table}'
        )
    yield Finding(
        "gateway-dry",
        Severity.WARNING,
        f"players ask for {', '.join(_told(one) for one in silent[:NAMED_MAX])}, of which nothing comes here",
        tuple(_seen(one) for one in silent[:NAMED_MAX]),
        f"see whether the sender runs, and whether its network brings it here: {listen}; or name another"
        f" interface in {subject.table}{forgotten}",
    )


def _slowness(subject: Subject[GatewaySettings], now: GatewayStatus) -> Iterator[Said]:
    before = subject.before(GatewayStatus)
    dropped = counted_more(now.counters.dropped, before.counters.dropped, "slow")
    stalled = counted_more(now.counters.ended, before.counters.ended, "stalled")
    if not dropped and not stalled:
        return
    slow = [one for one in now.players if one.dropped]
    addresses = [*dict.fromkeys(one.address for one in slow)]
    named = ", ".join(addresses[:NAMED_MAX]) or "players that have gone since"
    yield Finding(
        "gateway-slow",
        Severity.WARNING,
        f"{named} {'takes' if len(addresses) == 1 else 'take'} less than what comes",
        (
            f"dropped as slow: {dropped} datagrams while watched; ended as stalled: {stalled} (status)",
            *(
                f"{one.address}, {one.path}: {one.dropped} datagrams dropped, {one.sent} sent,"
                f" {one.held_bytes} bytes wait (status)"
                for one in slow[:NAMED_MAX]
            ),
        ),
        "see what the network to them takes (Wi-Fi, a VPN): it has less room than the stream; a larger"
        f" client_buffer in {subject.table} bridges moments, not more",
    )


def _told(group: PlayedGroupStatus) -> str:
    return f"{group.group} port {group.port}{f' of {group.sender}' if group.sender else ''}"


def _end(group: PlayedGroupStatus) -> str:
    return f"[{group.group}]:{group.port}" if ":" in group.group else f"{group.group}:{group.port}"


def _seen(group: PlayedGroupStatus) -> str:
    where = ", ".join(group.interfaces) or "no interface"
    last = "no datagram came" if group.age is None else f"the last datagram came {group.age:.0f} s ago"
    trouble = f"; {group.trouble}" if group.trouble else ""
    return f"{_told(group)}: joined on {where}, {last}{trouble} (status)"
