"""The composition root: load, build, supervise, notify, signals. It reads as the daemon's life."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mcastd import __version__, clock, log, systemd
from mcastd.build import build
from mcastd.config import Changes, Config, InboundSubscription, OutboundChannel, diff, examine
from mcastd.control.commands import DaemonView, NoSuchWorker, ReloadView
from mcastd.control.protocol import Message
from mcastd.control.server import ControlServer
from mcastd.doctor.examine import consult
from mcastd.doctor.subject import Subject, named
from mcastd.errors import ConfigError, ConfigProblem, McastdError
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import PIPES, Ends
from mcastd.metrics import MetricsServer
from mcastd.net.membership import Memberships
from mcastd.net.watch import NetworkWatch
from mcastd.outbound.watcher import Watcher
from mcastd.process import Signals, settle, share_interpreter
from mcastd.supervisor import Supervisor
from mcastd.worker import Headline, Signal, Vitals, Worker, WorkerView

FIRST_ATTEMPTS = 5.0  # seconds: READY=1 waits no longer for workers' first attempts
RESTART_ONLY = ("control_socket", "metrics")  # keys of [daemon] that a reload cannot change


class Daemon:
    """One run of the daemon for one configuration file; also what the control socket's commands act on.

    ``socket`` is where to listen if the configuration does not say: each daemon of a host needs its own.
    ``warnings`` are what is unwise in the configuration.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        socket: Path | None = None,
        warnings: Sequence[ConfigProblem] = (),
    ) -> None:
        self._path = path
        self._config = config
        self._warnings = warnings
        unsaid = "control_socket" not in config.daemon.model_fields_set
        self._socket = socket if socket and unsaid else config.daemon.control_socket
        self._log = log.get_logger()
        self._born = clock.monotonic()
        self._change = threading.Lock()  # one reload, start or stop at a time
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # a worker's state changed
        self._memberships = Memberships()
        self._reader = Reader()
        self._watcher = Watcher()
        self._ends = Ends(systemd.DescriptorStore(), systemd.take_stored(PIPES))
        self._metrics: MetricsServer | None = None
        self._control = ControlServer(self._socket, self)
        self._supervisor = Supervisor(self._build, self._worker_changed)
        self._network = NetworkWatch(self._supervisor.network_changed)

    def _build(self, name: str, settings: OutboundChannel | InboundSubscription) -> Worker:
        return build(
            name,
            settings,
            host=self._network.host,
            memberships=self._memberships,
            reader=self._reader,
            watcher=self._watcher,
            ends=self._ends,
        )

    def _worker_changed(self) -> None:
        os.eventfd_write(self._wake, 1)
        self._control.changed()

    def run(self) -> int:
        """From start to stop; the exit status. Raises ControlError if another daemon runs on the socket."""
        daemon = self._config.daemon
        with ExitStack() as stack:
            stack.callback(self._network.close)
            stack.callback(self._reader.close)
            stack.callback(self._watcher.close)
            with self._change:  # clients are served from here on, and may ask for one: they wait
                self._control.start()
                stack.callback(self._control.close)
                signals = stack.enter_context(
                    Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
                )
                if metrics := self._open_metrics():
                    self._metrics = metrics
                    stack.callback(metrics.close)
                self._log.info("daemon.started", version=__version__, pid=os.getpid(), config=str(self._path))
                self._advise()
                workers = self._config.workers()
                share_interpreter(len(self._config.of_enabled().outbound))
                self._supervisor.apply(diff(Config(), self._config), workers, daemon.stop_timeout)
                self._say_ready()
            settle()
            self._log.info("daemon.ready", summary=self._summary())
            self._serve(signals)
            return self._shut_down()

    def _advise(self) -> None:
        """Log what is unwise in the configuration."""
        for warning in self._warnings:
            self._log.warning("config.advised", warning=str(warning))

    def _open_metrics(self) -> MetricsServer | None:
        address = self._config.daemon.metrics
        return MetricsServer(address, self._supervisor.books, self._wake_up) if address else None

    def _wake_up(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _summary(self) -> str:
        problem = self._metrics.problem if self._metrics else ""
        return "; ".join(filter(None, [self._supervisor.summary(), problem]))

    def _say_ready(self) -> None:
        if not self._supervisor.wait_attempted(FIRST_ATTEMPTS):
            self._log.warning("workers.delayed", reason=f"not all tried within {FIRST_ATTEMPTS:g} s")
        self._ends.settle()
        systemd.ready(self._summary())

    def _serve(self, signals: Signals) -> None:
        """The main thread's life: signals, status and watchdog, until SIGTERM or SIGINT."""
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        chores = _Chores(self._supervisor, self._summary, self._begin_unstarted)
        while True:
            ready = dict(poll.poll(chores.next_due()))
            if self._wake in ready:
                os.eventfd_read(self._wake)
                chores.status_changed()
            if signals.fileno() in ready:
                for number in signals.take():
                    if number in (signal.SIGTERM, signal.SIGINT):
                        self._log.info("daemon.stopping", signal=signal.Signals(number).name)
                        return
                    # In a thread of its own: the watchdog is fed while workers are waited for
                    threading.Thread(target=self._obey, args=(number,), name="signal", daemon=True).start()
            chores.do()

    def _obey(self, number: int) -> None:
        try:
            if number == signal.SIGUSR1:
                self.reopen()
            elif number == signal.SIGHUP:
                self.reload()
        except (ConfigError, McastdError) as error:
            self._log.warning("signal.refused", signal=signal.Signals(number).name, reason=str(error))
        except Exception:  # a bug of ours must not end what runs well
            self._log.exception("signal.failed", signal=signal.Signals(number).name)

    def _begin_unstarted(self) -> bool:
        if not self._change.acquire(blocking=False):
            return True  # later: a reload that waits for a hung worker must not starve the watchdog
        try:
            return not self._stopping and self._supervisor.begin_unstarted()
        finally:
            self._change.release()

    def _shut_down(self) -> int:
        systemd.stopping()
        with self._change:
            self._stopping = True
            stuck = self._supervisor.stop_all(self._config.daemon.stop_timeout * 0.9)
        self._log.info("daemon.stopped", clean=not stuck)
        return 1 if stuck else 0

    # -- what the control socket's commands do, from their own threads

    def describe(self) -> DaemonView:
        age = clock.monotonic() - self._born
        disabled = self._config.disabled()
        return DaemonView(__version__, os.getpid(), str(self._path), age, self._summary(), disabled)

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
        return consult(self._subjects, of, seconds=watch, probe=probe, enough=gone).as_message()

    def _subjects(self) -> list[Subject]:
        settings = self._config.workers()  # a reload may be under way: one of the two may lack a worker
        return [
            Subject(view.name, settings[view.name], view.state, view.detail, view.status)
            for view in self._supervisor.views()
            if view.name in settings
        ]

    def reload(self) -> ReloadView:
        """Check the new configuration whole, then go over to it; on ConfigError nothing has changed."""
        with self._changing("reload"):
            systemd.reloading()
            try:
                config, warnings = examine(self._path)
            except ConfigError as error:
                for problem in error.problems:
                    self._log.error("config.refused", problem=str(problem))
                systemd.ready(f"reload refused, the old configuration runs on: {error.problems[0]}")
                raise
            changes = diff(self._config, config)
            log.configure(config.daemon.log_format, config.daemon.log_level)
            self._config = config
            self._warnings = warnings
            self._advise()
            share_interpreter(len(config.of_enabled().outbound))
            try:
                self._supervisor.apply(changes, config.workers(), config.daemon.stop_timeout)
            finally:
                self._say_ready()
            settle(again=True)
            notes = [
                f"daemon.{key} changes at the next restart"
                for key in RESTART_ONLY
                if key in changes.daemon_changed
            ]
            view = ReloadView(changes.added, changes.removed, changes.changed, changes.unchanged, notes)
            self._log.info("config.reloaded", **_counts(changes), notes=notes)
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
        """One change at a time, and none once the end has begun: it would revive workers."""
        with self._change:
            if self._stopping:
                raise McastdError(f"cannot {what}", "the daemon is stopping", "start it again")
            yield


def _counts(changes: Changes) -> dict[str, int]:
    return {
        "added": len(changes.added),
        "removed": len(changes.removed),
        "changed": len(changes.changed),
        "unchanged": len(changes.unchanged),
    }


@contextmanager
def _known(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise NoSuchWorker(name) from None


class _Chores:
    """What the main thread does when its time has come: status, watchdog, workers that lacked a thread."""

    STATUS_EVERY = 1.0  # seconds at least between two STATUS messages
    UNSTARTED_EVERY = 5.0  # seconds between attempts to start what could not be started
    BLOCKED_EVERY = 1.0  # seconds between looks for workers that wait for a path that does not answer

    def __init__(
        self, supervisor: Supervisor, summary: Callable[[], str], begin_unstarted: Callable[[], bool]
    ) -> None:
        self._supervisor = supervisor
        self._summary = summary
        self._begin_unstarted = begin_unstarted
        self._log = log.get_logger()
        self._watchdog = systemd.watchdog_interval()
        self._hanging: list[str] = []
        self._status_at = math.inf  # monotonic seconds, as the others
        self._watchdog_at = math.inf if self._watchdog is None else clock.monotonic()
        self._unstarted_at = clock.monotonic() + self.UNSTARTED_EVERY
        self._blocked_at = clock.monotonic()

    def next_due(self) -> float:
        """Milliseconds until :meth:`do` has something to do."""
        due = min(self._status_at, self._watchdog_at, self._unstarted_at, self._blocked_at)
        return max(0.0, due - clock.monotonic()) * 1000

    def status_changed(self) -> None:
        if systemd.is_listening():
            self._status_at = min(self._status_at, clock.monotonic() + self.STATUS_EVERY)
        if self._unstarted_at == math.inf:
            self._unstarted_at = clock.monotonic() + self.UNSTARTED_EVERY

    def do(self) -> None:
        now = clock.monotonic()
        if now >= self._status_at:
            self._status_at = math.inf
            systemd.status(self._summary())
        if now >= self._blocked_at:
            self._blocked_at = now + self.BLOCKED_EVERY
            self._supervisor.notice_blocked()
        if now >= self._watchdog_at and self._watchdog is not None:
            self._watchdog_at = now + self._watchdog
            self._feed_watchdog()
        if now >= self._unstarted_at:
            more = self._begin_unstarted()
            self._unstarted_at = now + self.UNSTARTED_EVERY if more else math.inf

    def _feed_watchdog(self) -> None:
        was_hanging, self._hanging = self._hanging, self._supervisor.hanging()
        if not self._hanging:
            systemd.watchdog()
        elif self._hanging != was_hanging:
            self._log.error(
                "workers.hung", workers=self._hanging, reason="no heartbeat; systemd will restart us"
            )
