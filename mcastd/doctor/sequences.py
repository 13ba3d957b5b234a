"""What numbered datagrams say of the network, and why none of them may be received though they come."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.captured import captured
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.subject import Subject
from mcastd.status import Misfit, SubscriptionStatus

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


def refused(subject: Subject[InboundSubscription], _: Evidence) -> Iterator[Said]:
    """Check that the settings of the protocol fit what comes: of all of it, or of a leg."""
    status = subject.now(SubscriptionStatus)
    if (misfit := status.misfit) is not None:
        yield Finding(
            "all-refused",
            Severity.BROKEN,
            f"datagrams come, and none of them is received: {misfit.comes}",
            (_counted(misfit, status),),
            _way_out(misfit, subject),
        )
    labels = [leg.label for leg in subject.settings.legs]
    for label, leg in zip(labels, status.legs, strict=False):
        if (misfit := leg.misfit) is not None:
            yield Finding(
                "leg-refused",
                Severity.WARNING,
                f"leg {label} brings nothing of use, so nothing protects the others: {misfit.comes}",
                (f"received {leg.received} by it", _counted(misfit, status)),
                _way_out(misfit, subject),
            )


def _counted(misfit: Misfit, status: SubscriptionStatus) -> str:
    return f"dropped as {misfit.reason}: {status.counters.dropped[misfit.reason]} datagrams (status)"


def _way_out(misfit: Misfit, subject: Subject[InboundSubscription]) -> str:
    sender = "see what its sender sends, and whether group and port are those that are meant"
    if misfit.protocol:
        change = f'protocol = "{misfit.protocol}" in {subject.table}'
    elif misfit.setting:
        change = f"{misfit.setting} in protocol of {subject.table}"
    else:
        return sender
    return f"{change}, if that is what is meant; else {sender}"
