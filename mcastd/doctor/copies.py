"""The ways of a channel with copies: what keeps one from sending while others go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mcastd.config import OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.interfaces import interface
from mcastd.doctor.quoting import counted
from mcastd.doctor.subject import Subject
from mcastd.status import ChannelStatus


def copies(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check that each way works: receivers that lose the other one have nothing left."""
    ways = zip(subject.settings.by_leg(), subject.now(ChannelStatus).legs, strict=False)
    for index, (settings, leg) in enumerate(ways):
        if not leg.trouble:
            continue
        key = f"copies[{index - 1}]" if index else ""
        # Of the interface alone: the status is that of all ways together
        found = interface(replace(subject, settings=settings, status=None, key=key), evidence)
        why = next((one for one in found if isinstance(one, Finding)), None)
        yield Finding(
            "leg-down",
            Severity.WARNING,
            f"one of its ways is down: nothing goes to {leg.group} port {leg.port}, the others go on",
            (
                f"{leg.trouble} (status)",
                *(() if why is None else why.evidence),
                f"sent: {leg.sent}; dropped: {counted(leg.dropped)} (status)",
            ),
            f"journalctl -u mcastd MCASTD_WORKER={subject.name}" if why is None else why.fix,
            # A line for the table of a copy is none for that of its channel
            ways=() if why is None else tuple(way for way in why.ways if way.command or not key),
        )
