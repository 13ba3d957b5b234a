"""Ends of TCP where workers, and the daemon itself, wait for connections: one of them can have each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from mcastd.config.ends import ProgramEnd
from mcastd.config.model import WorkerSettings
from mcastd.config.types import Location
from mcastd.config.words import show


def taken_twice(metrics: str | None, workers: Mapping[str, WorkerSettings]) -> Iterator[tuple[Location, str]]:
    """Ends that something else has already: where they are in the configuration, and what that is.

    ``metrics`` as ``[daemon]`` has it; ``workers`` by full name. The same end twice in one table is left out:
    that is said of the table.
    """
    taken: defaultdict[int, list[tuple[str, ProgramEnd]]] = defaultdict(list)
    served_at = None if metrics is None else _of_metrics(metrics)
    if served_at is not None:
        taken[served_at.port].append(("where metrics are served", served_at))
    for name, worker in workers.items():
        what = f"where {name} listens"
        for key, end in worker.listens():
            for other, first in taken[end.port]:
                if end.excludes(first) and (other, first) != (what, end):
                    by = "" if end == first else f", by {show(first.place)}"
                    yield (*name.split("/"), *key), f"{show(end.place)} is already {other}{by}"
                    break
            taken[end.port].append((what, end))


def _of_metrics(metrics: str) -> ProgramEnd | None:
    """Where metrics are served; None where that is a name, which may lead to any address."""
    host, _, port = metrics.rpartition(":")
    end = ProgramEnd("tcp", host.strip("[]"), int(port))
    return end if end.excludes(end) else None
