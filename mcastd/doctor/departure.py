"""Whether what a channel sends leaves its interface, and what keeps it back."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import OutboundChannel
from mcastd.doctor.blame import rules_of, taken
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import sent_meanwhile, unwatched
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Observation
from mcastd.net.interfaces import Interface
from mcastd.net.queues import FAST
from mcastd.net.ruleset import OUTBOUND, Facts
from mcastd.status import ChannelStatus

# Share of what a full queue takes that the channel is to send: the queue has to get empty again.
ROOM_SHARE = 0.8
# Seconds between datagrams that are proposed at least.
INTERVAL_MIN_SECONDS = 1e-6
# Datagrams that must have been sent before none on the wire means something.
SENT_MIN_DATAGRAMS = 3


def departure(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check that what a channel sends leaves its interface."""
    settings = subject.settings
    if settings.ttl == 0:
        return
    ways = evidence.ways(subject)
    if not ways or not subject.state:
        return
    refused = sent_meanwhile(subject).refused["EPERM"]
    ended_by_it = subject.errno == "EPERM" and subject.now(ChannelStatus).counters.refused["EPERM"] > 0
    facts = Facts(settings.group, settings.port, ways[0].name, ttl=settings.ttl)
    skipped = unwatched("departure", evidence)
    observation = evidence.observation
    if refused or ended_by_it:
        seen = f"refused: EPERM {refused} times while watching (status); {subject.detail}"
        what = f"refuses what it sends on {ways[0].name}"
        rules = rules_of(facts, OUTBOUND, observation or Observation(0.0))
        yield from taken("departure", Severity.BROKEN, what, (seen,), rules)
    elif observation is not None and (full := _queue(subject, settings, ways[0], observation)):
        yield full
    elif skipped is None and observation is not None:
        yield from _silent(subject, ways[0], facts, observation)
    if skipped:
        yield skipped


def _queue(
    subject: Subject[OutboundChannel], settings: OutboundChannel, way: Interface, observation: Observation
) -> Finding | None:
    """A queue of the interface that had no room for what the channel sends, and counted that, too."""
    refused = sent_meanwhile(subject).refused["ENOBUFS"]
    if not refused or observation.before is None or observation.after is None:
        return None
    before, queue = (kernel.queues.get(way.index) for kernel in (observation.before, observation.after))
    if before is None or queue is None or not (dropped := (queue.drops - before.drops) % (1 << 32)):
        return None
    ways, words = [], []
    if not settings.source.has_schedule:
        line = _slower(subject, settings, observation.seconds)
        ways.append(Way(table=subject.table, lines=(line,)))
        words.append(f"{line} in {subject.table}")
    if queue.kind == FAST:
        longer = command("ip", "link", "set", way.name, "txqueuelen", max(1000, 2 * queue.length))
        ways.append(Way(command=longer))
        words.append(f"if it is full only at times: {longer}")
    else:
        words.append(f"a queue with more room: {command('tc', '-s', 'qdisc', 'show', 'dev', way.name)}")
    return Finding(
        "queue-full",
        Severity.WARNING,
        f"the send queue of {way.name} is full: it takes less than the channel sends",
        (
            f"refused by ENOBUFS {refused} times while watching; {_pace(settings)}",
            f"the queue of {way.name}, {queue}, dropped {dropped} packets (rtnetlink, as `tc -s qdisc`)",
        ),
        ", or ".join(words),
        ways=tuple(ways),
    )


def _pace(settings: OutboundChannel) -> str:
    if settings.rate is not None:
        return f"rate = {settings.rate} bit/s"
    if settings.interval is not None:
        return f"interval = {settings.interval:g} s"
    return f"a source with a schedule of its own ({settings.source.kind})"


def _slower(subject: Subject[OutboundChannel], settings: OutboundChannel, seconds: float) -> str:
    """The setting with which the channel sends less than the queue took while it was watched."""
    grown = sent_meanwhile(subject)
    sent, size = grown.sent, grown.sent_bytes
    if settings.rate is not None:
        fits = int(ROOM_SHARE * 8 * size / seconds) if size else settings.rate // 2
        return f"rate = {min(fits, settings.rate // 2) or 1}"
    fits_every = seconds / (ROOM_SHARE * sent) if sent else 0.0
    return f"interval = {max(fits_every, 2 * (settings.interval or 0.0), INTERVAL_MIN_SECONDS):.3g}"


def _silent(
    subject: Subject[OutboundChannel], way: Interface, facts: Facts, observation: Observation
) -> Iterator[Said]:
    sent, refused = _by_first_leg(subject)
    seen = observation.everything()
    left = sum(
        flow.packets
        for traffic in seen
        for key, flow in traffic.flows.items()
        if key.outgoing and (key.group, key.port) == (facts.group, facts.port)
    )
    if sent + refused >= SENT_MIN_DATAGRAMS and not left and observation.is_complete and subject.earlier:
        counted = f"sent grew by {sent}, refused by ENOBUFS {refused} times (status)"
        counted += f"; none of it was seen on {way.name} (AF_PACKET)"
        what = f"drops what it sends before it leaves {way.name}"
        rules = rules_of(facts, OUTBOUND, observation)
        yield from taken("departure", Severity.BROKEN, what, (counted,), rules)


def _by_first_leg(subject: Subject[OutboundChannel]) -> tuple[int, int]:
    """What a channel sent by its first way meanwhile, and how often the kernel said ENOBUFS there.

    With IP_RECVERR it says that for what a queue, or an nftables chain at egress, drops.
    """
    now, before = (status.legs[:1] for status in (subject.now(ChannelStatus), subject.before(ChannelStatus)))
    if not now or not before:
        grown = sent_meanwhile(subject)
        return grown.sent, grown.refused["ENOBUFS"]
    (leg,), (earlier,) = now, before
    return leg.sent - earlier.sent, leg.refused.get("ENOBUFS", 0) - earlier.refused.get("ENOBUFS", 0)
