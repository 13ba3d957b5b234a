"""What keeps an AMT relay from serving gateways, as far as it shows at the relay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mcastd.config import AmtRelaySettings
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject
from mcastd.ip import Address
from mcastd.status import AmtRelayStatus

# Groups, and gateways, that a finding names.
NAMED_MAX = 5
# Less no network takes (RFC 791), and no mtu may be.
MTU_MIN_BYTES = 576


class Unheard(NamedTuple):
    """Why nothing gets to an address that this host is to have: what a finding says of it."""

    what: str
    evidence: tuple[str, ...]
    fix: str
    ways: tuple[Way, ...] = ()


def unheard_at(address: Address, use: str, table: str, evidence: Evidence) -> Unheard | None:
    """Check that an interface that is up has an address; None if so. ``use``: "gateways are to ask"."""
    if address.is_unspecified or address.is_loopback:
        return None
    having = [one for one in evidence.host.interfaces.values() if address in one.addresses]
    if any(one.up for one in having):
        return None
    if not having:
        return Unheard(
            f"no interface has {address}, at which {use}",
            (f"listen = {address} ({table}); it is none of this host's (rtnetlink)",),
            f"give it to an interface: ip address add {address}/PREFIX dev INTERFACE; or name another one"
            f" in {table}",
        )
    up = command("ip", "link", "set", having[0].name, "up")
    return Unheard(
        f"{having[0].name} is down, whose address is {address}, at which {use}",
        (f"flags of {having[0].name} have no UP (rtnetlink)",),
        up,
        (Way(command=up),),
    )


def heard(subject: Subject[AmtRelaySettings], evidence: Evidence) -> Iterator[Said]:
    """Check that gateways can ask at the addresses that the relay listens at."""
    for address, _ in subject.settings.listen:
        if unheard := unheard_at(address, "gateways are to ask", subject.table, evidence):
            yield Finding(
                "amt-unheard",
                Severity.BROKEN,
                unheard.what,
                unheard.evidence,
                unheard.fix,
                ways=unheard.ways,
            )


def serving(subject: Subject[AmtRelaySettings], _: Evidence) -> Iterator[Said]:
    """Check that what gateways want comes to the relay, goes on, and fits into their tunnels."""
    now, before = subject.now(AmtRelayStatus), subject.before(AmtRelayStatus)
    if (count := _more(now.counters.dropped, before.counters.dropped, "ttl")) > 0:
        yield Finding(
            "amt-ttl",
            Severity.BROKEN,
            "what comes to the relay has a TTL of 1, with which no router hands it on",
            (f"dropped for their TTL: {count} while watched, {now.counters.dropped['ttl']} in all (status)",),
            "have the sender set a TTL of 2 or more",
        )
    if (count := _more(now.counters.missed, before.counters.missed, "too-big")) > 0:
        paths = [f"{one.address}: {one.path_mtu}" for one in now.gateways if one.path_mtu is not None]
        told = f"; the path to {', '.join(paths[:NAMED_MAX])} (ICMP)" if paths else ""
        yield Finding(
            "amt-too-big",
            Severity.WARNING,
            f"datagrams do not fit into tunnels of {now.mtu} bytes, and must not be cut",
            (f"missed as too-big: {count} while watched{told} (status)",),
            "have the sender send smaller datagrams: 1316 bytes, or 1442 at most where the MTU is 1500",
        )
    narrow = {one.address: one.path_mtu for one in now.gateways if (one.path_mtu or one.mtu) < one.mtu}
    if least := min(filter(None, narrow.values()), default=0):
        line = f"mtu = {max(least, MTU_MIN_BYTES)}"
        named = list(narrow.items())[:NAMED_MAX]
        yield Finding(
            "amt-path",
            Severity.WARNING,
            f"a router on the way to {', '.join(address for address, _ in named)} takes no packets as long as"
            " the relay sends: those do not arrive",
            tuple(f"the path to {address}: {mtu} bytes (ICMP, status)" for address, mtu in named),
            f"{line} in {subject.table}",
            ways=(Way(table=subject.table, lines=(line,)),),
        )
    if now.silent:
        where = f"-i {now.interfaces[0]} " if now.interfaces else ""
        yield Finding(
            "amt-dry",
            Severity.HINT,
            f"gateways want {', '.join(now.silent[:NAMED_MAX])}, of which nothing comes to the relay",
            (f"joined on {', '.join(now.interfaces) or 'no interface'}; no packet came (status)",),
            "see whether the sender runs, and whether its network brings it here:"
            f" mcastctl listen {where}{now.silent[0]}:PORT",
        )


def _more(now: dict[str, int], before: dict[str, int], reason: str) -> int:
    return now.get(reason, 0) - before.get(reason, 0)
