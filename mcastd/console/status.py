"""``mcastctl status``: what the daemon says of its workers, as lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mcastd.codec import as_json, from_json
from mcastd.console.text import plural, scaled, span
from mcastd.counters import losses
from mcastd.printable import printable
from mcastd.status import (
    BridgedGroupStatus,
    JoinStatus,
    ObjectStatus,
    PidStatus,
    PlayerStatus,
    ProgramStatus,
    QuerierStatus,
    RouteStatus,
    ServedGatewayStatus,
    SessionStatus,
)
from mcastd.views import AnyStatus, DaemonView, Status, WorkerView, as_kind

# Fields that a worker or output may not have: without one, nothing is shown of it.
OPTIONAL = {
    *("described_seconds", "files", "format", "framing", "loss_percent", "manifest", "notices", "objects"),
    *("connected", "engine", "missing", "reception", "repaired"),
    *("announcement", "jitter", "kept", "payload_type", "seconds_left", "sequence", "stream", "tree", "ts"),
}
# Kinds of workers of which datagrams that go are not those that come.
BOTH_WAYS = {"link"}
# Seconds since 1970, of which people want to know the date.
TIMES = {"expires", "issued"}
# Bytes of which people want to know the magnitude.
SCALED = {"present_bytes", "total_bytes"}
UNITS = {
    " s": re.compile(r"_age$|_every$|_seconds$|^(seconds|interval|max_latency|burst)$"),
    " bytes": re.compile(r"_bytes$|^(asked|had|receive_buffer|queue|max_datagram|mtu|position|room)$"),
    " bit/s": re.compile(r"^(clock_)?rate$"),
    " ms": re.compile(r"_ms$"),
    " %": re.compile(r"_percent$"),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of a worker of any kind, or of an output."""

    sent: int
    received: int
    overflow: int
    dropped: Mapping[str, int]  # by reason


@dataclass(frozen=True, slots=True)
class Counted:
    counters: Counts


@dataclass(frozen=True, slots=True)
class Totals(Status):
    """What is summed up of a worker's status, whatever kind it is of."""

    counters: Counts
    outputs: tuple[Counted, ...]
    closed_outputs: Counts


def overview(daemon: DaemonView, workers: Sequence[WorkerView], width: int | None) -> Iterator[str]:
    """A line on the daemon and a table of the workers, for a terminal of ``width`` columns (None: any).

    A detail that has no room behind its worker goes below it: it may hold the reason of a failure, and
    is not cut.
    """
    headline = printable(
        f"mcastd {daemon.version}, pid {daemon.pid}, up {span(daemon.since)}: {daemon.summary}"
    )
    for line in (headline, *(f"note: {printable(note)}" for note in daemon.notes)):
        yield from textwrap.wrap(line, width, subsequent_indent="    ") if width else [line]
    rows = [("NAME", "STATE", "SINCE", "DATAGRAMS", "LOST", "DETAIL"), *map(row, workers)]
    rows += [(printable(name), "disabled", "-", "-", "-", "enabled = false") for name in daemon.disabled]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, detail in rows:
        aligned = [
            f"{cell:{'<' if index < 2 else '>'}{widths[index]}}"  # words to the left, numbers to the right
            for index, cell in enumerate(cells)
        ]
        line = "  ".join(aligned)
        if not width or len(line) + 2 + len(detail) <= width:
            yield f"{line}  {detail}".rstrip()
        else:
            yield line
            yield from textwrap.wrap(detail, width, initial_indent="    ", subsequent_indent="    ")


def row(worker: WorkerView) -> tuple[str, ...]:
    count, lost = datagrams(worker.status)
    if worker.kind in BOTH_WAYS:
        own = as_kind(Totals, worker.status).counters
        shown = f"{own.sent} out, {own.received} in"
    else:
        shown = str(count)
    return (
        printable(worker.name),
        printable(worker.state),
        span(worker.since),
        shown,
        str(lost),
        printable(worker.detail),
    )


def details(workers: Sequence[WorkerView]) -> Iterator[str]:
    """Everything about each worker, a setting or counter a line."""
    for worker in workers:
        yield printable(worker.name)
        yield f"  state: {printable(worker.state)} for {span(worker.since)}"
        yield f"  detail: {printable(worker.detail) or '-'}"
        yield f"  restarts: {worker.restarts}"
        yield from tree(as_json(worker.status), "  ")


def tree(values: Mapping[str, object], indent: str) -> Iterator[str]:
    for key, value in values.items():
        if value is None and key in OPTIONAL:
            continue
        if key in LISTED and isinstance(value, list) and all(isinstance(one, dict) for one in value):
            kind, line = LISTED[key]
            yield from (f"{indent}{line(from_json(kind, one))}" for one in value)
            continue
        groups = value if isinstance(value, list) else [value]
        tables = [group for group in groups if isinstance(group, dict) and group]
        if tables and len(tables) == len(groups):
            for table in tables:
                yield f"{indent}{printable(key)}:"
                yield from tree(table, indent + "  ")
        else:
            yield f"{indent}{printable(key)}: {', '.join(scalar(one, key) for one in groups) or '-'}"


def received(file: ObjectStatus) -> str:
    """A file that is being received, in a line."""
    parts = [
        f"{printable(file.name)}: {file.percent:.1f} % of {scaled(file.length, 'B')}",
        f"{file.blocks_done} of {plural(file.blocks, 'block')}",
    ]
    if file.seconds_left is not None:
        parts.append(f"done in about {span(file.seconds_left)}")
    if file.trouble:
        parts.append(printable(file.trouble))
    return f"{printable(file.state)} " + ", ".join(parts)


def announced(session: SessionStatus) -> str:
    """A session that was heard, in a line."""
    media = (
        f"{one.kind} {one.transport} {one.encoding} to {one.group or '-'} port {one.port}"
        for one in session.media
    )
    ages = f"heard {span(session.last_age)} ago, first {span(session.age)} ago"
    return printable(f"session {session.name}: {', '.join(media)}; from {session.sender}, {ages}")


def program(one: ProgramStatus) -> str:
    """A program of a transport stream, in a line."""
    if one.clock_pid is None:
        return f"program {one.number}: map {one.map_pid}, which has not come"
    pids = ", ".join(map(str, one.pids)) or "none"
    return f"program {one.number}: map {one.map_pid}, clock {one.clock_pid}, PIDs {pids}"


def carried(one: PidStatus) -> str:
    """What comes of a PID of a transport stream, in a line."""
    kind = "" if one.type is None else f" of type 0x{one.type:02x}"
    errors = plural(one.continuity_errors, "error")
    return f"PID {one.pid}{kind}: {scaled(one.rate, 'bit/s')}, {plural(one.packets, 'packet')}, {errors}"


def routed(one: RouteStatus) -> str:
    """A route of a bridge, in a line."""
    to = ", ".join(one.goes_to) or "nowhere"
    wrong = f", {one.wrong_interface} by others" if one.wrong_interface else ""
    ages = f"last {span(one.last_age)} ago, first {span(one.age)} ago"
    way = f"route of {one.source} to {one.group}: from {one.comes_by} to {to}"
    return printable(f"{way}; {plural(one.packets, 'packet')}{wrong}, {ages}")


def asking(one: QuerierStatus) -> str:
    """Who asks the members of a network, in a line."""
    who = "this host asks" if one.asks else "another one asks, and forwards"
    parts = [f"{plural(one.groups, 'group')} wanted"]
    parts += [f"{one.refused} refused"] if one.refused else []
    parts += [f"{plural(one.without_source, 'report')} without a source"] if one.without_source else []
    parts += [f"{plural(one.older, 'query', 'queries')} of older versions"] if one.older else []
    parts += [f"{plural(one.disbelieved, 'message')} not believed"] if one.disbelieved else []
    address = f" from {one.querier}" if one.querier else ""
    return printable(f"querier of IPv{one.version} on {one.interface}: {who}{address}; {', '.join(parts)}")


def wanted(one: BridgedGroupStatus) -> str:
    """What members want, in a line."""
    return printable(f"members on {one.interface}: {one.group} from {one.wanted}")


def joined(one: JoinStatus) -> str:
    """A group that a bridge or a relay has joined, in a line."""
    how = f"not joined: {one.refused}" if one.refused else f"joined from {one.wanted}"
    return printable(f"group {one.group} on {one.interface}: {how}")


def served(one: ServedGatewayStatus) -> str:
    """A gateway of a relay, in a line."""
    more = [f"{one.groups - len(one.wanted)} more"] if one.groups > len(one.wanted) else []
    missed = ", ".join(f"{count} {reason}" for reason, count in one.missed.items())
    parts = [f"for {span(one.seconds)}", plural(one.sent, "packet")]
    parts += [f"missed: {missed}"] if missed else []
    parts += [f"its path takes {one.path_mtu} bytes"] if one.path_mtu is not None else []
    wants = "; ".join([*one.wanted, *more]) or "nothing"
    return printable(f"gateway {one.address} port {one.port}: {', '.join(parts)}; wants {wants}")


def playing(one: PlayerStatus) -> str:
    """A player of a gateway, in a line."""
    parts = [f"for {span(one.seconds)}", plural(one.sent, "datagram")]
    parts += [f"{one.dropped} dropped"] if one.dropped else []
    parts += [f"{scaled(one.held_bytes, 'B')} held"] if one.held_bytes else []
    return printable(f"player {one.address}: {one.path or 'nothing asked yet'}; {', '.join(parts)}")


# Lists of which each element is a line.
LISTED: dict[str, tuple[type[Any], Callable[[Any], str]]] = {
    "receiving": (ObjectStatus, received),
    "sessions": (SessionStatus, announced),
    "routes": (RouteStatus, routed),
    "queriers": (QuerierStatus, asking),
    "members": (BridgedGroupStatus, wanted),
    "joins": (JoinStatus, joined),
    "gateways": (ServedGatewayStatus, served),
    "programs": (ProgramStatus, program),
    "pids": (PidStatus, carried),
    "players": (PlayerStatus, playing),
}


def scalar(value: object, key: str = "") -> str:
    """A value with its unit, which follows from its key."""
    if value is None or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return printable(value)
    if key in TIMES:
        return datetime.fromtimestamp(value).astimezone().isoformat(sep=" ")
    if key in SCALED:
        return scaled(value, "B")
    unit = next((unit for unit, keys in UNITS.items() if keys.search(key)), "")
    return f"{round(value, 3) if isinstance(value, float) else value}{unit}"


def datagrams(status: AnyStatus) -> tuple[int, int]:
    """How many a worker sent or received, and how many were lost on this host, by it or by the kernel."""
    totals = as_kind(Totals, status)
    own, closed = totals.counters, totals.closed_outputs
    dropped = (own.dropped, closed.dropped, *(output.counters.dropped for output in totals.outputs))
    return own.sent or own.received, own.overflow + sum(map(losses, dropped))
