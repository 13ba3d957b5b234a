"""What keeps a link from carrying what it might, as far as it shows at this end."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import LinkSettings
from mcastd.doctor.crowded_members import crowded_members
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.local_senders import local_senders
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject, counted_more
from mcastd.status import LinkStatus

# A link that is down for less may just be about to come up.
DOWN_SECONDS = 3.0
# Messages that paths of the Internet take, in tunnels as well; less is worth knowing.
USUAL_BYTES = 1300
# What IPv6 and UDP have before a message.
HEADERS_MAX_BYTES = 48
# Groups that a finding names.
NAMED_MAX = 5


def link(subject: Subject[LinkSettings], _: Evidence) -> Iterator[Said]:
    """Check that the peer is there and has the key, and that what it wants can go to it."""
    now = subject.now(LinkStatus)
    if not subject.running or now.seconds is None:
        return
    if now.up:
        yield from _carrying(subject, now)
    elif now.seconds >= DOWN_SECONDS:
        yield from _down(subject, now)


def _down(subject: Subject[LinkSettings], now: LinkStatus) -> Iterator[Said]:
    """The one thing that explains why the peer is not there."""
    earlier = subject.before(LinkStatus).counters.ignored
    seen = f"down for {now.seconds or 0:.0f} s; peer: {now.peer or 'not known'} (status)"

    def ignored(reason: str) -> tuple[str, str]:
        count, more = now.counters.ignored.get(reason, 0), counted_more(now.counters.ignored, earlier, reason)
        return seen, f"messages ignored as {reason}: {more} while watched, {count} in all (status)"

    reasons = now.ignored_since_up
    if trouble := now.hindrance or now.refusal:
        yield Finding(
            "link-unreachable",
            Severity.BROKEN,
            trouble,
            (seen, f"{'hindrance' if now.hindrance else 'refusal'}: {trouble} (status)"),
            f"{_where_to_look(subject.settings)}; or name another address or port in {subject.table}",
        )
    elif "own" in reasons:
        yield Finding(
            "link-loop",
            Severity.BROKEN,
            "it leads back to this very daemon",
            ignored("own"),
            f"name the other site in connect of {subject.table}; behind a router that maps ports, try it from"
            " outside",
        )
    elif "wrong-key" in reasons:
        yield Finding(
            "link-key",
            Severity.BROKEN,
            "somebody connects who has another key, and gets no answer",
            ignored("wrong-key"),
            f"have the same key at both ends ({subject.settings.key} here), and reload both: mcastctl reload",
        )
    elif subject.settings.connect is not None and "unexpected" in reasons:
        yield Finding(
            "link-both-connect",
            Severity.BROKEN,
            "both ends connect, and none listens",
            ignored("unexpected"),
            f"set listen in place of connect at the end that can be reached: here in {subject.table},"
            " or there",
        )
    elif "replayed" in reasons:
        yield Finding(
            "link-clock",
            Severity.BROKEN,
            "the peer's hellos are older than the last one: its clock was set back, or somebody repeats them",
            ignored("replayed"),
            "set the clock of the peer (timedatectl there); if it is right, give both ends another key"
            " (mcastd keygen), which makes void what somebody has recorded",
        )
    elif (end := subject.settings.connect) is not None:
        yield Finding(
            "link-silent",
            Severity.BROKEN,
            f"nobody answers at {now.connect}",
            (seen, f"local_port: {now.local_port} (status)"),
            "see whether mcastd runs there with listen, not with connect as here, for this IP version;"
            " whether firewalls pass UDP to it; and whether it says wrong-key: mcastctl status there;"
            f" {command('ping', end[0])}",
        )
    else:
        yield Finding(
            "link-silent",
            Severity.BROKEN,
            f"nobody connects to {now.listen}, not even with another key",
            (seen, f"local_port: {now.local_port} (status)"),
            "see whether mcastd runs at the other site with connect (if it has listen, too, one has to"
            f" connect){_by_one_version(subject.settings)}, and whether firewalls let UDP port"
            f" {now.local_port} in; the other end may say more: mcastctl doctor there",
        )


def _where_to_look(settings: LinkSettings) -> str:
    """For why there is no socket, or no way."""
    address = command("ip", "address")
    if settings.listen is None:
        return f"see what this host knows of the way ({command('ip', 'route')}, {address})"
    return (
        f"see which program has the port ({command('ss', '-lunp')}), and which addresses are here ({address})"
    )


def _by_one_version(settings: LinkSettings) -> str:
    """That "[::]" stands for addresses of IPv6 alone: of some programs it stands for those of IPv4, too."""
    if settings.listen is None or not settings.listen[0].is_unspecified:
        return ""
    version = settings.listen[0].version
    other = "0.0.0.0" if version == 6 else "[::]"
    return f' by IPv{version} (for IPv{10 - version} it is listen = "{other}")'


def _carrying(subject: Subject[LinkSettings], now: LinkStatus) -> Iterator[Said]:
    """What does not go, although the peer is there."""
    if now.security == "none":
        yield Finding(
            "link-in-clear",
            Severity.HINT,
            "it neither encrypts nor authenticates, which is for the inside of WireGuard or IPsec",
            (f"security: none; peer: {now.peer} (status)",),
            f"see that both ends are addresses of such a tunnel; else remove security from {subject.table},"
            " and set key (mcastd keygen makes one)",
        )
    if now.keys_differ:
        age = "not known" if now.key_age is None else f"{now.key_age:.0f} s"
        yield Finding(
            "link-key",
            Severity.BROKEN,
            "the peer makes no new keys with this end, as if it had another one: soon nothing goes any more",
            (f"keys_differ: true; key_age: {age} (status)",),
            f"have the same key at both ends ({subject.settings.key} here), and reload both: mcastctl reload",
        )
    before = subject.before(LinkStatus).counters
    if (count := counted_more(now.counters.unsent, before.unsent, "ttl")) > 0:
        yield Finding(
            "link-ttl",
            Severity.BROKEN,
            "what the peer wants has a TTL of 1, with which no router hands it on",
            (f"unsent for their TTL: {count} while watched, {now.counters.unsent['ttl']} in all (status)",),
            "have the sender set a TTL of 2 or more",
        )
    yield from local_senders(now.counters.unsent, before.unsent)
    if (count := counted_more(now.counters.unsent, before.unsent, "rate")) > 0:
        yield Finding(
            "link-rate",
            Severity.WARNING,
            "more is sent here than rate lets go to the peer",
            (f"unsent for the rate: {count} while watched, {now.counters.unsent['rate']} in all (status)",),
            f"raise rate in {subject.table}, or have send name fewer groups",
        )
    if now.too_narrow:
        yield Finding(
            "link-mtu",
            Severity.BROKEN,
            "an MTU on the way to the peer is below 1200 bytes: what is larger than that does not arrive",
            ("too_narrow: true (status)",),
            "raise the MTU of what has so small a one: an interface, a tunnel, a router on the way (tracepath"
            " to the peer)",
        )
    elif now.sizes_tried and now.message_bytes is not None and now.message_bytes < _usual_bytes(subject):
        yield Finding(
            "link-mtu",
            Severity.WARNING,
            f"messages of more than {now.message_bytes} bytes do not arrive at the peer: larger datagrams go"
            " in parts",
            (f"message_bytes: {now.message_bytes}, sizes_tried: true (status)",),
            "see which router on the way has a small MTU (tracepath to the peer); or have senders send"
            " smaller datagrams",
        )
    if now.refused_wants:
        named = ", ".join(now.refused_wants[:NAMED_MAX])
        yield Finding(
            "link-not-sent",
            Severity.HINT,
            f"the peer wants what send does not name: {named}",
            (f"refused_wants: {named}; send: {', '.join(now.send) or 'nothing'} (status)",),
            f"if it is to have it, add it to send in {subject.table}",
        )
    yield from crowded_members(now.queriers)
    if now.wants_left_out or now.wants_widened:
        yield _without_room(subject, now)


def _usual_bytes(subject: Subject[LinkSettings]) -> int:
    """No larger messages than ``mtu`` says are tried."""
    mtu = subject.settings.mtu
    return USUAL_BYTES if mtu is None else min(USUAL_BYTES, mtu - HEADERS_MAX_BYTES)


def _without_room(subject: Subject[LinkSettings], now: LinkStatus) -> Finding:
    if now.wants_left_out:
        severity = Severity.WARNING
        what = f"of the groups that are wanted, {now.wants_left_out} are too many to ask the peer for"
    else:
        severity = Severity.HINT
        what = (
            f"the peer is asked for {now.wants_widened} groups from any source, though only some are wanted:"
            " for so many sources there is no room"
        )
    return Finding(
        "link-wants",
        severity,
        what,
        (f"wants_left_out: {now.wants_left_out}; wants_widened: {now.wants_widened} (status)",),
        f"name prefixes of groups in want of {subject.table}; with transit, in want of the sites behind, or"
        " have send of the links to them name fewer groups",
    )
