"""The workers' books in Prometheus' text format, version 0.0.4.

Not by prometheus_client's metric families: they take 6 us a sample, and at some twenty samples a worker a
scrape would be the most costly thing that a quiet daemon does. Here the samples of one name, of many workers,
are a column: made in one formatting, and only when one of its values is another.

families.py has the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mcastd import clock
from mcastd.metrics.families import OF_KIND, families
from mcastd.metrics.family import INFO, WORKER, Family, ScrapedWorker
from mcastd.metrics.outputs import OUTPUT
from mcastd.names import table_of
from mcastd.pauses import with_pauses
from mcastd.printable import printable
from mcastd.worker import Books, Headline, WorkerIdentity

# Workers in a column: one text of megabytes would cost more for its memory than for what it says.
PART_WORKERS = 128
Row = tuple[Headline, Books]


class _Column:
    """The samples of one family, one for each row; a row whose value is None has none."""

    def __init__(self, family: Family[Any], rows: Sequence[tuple[str, Any]]) -> None:
        """``rows`` are each labels, and what the family knows the values of its own label from."""
        self._lines = [family.line(labels) for labels, _ in rows]
        self._last: tuple[Sequence[Any], bytes] = ((), b"")

    def text(self, values: Sequence[Any]) -> bytes:
        before, text = self._last  # at once: two may scrape
        if values != before:
            text = self._make(values).encode()
            self._last = values, text
        return text

    def _make(self, values: Sequence[Any]) -> str:
        there = [(line, value) for line, value in zip(self._lines, values, strict=True) if value is not None]
        return "".join([line for line, _ in there]) % tuple([value for _, value in there])


class _Times(_Column):
    """Monotonic seconds, as Unix time."""

    def _make(self, values: Sequence[Any]) -> str:
        shift = clock.wall() - clock.monotonic()
        return super()._make([None if at is None else at + shift for at in values])


class _Counts(_Column):
    """Counts by the family's label."""

    def __init__(self, family: Family[Any], rows: Sequence[tuple[str, Any]]) -> None:
        super().__init__(family, rows)
        assert family.known is not None
        self._zeros = [dict.fromkeys(family.known(who), 0) for _, who in rows]

    def _make(self, values: Sequence[Any]) -> str:
        rows = zip(self._lines, self._zeros, values, strict=True)
        return "".join([line % item for line, zeros, counts in rows for item in {**zeros, **counts}.items()])


def _column(family: Family[Any], rows: Sequence[tuple[str, Any]]) -> _Column:
    if family.known is not None:
        return _Counts(family, rows)
    return _Times(family, rows) if family.monotonic else _Column(family, rows)


class _Part:
    """Some workers of one kind, in columns, for as long as their names and identities are equal."""

    def __init__(self, kind: str, workers: Sequence[tuple[str, WorkerIdentity]]) -> None:
        self.workers = workers
        of_workers, info, of_outputs = [], [], []
        for name, identity in workers:
            labels = _labels(worker=name, group=identity.group, interface=identity.interface)
            of_workers.append((labels, identity))
            port = str(identity.port or "")
            info.append((f"{labels},{_labels(kind=kind, port=port)}", identity))
            of_outputs += [(f"{labels},{_labels(output=one.label)}", one) for one in identity.outputs]
        self._of_workers: list[tuple[Family[Any], _Column]] = [
            (family, _column(family, info if family is INFO else of_workers))
            for family in OF_KIND.get(kind, WORKER)
        ]
        self._of_outputs: list[tuple[Family[Any], _Column]] = [
            (family, _column(family, of_outputs)) for family in OUTPUT
        ]

    def texts(self, rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
        """Those of its workers, in their order; a family's samples are in one text, beside its name."""
        workers: list[ScrapedWorker[Any]] = [
            ScrapedWorker(headline, books, books.counters) for headline, books in rows
        ]
        # The outputs of this scrape: an equal identity may hold old counters.
        outputs: list[Any] = [output for _, books in rows for output in books.identity.outputs]
        for of, columns in ((workers, self._of_workers), (outputs, self._of_outputs)):
            parts: dict[Callable[[Any], Any], bool] = {}  # whether any of them has it
            for family, column in columns:
                if (part := family.part) is not None:
                    if part not in parts:
                        parts[part] = any(map(part, of))
                    if not parts[part]:
                        continue
                yield family.name, column.text([family.value(one) for one in of])


def _labels(**values: str) -> str:
    """For the ``%`` operator."""
    return ",".join(f'{key}="{_escape(value)}"' for key, value in values.items()).replace("%", "%%")


def _escape(value: str) -> str:
    """A label's value, printable: a name of an interface may hold any byte, which a terminal would obey."""
    lines = [printable(line).replace("\\", r"\\").replace('"', r"\"") for line in value.split("\n")]
    return r"\n".join(lines)


class Exposition:
    """Renders the workers' books; what it has made serves again where nothing has changed."""

    def __init__(self) -> None:
        self._families = families()
        self._parts: dict[tuple[str, int], _Part] = {}  # replaced, never changed: two may scrape at once

    def render(self, rows: Sequence[Row]) -> list[bytes]:
        """Each family with its samples; those without one too, so that a scrape shows what there is."""
        parts: dict[tuple[str, int], _Part] = {}
        texts = {name: [family.head()] for name, family in self._families.items()}
        by_kind: dict[str, list[Row]] = {kind: [] for kind in OF_KIND}
        for row in rows:
            by_kind.setdefault(table_of(row[0].name), []).append(row)
        for kind, of_kind in by_kind.items():
            for at in range(0, len(of_kind), PART_WORKERS):
                some = of_kind[at : at + PART_WORKERS]
                workers = [(headline.name, books.identity) for headline, books in some]
                part = self._parts.get((kind, at))
                if part is None or part.workers != workers:
                    part = _Part(kind, workers)
                parts[kind, at] = part
                for name, text in with_pauses(part.texts(some)):
                    texts[name].append(text)
        self._parts = parts
        return [text for of_family in texts.values() for text in of_family]
