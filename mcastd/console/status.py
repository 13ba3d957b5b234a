"""``mcastctl status``: what the daemon says of its workers, as lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcastd.console.text import span
from mcastd.control.protocol import Message
from mcastd.printable import printable

UNITS = {
    " s": re.compile(r"_age$|_every$|^(interval|max_latency|burst)$"),
    " bytes": re.compile(r"_bytes$|^(asked|had|receive_buffer|queue|max_datagram|mtu|position|room)$"),
    " bit/s": re.compile(r"^rate$"),
}


def overview(daemon: Message, workers: Sequence[Message], width: int | None) -> Iterator[str]:
    """A line on the daemon and a table of the workers, for a terminal of ``width`` columns (None: any).

    A detail that has no room behind its worker goes below it: it may hold the reason of a failure, and
    is not cut.
    """
    headline = printable(
        f"mcastd {daemon.get('version', '?')}, pid {daemon.get('pid', '?')}, "
        f"up {span(daemon.get('since', 0))}: {daemon.get('summary', '')}"
    )
    for line in (headline, *(f"note: {printable(note)}" for note in daemon.get("notes", ()))):
        yield from textwrap.wrap(line, width, subsequent_indent="    ") if width else [line]
    rows = [("NAME", "STATE", "SINCE", "DATAGRAMS", "LOST", "DETAIL"), *map(row, workers)]
    rows += [
        (printable(name), "disabled", "-", "-", "-", "enabled = false") for name in daemon.get("disabled", ())
    ]
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


def row(worker: Message) -> tuple[str, ...]:
    count, lost = datagrams(worker.get("status", {}))
    return (
        printable(worker.get("name", "?")),
        printable(worker.get("state", "?")),
        span(worker.get("since", 0)),
        str(count),
        str(lost),
        printable(worker.get("detail", "")),
    )


def details(workers: Sequence[Message]) -> Iterator[str]:
    """Everything about each worker, a setting or counter a line."""
    for worker in workers:
        since = span(worker.get("since", 0))
        yield printable(worker.get("name", "?"))
        yield f"  state: {printable(worker.get('state', '?'))} for {since}"
        yield f"  detail: {printable(worker.get('detail', '')) or '-'}"
        yield f"  restarts: {worker.get('restarts', 0)}"
        yield from tree(worker.get("status", {}), "  ")


def tree(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in values.items():
        groups = value if isinstance(value, list) else [value]
        if groups and all(isinstance(group, dict) and group for group in groups):
            for group in groups:
                yield f"{indent}{printable(key)}:"
                yield from tree(group, indent + "  ")
        else:
            yield f"{indent}{printable(key)}: {', '.join(scalar(one, key) for one in groups) or '-'}"


def scalar(value: object, key: str = "") -> str:
    """A value with its unit, which follows from its key."""
    if value is None or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return printable(value)
    unit = next((unit for unit, keys in UNITS.items() if keys.search(key)), "")
    return f"{round(value, 3) if isinstance(value, float) else value}{unit}"


def datagrams(status: Mapping[str, Any]) -> tuple[int, int]:
    """How many a worker sent or received, and how many were lost on this host, by it or by the kernel."""
    counters, outputs = table(status.get("counters")), status.get("outputs")
    of_outputs = (
        [table(table(output).get("counters")) for output in outputs] if isinstance(outputs, list) else []
    )
    lost = [
        counters.get("overflow"),
        counters.get("dropped"),
        table(status.get("closed_outputs")).get("dropped"),
        *(output.get("dropped") for output in of_outputs),
    ]
    return total(counters.get("sent", counters.get("received"))), sum(map(total, lost))


def table(value: object) -> Mapping[str, Any]:
    """What should be a table; empty if a daemon of another version has something else there."""
    return value if isinstance(value, dict) else {}


def total(count: object) -> int:
    """A count, or the sum of counts by reason."""
    match count:
        case int():
            return count
        case dict():
            return sum(map(total, count.values()))
        case _:
            return 0
