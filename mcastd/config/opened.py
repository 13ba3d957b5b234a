"""The files that sources and outputs have open: the same file may have several names, which no text shows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mcastd.config.loops import Loop, loops
from mcastd.config.types import normal
from mcastd.config.whole import Config
from mcastd.paths import FileIdentity


class OpenFiles:
    """By worker and path. For any thread; asks no file, so nothing that hangs is waited for.

    ``config`` gives the configuration of what runs.
    """

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], FileIdentity] = {}  # by worker and path
        # By file and path: the number of workers that have it open by that path
        self._names: dict[FileIdentity, Counter[str]] = {}

    def of(self, worker: str) -> OpenFilesOf:
        return OpenFilesOf(self, worker)

    def opened(self, worker: str, path: Path, identity: FileIdentity) -> Loop | None:
        """Note that a worker has opened a file, unless what it sends would then come back for ever.

        Returns the loop in that case: the worker is to close the file.
        """
        name = normal(path)
        with self._lock:
            self._forget(worker, name)
            if self._names.get(identity, Counter()).keys() - {name}:
                known: dict[str, object] = {other: of for (_, other), of in self._open.items()}
                known[name] = identity
                if loop := self._loop(worker, identity, known):
                    return loop
            self._open[worker, name] = identity
            self._names.setdefault(identity, Counter())[name] += 1
        return None

    def closed(self, worker: str, path: Path) -> None:
        with self._lock:
            self._forget(worker, normal(path))

    def _forget(self, worker: str, name: str) -> None:
        if (identity := self._open.pop((worker, name), None)) is not None:
            names = self._names[identity]
            names[name] -= 1
            if not names[name]:
                del names[name]
            if not names:
                del self._names[identity]

    def _loop(self, worker: str, identity: FileIdentity, known: dict[str, object]) -> Loop | None:
        """The loop that a worker is in by the file of ``identity``: it sends it or writes it."""

        def file(path: Path) -> object:
            return known.get(normal(path), normal(path))

        workers = self._config().workers()
        sends = worker in workers and any(workers[worker].reads())
        for loop in loops(workers, file):
            if worker == loop.sender if sends else file(loop.source) == identity:
                return loop
        return None


class OpenFilesOf(NamedTuple):
    """The same for one worker."""

    files: OpenFiles
    worker: str

    def opened(self, path: Path, identity: FileIdentity) -> Loop | None:
        return self.files.opened(self.worker, path, identity)

    def closed(self, path: Path) -> None:
        self.files.closed(self.worker, path)
