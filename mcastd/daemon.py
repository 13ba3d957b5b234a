"""One run of the daemon: start, reloads, commands, signals, end."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mcastd import __version__, clock, log, systemd
from mcastd.bell import Bell
from mcastd.chores import Chores
from mcastd.codec import as_json
from mcastd.config import Config, WorkerSettings, diff
from mcastd.control.commands import NoSuchWorker
from mcastd.control.protocol import Message
from mcastd.control.server import ControlServer
from mcastd.doctor.brief import in_brief
from mcastd.doctor.evidence import Troubles
from mcastd.doctor.examine import consult
from mcastd.doctor.finding import Report
from mcastd.doctor.subject import Subject, named
from mcastd.errors import ConfigError, ConfigProblem, McastdError
from mcastd.gateway.overview import ShownFinding
from mcastd.inbound.sinks import PIPES, Ends
from mcastd.later import Once
from mcastd.makers import Parts, load
from mcastd.metrics import MetricsServer
from mcastd.ondisk import OnDisk
from mcastd.process import Signals, settle
from mcastd.reload_notes import LastChanges, counts_of, taken_over, troubles_of
from mcastd.reloads import Reloads
from mcastd.runtime import KEPT_TABLES, Runtime
from mcastd.stored import TABLES
from mcastd.views import DaemonView, ReloadView, WorkerView
from mcastd.worker import Headline, Signal, Vitals

if TYPE_CHECKING:
    from mcastd.bridge.kept import KeptTables

# READY=1 waits this long, at most, for the first attempt of each worker.
FIRST_ATTEMPTS_SECONDS = 5.0
# For a page the doctor watches the wire for so long.
WATCH_SECONDS = 1.0
# The share of stop_timeout that workers have to end; the rest is for what they share, and for the log.
WORKERS_SHARE = 0.8
# The process is ended after this long, if stop_timeout is shorter.
LEAST_STOP_SECONDS = 2.0


class Daemon:
    """One run of the daemon for one configuration file; also what the control socket's commands act on.

    ``socket`` is where to listen if the configuration does not say: each daemon of a host needs its own.
    ``warnings`` are what is unwise in the configuration.
    """

    def __init__(
        self,
        disk: OnDisk,
        config: Config,
        socket: Path | None = None,
        warnings: Sequence[ConfigProblem] = (),
    ) -> None:
        self._disk = disk
        self._config = config
        self._warnings = warnings
        unsaid = "control_socket" not in config.daemon.model_fields_set
        self._socket = socket if socket and unsaid else config.daemon.control_socket
        self._log = log.get_logger()
        self._born = clock.monotonic()
        self._change = threading.Lock()  # one start, reload, worker's start or stop at a time
        self._reloads = Reloads(self._start, self._reload)
        self._last_changes = LastChanges()
        self._stopping = False
        self._failed = False  # by a bug of ours, at the start
        self._alarm = Bell()  # rung once the start has failed
        store, stored = systemd.DescriptorStore(), systemd.take_stored()
        self._ends = Ends(store, [fd for name, fd in stored if name.startswith(PIPES)])
        routes = [(name, fd) for name, fd in stored if name.startswith(TABLES)]
        tables: Once[KeptTables] = Once(lambda: KEPT_TABLES(store, routes))
        if routes:
            tables()
        self._control = ControlServer(self._socket, self)
        self._runtime = Runtime(
            lambda: self._config,
            self._worker_changed,
            Parts(ends=self._ends, tables=tables, diagnose=in_brief, daemon=self),
        )
        self._supervisor = self._runtime.supervisor
        self._chores = Chores(
            self._supervisor, self._runtime.serves_none, self._summary, self._begin_unstarted
        )
        self._metrics = MetricsServer(self._supervisor.books, self._chores.note_change)

    def _worker_changed(self) -> None:
        self._chores.note_change()
        self._control.changed()

    def run(self) -> int:
        """Run until a signal ends it. Returns the exit status. Raises ControlError if the socket is taken."""
        # Kept until the process ends: a signal that is not caught would kill it.
        signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        with ExitStack() as stack:
            stack.callback(self._runtime.close)
            stack.callback(self._metrics.close)
            self._change.acquire()  # until the workers have started: a client's change waits for that
            self._control.start()
            stack.callback(self._control.close)
            self._log.info(
                "daemon.started", version=__version__, pid=os.getpid(), config=str(self._disk.path)
            )
            self._metrics.serve_at(self._config.daemon.metrics)
            self._reloads.start()
            self._serve(signals)
            return self._shut_down()

    def _start(self) -> None:
        """Start all workers, in the reloads' thread: the main thread may be told to stop meanwhile.

        The main thread has begun the change that ends here.
        """
        try:
            try:
                self._advise()
                self._runtime.wakes(len(self._config.workers()))
                changes = diff(Config(), self._config)
                self._supervisor.apply(changes, self._config.workers(), self._config.daemon.stop_timeout)
                self._say_ready()
            finally:
                self._change.release()
            if not self._stopping:
                settle()
                self._log.info("daemon.ready", summary=self._summary())
        except Exception:
            self._log.exception("daemon.failed")
            self._failed = True
            self._alarm.ring()

    def _advise(self) -> None:
        """Log what is unwise in the configuration."""
        for warning in self._warnings:
            self._log.warning("config.advised", warning=str(warning))

    def _summary(self) -> str:
        problems = self._runtime.network.problem, self._metrics.problem, log.problem()
        return "; ".join(filter(None, [self._supervisor.summary(), *problems]))

    def _say_ready(self) -> None:
        if not self._supervisor.wait_attempted(FIRST_ATTEMPTS_SECONDS):
            self._log.warning("workers.delayed", reason=f"not all tried within {FIRST_ATTEMPTS_SECONDS:g} s")
        self._ends.settle()
        self._runtime.settle()
        if not self._stopping:
            systemd.ready(self._summary())

    def _serve(self, signals: Signals) -> None:
        """The main thread's life: signals, status and watchdog, until SIGTERM or SIGINT."""
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        chores = self._chores
        while not self._failed:
            ready = dict(poll.poll(chores.next_due()))
            if signals.fileno() in ready:
                for number in signals.take():
                    if number in (signal.SIGTERM, signal.SIGINT):
                        self._log.info("daemon.stopping", signal=signal.Signals(number).name)
                        return
                    if number == signal.SIGHUP:
                        self._reloads.request()
                    elif number == signal.SIGUSR1:
                        self.reopen()
            chores.do()
            self._runtime.notice_calm()
            self._runtime.retry()

    def _begin_unstarted(self) -> bool:
        if not self._change.acquire(blocking=False):  # the watchdog must not wait for a reload that hangs
            return True
        try:
            return not self._stopping and self._supervisor.begin_unstarted()
        finally:
            self._change.release()

    def _shut_down(self) -> int:
        """End all workers, also while a reload is under way. Returns the exit status: 1 if a worker hangs."""
        timeout = self._config.daemon.stop_timeout
        # If anything hangs below, this ends the process, and prints nothing.
        with suppress(OSError, RuntimeError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            faulthandler.dump_traceback_later(max(timeout, LEAST_STOP_SECONDS), exit=True, file=nowhere)
        self._stopping = True
        self._reloads.close(_stopping("reload"))
        systemd.stopping()
        self._runtime.leave()
        stuck = self._supervisor.close(timeout * WORKERS_SHARE)
        self._log.info("daemon.stopped", clean=not stuck)
        return 1 if stuck or self._failed else 0

    # -- what the control socket's commands do, from their own threads

    def describe(self) -> DaemonView:
        age = clock.monotonic() - self._born
        return DaemonView(
            __version__,
            os.getpid(),
            str(self._disk.path),
            age,
            self._summary(),
            self._config.disabled(),
            self._notes(),
        )

    def _notes(self) -> list[str]:
        """What differs between the daemon as it runs and the configuration on disk."""
        notes = [self._disk.verdict(self._config).text]
        config = self._config.daemon
        if "control_socket" in config.model_fields_set and config.control_socket != self._socket:
            notes.append(f"daemon.control_socket is {self._socket} until the next restart")
        return list(filter(None, notes))

    def list_workers(self) -> Sequence[WorkerView]:
        return self._supervisor.views()

    def get_worker(self, name: str) -> WorkerView:
        with _known(name):
            return self._supervisor.view(name)

    def headlines(self) -> Sequence[Headline]:
        return self._supervisor.headlines()

    def vitals(self) -> Mapping[str, Vitals]:
        return self._supervisor.vitals()

    def doctor(self, name: str | None, watch: float, probe: bool, gone: Callable[[], bool]) -> Message:
        """Examine the workers that ``name`` means, or all, in the eyes of this process and its user."""
        of = named(name, (subject.name for subject in self._subjects()))
        if not of and name is not None:
            raise NoSuchWorker(name)
        told: Message = as_json(self._consult(of, seconds=watch, probe=probe, enough=gone))
        return told

    def examine(self) -> Sequence[ShownFinding]:
        """What the doctor finds of all workers and the host, for a page: it takes a second, and more."""
        return [
            ShownFinding(one.worker, str(one.severity), one.what, one.fix)
            for one in self._consult(None, seconds=WATCH_SECONDS).findings
        ]

    def _consult(
        self,
        of: Collection[str] | None,
        *,
        seconds: float,
        probe: bool = False,
        enough: Callable[[], bool] = lambda: False,
    ) -> Report:
        return consult(
            self._subjects,
            of,
            seconds=seconds,
            probe=probe,
            enough=enough,
            configuration=self._disk.verdict(self._config),
            troubles=Troubles(self._metrics.problem, log.problem()),
        )

    def _subjects(self) -> list[Subject[WorkerSettings]]:
        settings = self._config.workers()  # a reload may be under way: one of the two may lack a worker
        return [
            Subject.of(view, settings[view.name])
            for view in self._supervisor.views()
            if view.name in settings
        ]

    def reload(self) -> ReloadView:
        """Check the new configuration whole, then go over to it; on ConfigError nothing has changed."""
        return self._reloads.request().result()

    def _reload(self) -> ReloadView:
        """Reload once for all requests since the last reload began. Runs in the thread of the reloads."""
        systemd.reloading()
        try:
            return self._take_over(*self._disk.read())
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("config.refused", problem=str(problem))
            systemd.ready(f"reload refused, the old configuration runs on: {error.problems[0]}")
            raise
        except McastdError as error:
            self._log.error("reload.failed", reason=str(error))
            systemd.ready(f"reload failed, the old configuration runs on: {error}")
            raise
        except Exception:  # a bug of ours must not end workers that run
            self._log.exception("reload.failed")
            systemd.ready("reload failed: see the log")
            raise

    def _take_over(self, config: Config, warnings: Sequence[ConfigProblem]) -> ReloadView:
        with self._changing("reload"):
            load(config.workers().values())
            changes = diff(self._config, config)
            log.configure(config.daemon.log_format, config.daemon.log_level)
            self._config = config
            self._warnings = warnings
            self._advise()
            self._runtime.wakes(len(changes.added) + len(changes.changed))
            self._metrics.serve_at(config.daemon.metrics)
            workers = config.workers()
            before = {
                headline.name: headline.detail
                for headline in self._supervisor.headlines()
                if (settings := workers.get(headline.name)) is not None and settings.rereads
            }
            try:
                self._supervisor.apply(changes, workers, config.daemon.stop_timeout)
            finally:
                self._say_ready()
            settle(again=True, ended=bool(changes.removed or changes.changed))
            supervisor = self._supervisor
            notes = [
                *taken_over(changes),
                *troubles_of(changes, before, supervisor.not_attempted(), supervisor.headlines()),
                *self._notes(),
                *self._last_changes.note(changes, clock.monotonic(), rereads=bool(before)),
                *filter(None, [self._metrics.problem]),
            ]
            view = ReloadView(changes.added, changes.removed, changes.changed, changes.unchanged, notes)
            self._log.info("config.reloaded", **counts_of(changes), notes=notes)
            return view

    def reopen(self) -> None:
        self._supervisor.send(Signal.REOPEN)
        self._log.info("outputs.reopened")

    def start(self, name: str) -> None:
        with self._changing(f"start {name}"), _known(name):
            self._supervisor.start(name)

    def stop(self, name: str) -> None:
        timeout = self._config.daemon.stop_timeout
        with self._changing(f"stop {name}"), _known(name):
            if not self._supervisor.stop(name, timeout):
                raise McastdError(
                    f"cannot stop {name}", f"it did not end within {timeout:g} s", "see the log"
                )
            self._ends.settle()

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """Hold the lock of changes. Refuse any once the daemon ends: it would start workers again."""
        with self._change:
            if self._stopping:
                raise _stopping(what)
            yield


def _stopping(what: str) -> McastdError:
    return McastdError(f"cannot {what}", "the daemon is stopping", "start it again")


@contextmanager
def _known(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise NoSuchWorker(name) from None
