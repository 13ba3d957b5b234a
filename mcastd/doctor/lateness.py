"""A channel that has times to keep, on a host that gives its thread no processor when it is due."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mcastd.config import OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import by_drop_in, own_unit
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import sent_meanwhile
from mcastd.doctor.subject import Subject

# Of what is sent while it is watched, more than this share and more than this number are late.
LATE_SHARE = 0.01
LATE_DATAGRAMS = 3
# A datagram is late by so much at least.
LATE_SECONDS = 0.001
# sched(7); other policies are real-time ones.
USUAL_POLICIES = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_BATCH: "SCHED_BATCH", os.SCHED_IDLE: "SCHED_IDLE"}
# Above all threads of the usual policies, below those of the kernel's own.
PRIORITY = 10


def lateness(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check that a channel by the times of its source keeps them, or has the priority for it."""
    observation, policy = evidence.observation, USUAL_POLICIES.get(os.sched_getscheduler(0))
    if subject.settings.timing is None or policy is None or observation is None:
        return
    if observation.before is None or observation.after is None:
        return
    sent = sent_meanwhile(subject)
    waited = observation.after.waited - observation.before.waited
    if sent.late <= max(LATE_DATAGRAMS, LATE_SHARE * sent.sent) or waited < LATE_SECONDS * sent.late:
        return
    if unit := own_unit():
        fix = by_drop_in(unit, "CPUSchedulingPolicy=fifo")
        words, ways = fix.words, fix.ways
    else:
        words = command("chrt", "--all-tasks", "--fifo", "--pid", PRIORITY, os.getpid())
        ways = (Way(command=words),)
    yield Finding(
        "sends-late",
        Severity.WARNING,
        "it sends late: other work of this host has the processors when it is due, and it has no priority",
        (
            f"late: {sent.late} of {sent.sent} sent while watching (status)",
            f"threads of the daemon waited {waited:.3g} s for a processor (/proc/self/task/*/schedstat)",
            f"its policy is {policy} (sched_getscheduler)",
        ),
        words,
        ways=ways,
    )
