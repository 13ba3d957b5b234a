"""Sources of channels that others send to: whether something comes, is let in, and is taken in time."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import DEFAULT_RECEIVE_BUFFER, EngineSource, IpSource, OutboundChannel, UdpSource
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject
from mcastd.status import ChannelStatus, ReceptionStatus

# Of the addresses that may not send, this many are named.
NAMED_ADDRESSES = 5


def reception(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check a source that others send to."""
    source = subject.settings.source
    if (end := source.end) is None:
        return
    said = f"source {source.label} ({subject.table})"
    if subject.errno == "EADDRINUSE" and not subject.running:
        if end.way == "unix":
            see, other = command("ss", "-xlp"), "path"
        else:
            see, other = command("ss", "-lnp", f"--{end.way}", f"sport = :{end.port}"), "listen"
        yield Finding(
            "source-taken",
            Severity.BROKEN,
            f"another program takes what is sent to its source {source.label}",
            (said, f"{subject.detail} (status)"),
            f"stop it: {see}; or give another {other} in source of {subject.table}",
        )
        return
    now = subject.now(ChannelStatus).reception
    if now is None or not subject.running:
        return
    before = subject.before(ChannelStatus).reception if subject.earlier else now
    yield from _overflow(subject, said, now, before, evidence.watched)
    yield from _refused(subject, said, now, before)
    if now.returned_by:
        yield Finding(
            "circle",
            Severity.BROKEN,
            f"what it sends comes back to its source by {now.returned_by}: it goes no further, or it would go"
            " in a circle for ever",
            (said, f"returned_by: {now.returned_by} (status)"),
            _way_out_of_circle(subject, now.returned_by),
        )
    if not now.received and not now.overflow:
        firewall = f", and whether a firewall lets it through: {command('nft', 'list', 'ruleset')}"
        yield Finding(
            "source-silent",
            Severity.WARNING,
            f"nothing has ever come to its source {source.label}",
            (said, "received: 0 (status)"),
            f"see whether its sender runs, and sends there{firewall if isinstance(source, IpSource) else ''}",
        )


def _way_out_of_circle(subject: Subject[OutboundChannel], returned_by: str) -> str:
    settings = subject.settings
    if isinstance(settings.source, EngineSource):
        key = "subject" if settings.source.kind == "nats" else "key"
        return (
            f"have the outputs of {returned_by} hand over to another {key}, or not receive {settings.group};"
            f" or take from another {key} in source of {subject.table}"
        )
    return (
        f"name the other senders, without {returned_by}, in senders in source of {subject.table}; or have"
        " that host send on another group"
    )


def _overflow(
    subject: Subject[OutboundChannel],
    said: str,
    now: ReceptionStatus,
    before: ReceptionStatus | None,
    seconds: float,
) -> Iterator[Said]:
    source = subject.settings.source
    lost = now.overflow - (0 if before is None else before.overflow)
    if lost <= 0 or not isinstance(source, UdpSource):
        return
    buffer = f"receive_buffer = {max(4 * source.receive_buffer, DEFAULT_RECEIVE_BUFFER)}"
    paced = subject.settings.rate is not None or bool(subject.settings.interval)
    pace = f"a higher rate, or none, in {subject.table}; or, for bursts, " if paced else ""
    yield Finding(
        "source-overflow",
        Severity.BROKEN,
        "it loses what is sent to it: its receive buffer is full, and the kernel drops what comes",
        (
            said,
            f"{lost} dropped in {seconds:.3g} s; overflow = {now.overflow} (SO_MEMINFO, sk_drops);"
            f" receive buffer {now.receive_buffer} bytes",
        ),
        f"{pace}{buffer} (bytes) in source of {subject.table}, and sysctl net.core.rmem_max as large",
    )


def _refused(
    subject: Subject[OutboundChannel], said: str, now: ReceptionStatus, before: ReceptionStatus | None
) -> Iterator[Said]:
    earlier = {} if before is None else before.refused
    grown = {address: count - earlier.get(address, 0) for address, count in now.refused.items()}
    if not (refused := [address for address, count in grown.items() if count > 0][:NAMED_ADDRESSES]):
        return
    yield Finding(
        "sender-refused",
        Severity.WARNING,
        f"what {', '.join(refused)} {'send' if len(refused) > 1 else 'sends'} is dropped: it may not send",
        (said, *(f"{grown[address]} of {address} dropped (status)" for address in refused)),
        f"if that is to be sent, add it to senders in source of {subject.table}; if not, have its sender"
        " stop",
    )
