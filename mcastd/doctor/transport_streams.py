"""What the checks of a subscription's transport stream say: ``payload = "ts"``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mcastd.config import InboundSubscription
from mcastd.counters import TransportCheck, copy_of
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.subject import Subject
from mcastd.status import SubscriptionStatus, TransportStatus, TransportTrouble

FIX = (
    "look for it at the sender and on the way: mcastctl status has the PIDs, and when each check failed last;"
    ' protocol = "rtp" tells what the network loses from what the sender does wrong'
)

# Of datagrams that do not consist of whole packets, if nothing else is wrong.
DATAGRAMS_FIX = (
    "the packets run over the ends of datagrams, which not all equipment takes: have the sender put"
    " whole packets into each, as ffmpeg does with ?pkt_size=1316 behind udp://GROUP:PORT"
)


class _Lack(NamedTuple):
    """What a transport stream lacks."""

    what: str
    fix: str


LACKS = {
    TransportTrouble.NO_SYNC: _Lack(
        "what comes is no transport stream: it does not consist of packets of 188 bytes",
        "have the sender send a transport stream, or take payload out of {table}",
    ),
    TransportTrouble.NO_PAT: _Lack(
        "the transport stream that comes has no program association table (PAT), so players find no program",
        "have the sender put PAT and PMT into it, twice a second at least",
    ),
    TransportTrouble.NO_PMT: _Lack(
        "the transport stream that comes lacks the map (PMT) of a program, so players find nothing in it",
        "have the sender put the map into it, twice a second at least, or take the program out of its PAT",
    ),
    TransportTrouble.NO_PID: _Lack(
        "the transport stream that comes lacks pictures or sound that belong to a program",
        "see what feeds the sender's multiplexer: one of its inputs is silent",
    ),
}


def unusable(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that what comes can be shown: it is a transport stream, with its tables and streams."""
    ts = subject.now(SubscriptionStatus).ts
    if ts is None or ts.trouble is None:
        return
    lack = LACKS[ts.trouble]
    fix, ways = lack.fix.format(table=subject.table), tuple[Way, ...]()
    if ts.trouble is TransportTrouble.NO_SYNC and ts.resembles_rtp:
        line = 'protocol = "rtp"'
        fix = f"it looks like a transport stream in RTP: {line} in {subject.table}"
        ways = (Way(table=subject.table, lines=(line,)),)
    yield Finding("ts-unusable", Severity.BROKEN, lack.what, tuple(_read(ts)), fix, ways=ways)


def errors(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the transport stream had no errors, while the doctor watched or before."""
    ts = subject.now(SubscriptionStatus).ts
    if ts is None or not ts.counters.errors.total():
        return
    grown = copy_of(ts.counters).errors
    grown.subtract(before.counters.errors if (before := _before(subject)) is not None else grown.copy())
    if now := +grown:
        found = ", ".join(f"{check} {count}" for check, count in now.items())
        yield Finding(
            "ts-errors-now",
            Severity.WARNING,
            "the transport stream that comes has errors",
            (f"{found} in {evidence.watched:.3g} s", *_read(ts)),
            _fix(now),
        )
    else:
        yield Finding(
            "ts-errors-earlier",
            Severity.HINT,
            "the transport stream that comes had errors before, but none while being watched",
            tuple(_read(ts)),
            _fix(+ts.counters.errors),
        )


def _fix(errors: Iterable[str]) -> str:
    return DATAGRAMS_FIX if {*errors} == {TransportCheck.DATAGRAM} else FIX


def _before(subject: Subject[InboundSubscription]) -> TransportStatus | None:
    return subject.before(SubscriptionStatus).ts if subject.earlier else None


def _read(ts: TransportStatus) -> Iterator[str]:
    counted = {check: count for check, count in ts.counters.errors.items() if count}
    yield f"errors of {ts.counters.packets} packets: " + (
        ", ".join(f"{check} {count}" for check, count in counted.items()) or "none"
    )
    if last := min(ts.last_error_ages.items(), key=lambda item: item[1], default=None):
        yield f"the last: {last[0]}, {last[1]:.3g} s ago"
