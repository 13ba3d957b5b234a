"""What the doctor says of one subscription at a moment, in a few lines: for the comment of a capture."""

from __future__ import annotations

from collections.abc import Sequence

from mcastd.config import InboundSubscription
from mcastd.doctor import interfaces, memberships, outputs, sequences, worker
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.examine import examine, name_of
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Observation
from mcastd.inbound.keeper import Symptoms

# What a status and the host tell at once, to any user.
CHECKS = frozenset(
    name_of(check)
    for check in (
        *(interfaces.interface, memberships.membership, memberships.receive_buffer, memberships.overflow),
        *(sequences.network_loss, outputs.outputs, worker.worker),
    )
)


def in_brief(name: str, settings: InboundSubscription, symptoms: Symptoms) -> Sequence[str]:
    """The findings, worst first, each with its evidence and its fix."""
    trouble, now, before, seconds = symptoms
    subject = Subject(name, settings, "active", trouble, now, before)
    report = examine([subject], Evidence([subject], Observation(seconds)), CHECKS)
    lines = [f"it is degraded: {trouble}"] if trouble else []
    for finding in report.findings:
        lines += [
            f"{finding.cause} ({finding.severity}): {finding.what}",
            *(f"  {evidence}" for evidence in finding.evidence),
            f"  fix: {finding.fix}",
        ]
    return lines
