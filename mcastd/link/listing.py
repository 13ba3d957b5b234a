"""What the status has of a link."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from mcastd import clock
from mcastd.config import LinkSettings
from mcastd.config.addresses import end_of, format_prefix
from mcastd.counters import LinkCounters, copy_of
from mcastd.protocols.link_control import GroupWant, LinkReport
from mcastd.status import JoinStatus, LinkStatus
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import LocalNetwork, NetworkCounts
from mcastd.tunnel.link.running import RunningLink

# Of each list.
LISTED_MAX = 100


def status_of(
    config: LinkSettings,
    running: RunningLink | None,
    links: Links,
    counters: LinkCounters,
    counts: NetworkCounts,
) -> LinkStatus:
    """``counts`` are those of the network here, if there is none now. For any thread."""
    interface = config.interface or ""
    network = links.network(interface)
    counts = counts if network is None else network.counts
    common = LinkStatus(
        listen="" if config.listen is None else config.end,
        connect="" if config.connect is None else config.end,
        peer="",
        local_port=None,
        up=False,
        seconds=None,
        interface=interface,
        security=config.security,
        transit=config.transit,
        standby_of=config.standby_of or "",
        rests=False,
        send=tuple(map(format_prefix, config.send)),
        wants=(),
        wants_widened=0,
        wants_left_out=0,
        peer_wants=(),
        refused_wants=(),
        round_trip_ms=None,
        clock_offset_seconds=None,
        message_bytes=None,
        sizes_tried=False,
        too_narrow=False,
        peer_lost_percent=None,
        held=0,
        key_age=None,
        keys_differ=False,
        hindrance="",
        refusal="",
        not_given="",
        ignored_since_up=(),
        troubles=() if network is None else tuple(network.troubles),
        joins=() if network is None else _joins(interface, network),
        queriers=() if network is None else tuple(network.queriers()),
        taken=() if network is None else _words(network.taken()),
        untaken=dict(counts.dropped),
        counters=copy_of(counters),
        overflow=counters.overflow + counts.overflow,
    )
    return common if running is None else _at_work(common, running, links)


def _at_work(status: LinkStatus, running: RunningLink, links: Links) -> LinkStatus:
    end, sock = running.end, running.socket
    session, report = end.sessions.current, end.last_report
    now, heartbeat = clock.monotonic(), end.heartbeat
    return replace(
        status,
        peer="" if end.peer is None else end_of(*end.peer),
        local_port=None if sock is None else sock.port,
        up=end.is_up,
        seconds=now - running.since,
        rests=running.told is not None and running.told.rests,
        wants=_words(end.wanted),
        wants_widened=end.told.widened,
        wants_left_out=end.told.left_out,
        peer_wants=_words(end.peer_wants.wants),
        refused_wants=_words(links.site.refused_wants(running.name)),
        round_trip_ms=1000 * heartbeat.round_trip if heartbeat.is_measured else None,
        clock_offset_seconds=end.sessions.clock_offset,
        message_bytes=end.path.size,
        sizes_tried=end.path.is_complete,
        too_narrow=end.path.is_too_narrow,
        peer_lost_percent=None if report is None or session is None else _lost_percent(report),
        held=0 if session is None else session.reception.held,
        key_age=None if session is None else now - session.began,
        keys_differ=end.is_up and end.sessions.keys_differ,
        hindrance=running.hindrance,
        refusal=running.refusal,
        not_given=running.not_given,
        ignored_since_up=() if running.told is None else tuple(sorted(running.told.ignored)),
    )


def _words(wants: Iterable[GroupWant]) -> tuple[str, ...]:
    return tuple(f"{format_prefix(want.groups)} {want.sources}" for want in islice(wants, LISTED_MAX))


def _lost_percent(report: LinkReport) -> float | None:
    if not report.expected:
        return None
    return max(0.0, 100 * (1 - report.received / report.expected))


def _joins(interface: str, network: LocalNetwork) -> tuple[JoinStatus, ...]:
    return tuple(
        JoinStatus(interface=interface, group=str(group), wanted=str(sources), refused=None)
        for group, sources in islice(network.joined().items(), LISTED_MAX)
    )
