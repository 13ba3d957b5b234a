"""The ways of a channel with copies: what keeps one from sending while others go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mcastd.config import OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.interfaces import interface
from mcastd.doctor.subject import Subject
from mcastd.status import ChannelStatus


def copies(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check that each way works: receivers that lose the other one have nothing left."""
    for settings, leg in zip(subject.settings.by_leg(), subject.now(ChannelStatus).legs, strict=False):
        if not leg.trouble:
            continue
        # Of the interface alone: the status is that of all ways together
        found = interface(replace(subject, settings=settings, status=None), evidence)
        why = next((one for one in found if isinstance(one, Finding)), None)
        yield Finding(
            "leg-down",
            Severity.WARNING,
            f"one of its ways is down: nothing goes to {leg.group} port {leg.port}, the others go on",
            (
                f"{leg.trouble} (status)",
                *(() if why is None else why.evidence),
                f"sent: {leg.sent}; dropped: {leg.dropped} (status)",
            ),
            f"journalctl -u mcastd MCASTD_WORKER={subject.name}" if why is None else why.fix,
            ways=() if why is None else why.ways,
        )
