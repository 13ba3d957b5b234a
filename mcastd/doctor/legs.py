"""Whether the legs of a subscription protect from each other's failure."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.subject import Subject
from mcastd.status import SubscriptionStatus


def legs(subject: Subject[InboundSubscription], _: Evidence) -> Iterator[Said]:
    """Check that each leg brings its stream, and that they have nothing in common."""
    status = subject.now(SubscriptionStatus)
    labels = [leg.label for leg in subject.settings.legs]
    for label, leg in zip(labels, status.legs, strict=False):
        if leg.silent:
            yield Finding(
                "leg-silent",
                Severity.WARNING,
                f"leg {label} brings nothing, while another goes on: if that fails, too, the stream is gone",
                (
                    f"received {leg.received} by it, the last"
                    f" {'never' if leg.age is None else f'{leg.age:.3g} s ago'} (status)",
                    *((leg.trouble,) if leg.trouble else ()),
                ),
                "see what else is found of this leg; if nothing is, whether its sender sends, and its network"
                " hands it on",
            )
    if shared := status.shared_interface:
        yield Finding(
            "legs-shared",
            Severity.WARNING,
            f"all legs come by {shared}: they fail together, and protect from nothing there",
            tuple(
                f"leg {label}: joined on {', '.join(leg.joined)}"
                for label, leg in zip(labels, status.legs, strict=False)
            ),
            f"give each leg an interface of its own in {subject.table}",
        )
    elif status.shared_sender:
        yield Finding(
            "legs-shared",
            Severity.WARNING,
            f"all legs come from {status.shared_sender}: they fail together, and protect from nothing there",
            tuple(f"leg {label}: from {leg.sender}" for label, leg in zip(labels, status.legs, strict=False)),
            "have each sent from an address, and by an interface, of its own",
        )
