"""What ``mcastctl listen`` and ``send`` say, at the end and before. Pure: counts in, words and JSON out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcastd.adhoc.loss import Stream
from mcastd.adhoc.sink import Listener
from mcastd.clock import NANO
from mcastd.codec import as_json
from mcastd.console.text import plural, scaled, span
from mcastd.counters import OutboundCounters
from mcastd.printable import printable
from mcastd.protocols.amt import PORT as AMT_PORT
from mcastd.status import ReceiveBuffer, SubscriptionStatus, TunnelStatus

MOMENT_SECONDS = 0.01

Summary = dict[str, Any]
"""JSON values."""


def received(
    listener: Listener, listened: float, *, overflow: int, receive_buffer: ReceiveBuffer, shown: int | None
) -> Summary:
    """What came in ``listened`` seconds; ``shown`` of it was shown, None: nothing was to be."""
    tally, tracker = listener.tally, listener.tracker
    top, rest = listener.sources.top()
    report: Summary = {
        "received": tally.received,
        "received_bytes": tally.received_bytes,
        "listened": round(listened, 3),
        **rates(tally.received, tally.received_bytes, tally.seconds),
        "sources": top,
        "other_sources": rest,
        "overflow": overflow,
        "receive_buffer": as_json(receive_buffer),
    }
    if shown is not None:
        report["not_shown"] = tally.received - shown
    counts = tracker.counts
    if counts.received:
        report["numbered"] = as_json(counts)
        report["streams"] = [
            {
                "source": source,
                "run": run.decode(),
                "first": stream.first,
                "last": stream.last,
                "total": stream.total or None,
                "unheard": stream.unheard,
                **as_json(stream.counts),
                "delay": delay(stream),
            }
            for (source, run), stream in tracker.streams.items()
        ]
    return report


def rates(datagrams: int, size: int, seconds: float) -> Summary:
    """Of datagrams that came in ``seconds``, from the first of them to the last: a moment makes no rate."""
    if datagrams < 2 or seconds < MOMENT_SECONDS:
        return {"seconds": round(seconds, 6), "per_second": None, "bits_per_second": None}
    per_second = (datagrams - 1) / seconds
    return {
        "seconds": round(seconds, 6),
        "per_second": round(per_second, 3),
        "bits_per_second": round(per_second * 8 * size / datagrams),
    }


def delay(stream: Stream) -> list[float] | None:
    """The least and the most that a datagram took, in seconds, by the clocks of both hosts."""
    if stream.quickest is None or stream.slowest is None:
        return None
    return [stream.quickest / NANO, stream.slowest / NANO]


def received_lines(report: Summary) -> Iterator[str]:
    """The report for people."""
    if not report["received"]:
        yield f"received nothing in {report['listened']:.1f} s"
    else:
        yield amounts("received", report["received"], report["received_bytes"], report)
    sources = [*report["sources"].items()]
    if report["other_sources"]:
        sources.append(("others", report["other_sources"]))
    for source, count in sources if len(sources) > 1 or "streams" not in report else ():
        yield f"  from {source}: {count:,}"
    for stream in report.get("streams", ()):
        yield from _stream_lines(stream)
    if heard := report.get("numbered"):
        lost_here = heard["lost"] - sum(stream["lost"] for stream in report["streams"])
        if lost_here:
            yield f"  lost {lost_here:,} more in runs heard before these"
    yield from overflow_lines(report)
    if report.get("not_shown"):
        yield f"{plural(report['not_shown'], 'datagram')} not shown: the output was too slow"


def overflow_lines(report: Summary) -> Iterator[str]:
    if report["overflow"]:
        yield f"overflow {report['overflow']:,}: dropped by this host, since its receive buffer was full"
        if advice := report["receive_buffer"]["advice"]:
            yield f"  {advice}"


def _stream_lines(stream: Summary) -> Iterator[str]:
    expected = stream["last"] - stream["first"] + 1
    of = f" of {stream['total']:,}" if stream["total"] else ""
    heard = f"{stream['first']:,} to {stream['last']:,}{of}"
    yield f"  from {stream['source']}, run {stream['run']}: numbers {heard}"
    losses = f"lost {stream['lost']:,} ({stream['lost'] / expected:.2%})"
    words = [losses, f"duplicated {stream['duplicated']:,}", f"reordered {stream['reordered']:,}"]
    if stream["late"]:
        words.append(f"too late to tell {stream['late']:,}")
    yield f"    {', '.join(words)}"
    if stream["unheard"]:
        yield f"    {plural(stream['unheard'], 'number')} after the last not heard: lost, or not sent"
    if stream["delay"]:
        least, most = (1000 * seconds for seconds in stream["delay"])
        yield f"    took {least:,.3g} to {most:,.3g} ms, if both clocks agree"


def sent(counters: OutboundCounters, seconds: float) -> Summary:
    """What went, from the first datagram to the last in ``seconds``."""
    return {
        "sent": counters.sent,
        "sent_bytes": counters.sent_bytes,
        **rates(counters.sent, counters.sent_bytes, seconds),
        "refused": dict(counters.refused),
        "dropped": dict(counters.dropped),
        "late": counters.late,
    }


def going(per_second: float, bits: float, sent: int, part: float | None, elapsed: float) -> str:
    """The live line of a sender: the last second, then what ``part`` of it all is sent (None: unknown)."""
    words = [rate(per_second, bits), f"{sent:,} sent"]
    if part is not None:
        words.append(f"{part:.0%}")
    if part and part < 1:
        words.append(f"{span(elapsed / part - elapsed)} to go")
    return "  ".join(words)


def sent_lines(report: Summary) -> Iterator[str]:
    yield amounts("sent", report["sent"], report["sent_bytes"], report)
    if report["refused"]:
        yield f"  refused by the kernel, and tried again: {by_reason(report['refused'])}"
    if report["dropped"]:
        yield f"  dropped: {by_reason(report['dropped'])}"


def by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{printable(reason)} {count:,}" for reason, count in sorted(counts.items()))


def amounts(done: str, datagrams: int, size: int, report: Summary) -> str:
    """``sent 1,000 datagrams, 64,000 bytes in 9.99 s: 100/s, 51.2 kbit/s``."""
    text = f"{done} {plural(datagrams, 'datagram')}, {plural(size, 'byte')}"
    if report["per_second"] is None:
        return text
    return f"{text} in {report['seconds']:,.3g} s: {rate(report['per_second'], report['bits_per_second'])}"


def rate(per_second: float, bits: float) -> str:
    return f"{per_second:,.{0 if per_second >= 10 else 2}f}/s, {scaled(bits, 'bit/s')}"


def flowing(per_second: float, bits: float, listener: Listener, overflow: int, skipped: int) -> str:
    """The live line of a listener: the last second, then totals."""
    top, rest = listener.sources.top(1000)
    sources = f"{len(top):,}+ sources" if rest else plural(len(top), "source")
    words = [rate(per_second, bits), f"{listener.tally.received:,} received", sources]
    if (counts := listener.tracker.counts).received:
        words.append(f"lost {counts.lost:,}")
    if overflow:
        words.append(f"overflow {overflow:,}")
    if skipped:
        words.append(f"{skipped:,} not shown")
    return "  ".join(words)


def silence(status: SubscriptionStatus, seconds: float) -> Sequence[str]:
    """What there is while nothing comes, and what to look at next."""
    group, port = status.group, status.port
    if status.link is not None and (tunnel := status.link.tunnel) is not None:
        return _silence_of(tunnel, seconds)
    lines = [f"nothing received in {seconds:g} s. What there is:"]
    for membership in status.memberships:
        interface, actual = printable(membership.interface), membership.actual
        listed = f"the kernel has it (sources: {actual})" if actual else "the kernel has no membership"
        lines.append(f"  joined {group} port {port} on {interface}: {listed}")
    interfaces = [printable(membership.interface) for membership in status.memberships] or ["any"]
    here = interfaces[0] if len(interfaces) == 1 else "any"
    return [
        *lines,
        "What to try next:",
        f"  tcpdump -ni {here} 'dst host {group} and udp port {port}'",
        "    shows whether it reaches this host at all",
        "  mcastctl doctor",
        "    looks for causes on this host: route, firewall, rp_filter, switch",
        "  at the sender: the same group and port? its interface? ttl > 1 for routers?",
    ]


def _silence_of(tunnel: TunnelStatus, seconds: float) -> Sequence[str]:
    relay = printable(tunnel.relay or tunnel.asked)
    return [
        f"nothing received in {seconds:g} s. What there is:",
        f"  a tunnel from {relay}: {tunnel.phase}, {tunnel.unanswered} questions in a row without an answer;"
        f" it brought {tunnel.received} packets",
        "What to try next:",
        f"  tcpdump -ni any 'host {relay} and udp port {AMT_PORT}'",
        "    shows whether the relay answers",
        "  --source ADDRESS, if there is none: many relays forward only what is asked for with its sender",
        "  at the sender: does it send? ttl > 1 for routers?",
    ]


def where(status: SubscriptionStatus) -> str:
    """The interfaces of a subscription."""
    return f"on {', '.join(printable(membership.interface) for membership in status.memberships)}"
