"""The trouble that a worker reports, where no other check explains it."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import WorkerSettings
from mcastd.doctor.captured import captured
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import by_itself
from mcastd.doctor.subject import Subject
from mcastd.status import SubscriptionStatus

# One that has begun since may still be on its way to what it needs, as a link to its peer.
SETTLED_SECONDS = 5.0


def worker(subject: Subject[WorkerSettings], _evidence: Evidence) -> Iterator[Said]:
    state = f"state: {subject.state} (status)"
    match subject.state:
        case "failed":
            yield Finding(
                "worker-crashed",
                Severity.BROKEN,
                f"it {subject.detail}",
                (state,),
                f"report it with the log: journalctl -u mcastd MCASTD_WORKER={subject.name}",
            )
        case "auto-restart":
            yield Finding("worker-waiting", Severity.BROKEN, subject.detail, (state,), _way_out(subject))
        case "" if subject.detail:  # there is no daemon: its sockets were tried
            tried = "its sockets were opened as the daemon would (doctor)"
            yield Finding("worker-waiting", Severity.BROKEN, subject.detail, (tried,), _way_out(subject))
        case "active" if subject.troubled and subject.since >= SETTLED_SECONDS:
            yield Finding(
                "worker-degraded",
                Severity.WARNING,
                f"it works, but not as it should: {subject.detail}",
                (state,),
                _way_out(subject),
            )
        case "inactive":
            start = f"mcastctl start-worker {subject.name}"
            yield Finding(
                "worker-stopped",
                Severity.HINT,
                "somebody has stopped it",
                (state,),
                start,
                ways=(Way(command=start),),
            )
    status = subject.now(SubscriptionStatus)
    if (hanging := status.hanging) is not None:  # a channel's status has it, too
        answer = f"no answer for {hanging.seconds:.0f} s"
        fix = "see whether its disk, or the server of its mount, answers: dmesg"
        if subject.settings.sends:
            yield Finding(
                "source-hanging",
                Severity.BROKEN,
                f"{hanging.path} does not answer: nothing is sent",
                (f"{answer} (status)",),
                fix,
            )
        else:
            yield Finding(
                "output-hanging",
                Severity.BROKEN,
                f"{hanging.path} does not answer: what comes is lost once the buffer is full",
                (f"{answer}; overflow: {status.counters.overflow} (status)",),
                fix,
            )
    if status.stale:
        age = status.last_datagram_age
        last = "no datagram ever" if age is None else f"last datagram {age:.0f} s ago"
        expected = getattr(subject.settings, "expect_every", None)
        yield Finding(
            "stale",
            Severity.BROKEN,
            f"nothing came for more than the {expected:g} s in which something is expected",
            (f"expect_every = {expected:g} s ({subject.table}); {last} (status)", *captured(status)),
            "see whether its sender runs, and whether this host hears it: mcastctl doctor --watch 10s",
        )


def _way_out(subject: Subject[WorkerSettings]) -> str:
    if not subject.way_out and subject.waits:
        return by_itself(subject.waits)
    return subject.way_out or f"journalctl -u mcastd MCASTD_WORKER={subject.name}"
