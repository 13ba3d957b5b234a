"""What the numbers of a subscription's datagrams say of the network."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.captured import captured
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.subject import Subject
from mcastd.status import SubscriptionStatus

FIX = (
    "look for it on the way: ports with errors or full queues (ethtool -S, the switch's counters), Wi-Fi, a"
    " sender that is faster than the link; rate and burst at the sender spread what it sends"
)


def network_loss(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that no number is missing, while the doctor watched or before, but for the kernel's part."""
    status = subject.now(SubscriptionStatus)
    sequence = status.sequence
    if sequence is None or not (lost := sequence.counters.lost):
        return
    before, overflow_before = lost, status.counters.overflow
    if subject.earlier:
        earlier = subject.before(SubscriptionStatus)
        before = 0 if earlier.sequence is None else earlier.sequence.counters.lost
        overflow_before = earlier.counters.overflow
    overflow = status.counters.overflow
    senders = ", ".join(
        f"{one.address}: {one.counters.lost}" for one in sequence.senders if one.counters.lost
    )
    read = f"lost {lost} of all that were numbered, by sender {senders or 'none that is still heard'}"
    if lost > before:
        here = overflow - overflow_before
        yield Finding(
            "network-loss-now",
            Severity.BROKEN,
            "the network loses datagrams now, not this host: their numbers do not come"
            if not here
            else "datagrams are lost on their way: their numbers do not come",
            (
                f"{lost - before} numbers missing in {evidence.watched:.3g} s; the kernel dropped {here}",
                read,
                *captured(status),
            ),
            FIX,
        )
    else:
        blame = "" if overflow else ", not this host"
        yield Finding(
            "network-loss-earlier",
            Severity.HINT,
            f"the network has lost datagrams before{blame}, but none while being watched",
            (read, f"overflow = {overflow}", *captured(status)),
            FIX,
        )
