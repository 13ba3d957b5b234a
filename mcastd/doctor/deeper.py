"""The checks that a daemon without privileges had to leave out, made by a command that has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mcastd import log
from mcastd.config import WorkerSettings, load
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.examine import completed, examine, observe
from mcastd.doctor.finding import Report
from mcastd.doctor.subject import Subject
from mcastd.errors import ConfigError, McastdError
from mcastd.threads import Thread
from mcastd.views import WorkerView

UNKNOWN = "the configuration on disk is not the one that runs: mend it, and reload"


class DeeperLook:
    """Watches beside the daemon, while that watches; with ``probe`` both send one."""

    def __init__(
        self,
        config: Path,
        list_workers: Callable[[], Sequence[WorkerView]],
        seconds: float,
        *,
        probe: bool = False,
    ) -> None:
        """``config`` is the daemon's; if it was changed meanwhile without a reload, we see the new one."""
        try:
            self._settings = load(config).workers()
        except ConfigError:
            self._settings = {}
        self._list_workers = list_workers
        self._seconds = seconds
        self._probe = probe
        self._seen: tuple[list[Subject[WorkerSettings]], Evidence] | None = None
        self._thread = Thread(target=self._observe, name="deeper")
        self._thread.start()

    def _take(self) -> list[Subject[WorkerSettings]]:
        return [
            Subject.of(one, self._settings[one.name])
            for one in self._list_workers()
            if one.name in self._settings
        ]

    def _observe(self) -> None:
        try:
            self._seen = observe(self._take, seconds=self._seconds, probe=self._probe)
        except McastdError as error:  # then the daemon's own reply has to do, as below
            log.get_logger().debug("look.failed", reason=str(error))
        except Exception:  # then the daemon's own reply has to do
            log.get_logger().exception("look.failed")

    def complete(self, report: Report) -> Report:
        """The daemon's report with what it could not look at."""
        self._thread.join()
        wanted = {skipped.check for skipped in report.skipped if skipped.privileged}
        if not wanted or self._seen is None:
            return report
        subjects, evidence = self._seen
        meant = [subject for subject in subjects if subject.name in report.workers]
        if len(meant) < len(report.workers):
            skipped = (replace(one, reason=UNKNOWN) if one.privileged else one for one in report.skipped)
            return replace(report, skipped=tuple(skipped))
        return completed(report, examine(meant, evidence, wanted, alone=False))
