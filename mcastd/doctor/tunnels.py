"""Whether a tunnel brings what it is to bring."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import received_meanwhile
from mcastd.doctor.subject import Subject
from mcastd.protocols.amt import PORT, UNANSWERED_MAX
from mcastd.status import SubscriptionStatus, TunnelStatus


def tunnel(subject: Subject[InboundSubscription], _: Evidence) -> Iterator[Said]:
    """Check that a relay can be asked, answers, takes this host, and sends."""
    link = subject.now(SubscriptionStatus).link
    if link is None or (found := link.tunnel) is None:
        return
    asked = [*found.candidates] or [found.asked]
    pings = ", ".join(command("ping", one) for one in asked)
    read = f"phase: {found.phase}, unanswered: {found.unanswered} (tunnel, status)"
    if found.hindrance:
        yield Finding(
            "relay-unreachable",
            Severity.BROKEN,
            found.hindrance,
            (read, f"hindrance: {found.hindrance}"),
            f"see what this host knows of it ({command('getent', 'ahosts', found.asked)},"
            f" {command('ip', 'route')}, {command('ip', '-6', 'route')}), and mend that; or name another"
            f" relay, or local_port, in [amt] or via of {subject.table}",
        )
    elif found.full:
        yield Finding(
            "relay-full",
            Severity.BROKEN,
            f"the relay {found.relay or found.asked} takes no new gateways",
            (read, "its query has flag L (RFC 7450 section 5.1.4.4)"),
            f"wait, ask who runs it, or name another relay in [amt] or via of {subject.table}",
        )
    elif found.phase == "discovering" and found.unanswered >= UNANSWERED_MAX:
        yield Finding(
            "relay-silent",
            Severity.BROKEN,
            f"no AMT relay answers at {', '.join(asked)}: there is none, or UDP port {PORT} is blocked on the"
            " way",
            (read, *(f"{address}: known by {by} (status)" for address, by in found.candidates.items())),
            f"see whether it can be reached ({pings}) and whether firewalls pass UDP"
            f" to its port {PORT} and back to {found.local_port} here; or name another relay in [amt] or via"
            f" of {subject.table}",
        )
    elif found.phase == "requesting" and found.unanswered >= UNANSWERED_MAX:
        yield Finding(
            "relay-refuses",
            Severity.BROKEN,
            f"the relay {found.relay} advertises itself, and answers no request of this host",
            (read, f"local_port: {found.local_port}"),
            "relays of Linux know a gateway by its address and the first port that it had: wait until it has"
            " forgotten the old one, some 5 minutes, and keep local_port; behind one NAT only one host can"
            " have such a relay",
        )
    elif found.phase == "open" and not received_meanwhile(subject).received:
        yield from _dry(subject, found, read)


def _dry(subject: Subject[InboundSubscription], found: TunnelStatus, read: str) -> Iterator[Said]:
    foreign = found.dropped.get("foreign", 0)
    yield Finding(
        "tunnel-dry",
        Severity.WARNING,
        f"the tunnel to the relay {found.relay} is open, and brings nothing for"
        f" {subject.settings.group} port {subject.settings.port}",
        (read, f"it brought {found.received} packets so far, of which {foreign} nobody here wants"),
        "see whether the sender sends, and whether the relay has a route to it: many forward only groups with"
        f" sources, as sources in {subject.table} names them",
    )
