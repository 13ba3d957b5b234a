"""What keeps an AMT relay from serving gateways, as far as it shows at the relay."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import AmtRelaySettings
from mcastd.config.relay_addresses import format_end
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.listening import unheard_finding
from mcastd.doctor.local_senders import local_senders
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject, counted_more
from mcastd.status import AmtRelayStatus

# Groups, and gateways, that a finding names.
NAMED_MAX = 5
# Less no network takes (RFC 791), and no mtu may be.
MTU_MIN_BYTES = 576


def heard(subject: Subject[AmtRelaySettings], evidence: Evidence) -> Iterator[Said]:
    """Check that gateways can ask at the addresses that the relay listens at."""
    refused = subject.now(AmtRelayStatus).refused_listen
    for end in subject.settings.listen:
        if found := unheard_finding("amt-unheard", end[0], "gateways are to ask", subject.table, evidence):
            yield found
        elif why := refused.get(where := format_end(end)):
            yield Finding(
                "amt-unheard",
                Severity.BROKEN,
                f"it cannot listen at {where}: {why}",
                (f"refused_listen: {where}: {why} (status)",),
                f"see who has the port: {command('ss', '-lunp')}; or name another one in listen of"
                f" {subject.table}",
            )


def serving(subject: Subject[AmtRelaySettings], _: Evidence) -> Iterator[Said]:
    """Check that what gateways want comes to the relay, goes on, and fits into their tunnels."""
    now, before = subject.now(AmtRelayStatus), subject.before(AmtRelayStatus)
    if (count := counted_more(now.counters.dropped, before.counters.dropped, "ttl")) > 0:
        yield Finding(
            "amt-ttl",
            Severity.BROKEN,
            "what comes to the relay has a TTL of 1, with which no router hands it on",
            (f"dropped for their TTL: {count} while watched, {now.counters.dropped['ttl']} in all (status)",),
            "have the sender set a TTL of 2 or more",
        )
    yield from local_senders(now.counters.dropped, before.counters.dropped)
    if (count := counted_more(now.counters.missed, before.counters.missed, "too-big")) > 0:
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
