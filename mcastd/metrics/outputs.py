"""The metrics of outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcastd.counters import SymbolCounts
from mcastd.metrics.family import (
    DROPPED,
    NO_COUNTS,
    Family,
    copy_of_counts,
    counter,
    counts,
    gauge,
    within,
)
from mcastd.status import EngineStatus, TreeStatus
from mcastd.worker import ObjectBooks, OutputIdentity

# What becomes of a symbol that is taken: each is in one of these.
USES = ("source", "repair", "duplicate", "surplus")


def _of_objects(value: Callable[[ObjectBooks], Any], without: Any = None) -> Callable[[OutputIdentity], Any]:
    """Takes a value of an output's files; ``without`` if it takes none."""
    return lambda of: without if of.objects is None else value(of.objects)


def _of_tree(value: Callable[[TreeStatus], Any]) -> Callable[[OutputIdentity], Any]:
    """Takes a value of an output's tree; None if its files land each by itself."""
    return _of_objects(lambda objects: None if objects.tree is None else value(objects.tree()))


def _of_notices(
    value: Callable[[OutputIdentity], Any], without: Any = None
) -> Callable[[OutputIdentity], Any]:
    """Takes a value of the pipe that is told of an output's files; ``without`` if none is."""
    return _of_objects(lambda of: without if of.notices is None else value(of.notices), without)


def _of_engine(value: Callable[[EngineStatus], Any]) -> Callable[[OutputIdentity], Any]:
    """Takes a value of what an output has with a server; None if it hands datagrams to none."""
    return lambda of: None if of.engine is None else value(of.engine())


def _by_use(symbols: SymbolCounts) -> Mapping[str, int]:
    return {use: getattr(symbols, use) for use in USES}


OUTPUT: tuple[Family[OutputIdentity], ...] = (
    counter("written_datagrams", "Datagrams written to an output.", lambda of: of.counters.written),
    counter(
        "written_bytes",
        "Bytes written to an output, its framing included.",
        lambda of: of.counters.written_bytes,
    ),
    gauge("queued_datagrams", "Datagrams that wait for an output's reader.", lambda of: of.counters.queued),
    counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda output: output.reasons),
    *within(
        lambda of: of.objects,
        Family(
            "mcastd_files",
            "gauge",
            "Files of an output, by state; of expired ones all that ever were.",
            _of_objects(lambda objects: copy_of_counts(objects.states), NO_COUNTS),
            "state",
            known=_of_objects(lambda objects: tuple(objects.states), ()),
        ),
        counts(
            "received_symbols",
            "Datagrams of files that were taken: written (source), kept (repair), there already (duplicate),"
            " or not needed (surplus).",
            _of_objects(lambda objects: _by_use(objects.symbols), NO_COUNTS),
            "use",
            _of_objects(lambda _: USES, ()),
        ),
        counter(
            "restored_symbols",
            "Source symbols that did not come, and were made of repair symbols.",
            _of_objects(lambda objects: objects.symbols.restored),
        ),
        counter(
            "repaired_blocks",
            "Blocks of files that were completed so.",
            _of_objects(lambda objects: objects.symbols.repaired_blocks),
        ),
        counter(
            "wrong_blocks",
            "Blocks of files that were not what was signed, and were thrown away.",
            _of_objects(lambda objects: objects.symbols.wrong_blocks),
        ),
    ),
    *within(
        lambda of: of.engine,
        gauge(
            "engine_connected",
            "1 if the server that an output hands datagrams to is connected.",
            _of_engine(lambda engine: int(engine.server is not None)),
        ),
        gauge(
            "engine_waiting_datagrams",
            "Datagrams that it has not acknowledged yet, those that an earlier run left in the spool"
            " included.",
            _of_engine(lambda engine: engine.waiting),
        ),
        gauge(
            "engine_spool_bytes",
            "What the spool of an output takes on the disk.",
            _of_engine(lambda engine: engine.spool_bytes),
        ),
        counter(
            "engine_duplicates",
            "Datagrams that were sent again, and that the server had.",
            _of_engine(lambda engine: engine.duplicates),
        ),
    ),
    *within(
        lambda of: of.objects,
        counter(
            "switched_trees",
            "Times that a whole tree was exchanged for another.",
            _of_tree(lambda tree: tree.switches),
        ),
        gauge(
            "tree_missing_files",
            "Files that the tree which is listed lacks before it is switched to.",
            _of_tree(lambda tree: tree.missing),
        ),
        counter(
            "written_notices",
            "Lines that the pipe of an output's notify has taken, one for each file.",
            _of_notices(lambda pipe: pipe.counters.written),
        ),
        counts(
            "dropped_notices",
            "Lines that this pipe did not take, by reason.",
            _of_notices(lambda pipe: pipe.counters.dropped, NO_COUNTS),
            "reason",
            _of_notices(lambda pipe: pipe.reasons, ()),
        ),
    ),
)
