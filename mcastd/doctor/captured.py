"""The captures that a subscription makes of what it loses: whether it can, and the last one as evidence."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import Permit, permit, permit_directory, refused
from mcastd.doctor.subject import Subject
from mcastd.inbound.capture_file import directory_of
from mcastd.status import SubscriptionStatus


def captures(subject: Subject[InboundSubscription], _evidence: Evidence) -> Iterator[Said]:
    """Check that what is kept before a loss can become a capture."""
    kept, settings = subject.now(SubscriptionStatus).kept, subject.settings.keep_before
    if settings is None or kept is None or not kept.error:
        return
    directory = directory_of(settings.directory)
    nearest = next(one for one in (directory, *directory.parents) if os.path.exists(one))
    another = f"give another directory for keep_before in {subject.table}"
    fix = Permit(f"mend that, and it is tried again by itself; or {another}", Way())
    seen: tuple[str, ...] = ()
    if refusal := refused(nearest, os.W_OK | os.X_OK):
        where, why = refusal
        seen = (f"{where}: {why} (access)",)
        fix, there = (permit(where, os.X_OK), directory) if where != nearest else permit_directory(directory)
        if there != directory:
            fix = Permit(
                f"{fix.words}; then give {there} as directory of keep_before in {subject.table}", Way()
            )
    yield Finding(
        "captures-failing",
        Severity.WARNING,
        kept.error,
        (f"keep_before ({subject.table}); captures that failed: {kept.failed} (status)", *seen),
        fix.words,
        ways=fix.ways,
    )


def captured(status: SubscriptionStatus) -> tuple[str, ...]:
    """Where the last one is; nothing if there is none."""
    kept = status.kept
    if kept is None or kept.last_capture is None:
        return ()
    return (f"captured ({', '.join(kept.last_reasons)}): {kept.last_capture} (status)",)
