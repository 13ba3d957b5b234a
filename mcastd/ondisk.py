"""The configuration on disk: it may differ from the running one, be broken, or be on a mount that hangs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from mcastd import clock
from mcastd.bounded import ask, begin
from mcastd.config import Config, examine
from mcastd.errors import SHORTAGES, ConfigError, ConfigProblem, McastdError, reason_of

# A disk that has not answered after this long hangs.
READ_SECONDS = 2.0
# A client that asks for the status waits no longer than this for a look at the disk.
LOOK_SECONDS = 0.3


class Verdict(NamedTuple):
    """What is wrong with the configuration on disk; empty if it is the one that runs."""

    cause: str = ""  # one of the doctor's causes
    text: str = ""  # for people


GOOD = Verdict()
Files = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and modification time of each file: an edit changes it."""


class OnDisk:
    """The configuration at ``path``, with its drop-ins. For any thread. Never waits long for a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # guards what follows; no file is touched while it is held
        self._look: Future[Verdict] | None = None  # the last one; no other begins before it has ended
        self._began = 0.0  # monotonic seconds
        self._seen: tuple[Files, Config] | None = None  # what was compared last
        self._verdict = GOOD  # and what came of it

    def read(self, seconds: float | None = READ_SECONDS) -> tuple[Config, Sequence[ConfigProblem]]:
        """Examine it. Raises ConfigError if it is refused, McastdError if no disk answers in ``seconds``."""
        try:
            try:
                files = ask(self._touch, seconds, "config")
            except BlockingIOError:
                files = self._touch()  # without a thread, or no reload to fewer workers could free one
        except TimeoutError:
            way_out = "the old configuration runs on"
            raise McastdError("cannot read the configuration", self._silent().text, way_out) from None
        except OSError as error:
            raise McastdError("cannot read the configuration", reason_of(error), "try again") from error
        config, warnings = examine(self.path)
        with self._lock:
            self._seen, self._verdict = (files, config), GOOD
        return config, warnings

    def verdict(self, running: Config) -> Verdict:
        """What is wrong with it, or that it differs from the ``running`` one.

        It is examined only after it changed.
        """
        try:
            with self._lock:
                if self._look is None or self._look.done():
                    self._began = clock.monotonic()
                    self._look = begin(lambda: self._compare(running), "config")
                look = self._look
            return look.result(LOOK_SECONDS)
        except TimeoutError:
            with self._lock:
                silent = clock.monotonic() - self._began > READ_SECONDS
                return self._silent() if silent else self._verdict
        except OSError:  # no descriptor or thread to be had now
            return self._verdict

    def _compare(self, running: Config) -> Verdict:
        files = self._files(running)
        with self._lock:
            if self._seen is not None and self._seen[0] == files and self._seen[1] is running:
                return self._verdict
        self._touch()
        verdict = GOOD
        try:
            if examine(self.path)[0] != running:
                verdict = Verdict("config-differs", f"{self.path} differs from what runs: mcastctl reload")
        except ConfigError as error:
            text = f"the configuration on disk is refused, a restart would fail: {error.problems[0]}"
            verdict = Verdict("config-refused", text)
        with self._lock:
            self._seen, self._verdict = (files, running), verdict
        return verdict

    def _files(self, running: Config | None = None) -> Files:
        """Those of the configuration; with ``running``, the descriptions that this one names, too."""
        paths = [self.path, *sorted(Path(f"{self.path}.d").glob("*.toml"))]
        inbound = () if running is None else running.inbound.values()
        paths += (Path(one.sdp.path) for one in inbound if one.sdp is not None and one.sdp.path)
        found = []
        for path in paths:
            try:
                status = path.stat()
            except OSError as error:
                _raise_if_short(error)
                continue
            found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _touch(self) -> Files:
        """Read all files, so that they are cached. Raises OSError only if descriptors or memory are short.

        A pipe or device is left alone, since to read one may never end: examine() refuses it.
        """
        files = self._files()
        for path, _, size, _ in files:
            try:
                if Path(path).is_file():
                    with open(path, "rb") as file:
                        file.read(size)
            except OSError as error:  # examine() meets any other, too, and says so
                _raise_if_short(error)
        return files

    def _silent(self) -> Verdict:
        return Verdict("config-silent", f"the disk or mount of {self.path} does not answer")


def _raise_if_short(error: OSError) -> None:
    if error.errno in SHORTAGES:
        raise error
