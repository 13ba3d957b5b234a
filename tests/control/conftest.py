"""A daemon with no network behind it, and a control server in front of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.wait import wait_for

from mcastd import __version__
from mcastd.codec import as_json
from mcastd.control.commands import NoSuchWorker
from mcastd.control.server import ControlServer
from mcastd.doctor.finding import Finding, Report, Severity, Skipped
from mcastd.views import DaemonView, ReloadView, WorkerView
from mcastd.worker import Headline, Vitals

NEWS_OUT = WorkerView(
    name="outbound/news",
    kind="outbound",
    state="active",
    since=125.0,
    detail="239.255.1.2:9190 on eth0",
    restarts=0,
    status={"counters": {"sent": 1200, "sent_bytes": 90000, "refused": {}, "dropped": {"EPERM": 2}}},
)
NEWS_IN = WorkerView(
    name="inbound/news",
    kind="inbound",
    state="active",
    since=7.5,
    detail="",
    restarts=1,
    status={
        "group": "239.255.1.2",
        "sources": [],
        "loop": True,
        "last_datagram_age": 0.00608896400035519,
        "counters": {"received": 1190, "received_bytes": 88000, "truncated": 0, "overflow": 10},
        "outputs": [
            {
                "path": "/var/log/mcastd/news.log",
                "kind": "file",
                "error": None,
                "counters": {"written": 1190, "written_bytes": 88000, "dropped": {}, "queued": 0},
            },
            {
                "path": "/run/mcastd/news.pipe",
                "kind": "fifo",
                "error": "no reader",
                "counters": {"written": 0, "written_bytes": 0, "dropped": {"no-reader": 1190}, "queued": 0},
            },
        ],
    },
)
WEATHER_IN = replace(NEWS_IN, name="inbound/weather", state="active", restarts=0, status={})

REPORT = Report(
    findings=(
        Finding(
            "interface-down",
            Severity.BROKEN,
            "eth0 is down",
            ("flags of eth0 have no UP",),
            "ip link set eth0 up",
            "inbound/news",
        ),
    ),
    skipped=(Skipped("wire", "needs root (CAP_NET_RAW)", "inbound/news", privileged=True),),
    workers=("inbound/news",),
    checks=("interface", "wire"),
    watched=1.0,
)


@dataclass
class FakeDaemon:
    """Operations that remember what was asked of them."""

    workers: list[WorkerView] = field(default_factory=lambda: [NEWS_OUT, NEWS_IN, WEATHER_IN])
    done: dict[str, Vitals] = field(default_factory=dict)
    looks: int = 0  # at the vitals
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None  # raised by whatever would change something
    reloaded: ReloadView = field(default_factory=lambda: ReloadView(added=("inbound/new",)))
    report: Report = REPORT
    entered: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(0)
    )  # by reload(), and a long doctor()
    proceed: threading.Event = field(default_factory=threading.Event)  # reload() waits for it
    disabled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.proceed.set()

    def describe(self) -> DaemonView:
        return DaemonView(
            __version__, 4711, "/etc/mcastd.toml", 90061.0, "3 of 3 workers active", self.disabled
        )

    def list_workers(self) -> list[WorkerView]:
        return self.workers

    def get_worker(self, name: str) -> WorkerView:
        for worker in self.workers:
            if worker.name == name:
                return worker
        raise NoSuchWorker(name)

    def headlines(self) -> list[Headline]:
        return [
            Headline(worker.name, worker.state, 0.0, worker.detail, worker.restarts, worker.state == "failed")
            for worker in self.workers
        ]

    def vitals(self) -> dict[str, Vitals]:
        self.looks += 1
        return {worker.name: self.done.get(worker.name, Vitals()) for worker in self.workers}

    def doctor(self, name: str | None, watch: float, probe: bool, gone: Callable[[], bool]) -> dict[str, Any]:
        self._note(f"doctor {name} {watch:g} {probe}")
        if watch >= 100:  # as the real one, it watches until its client is gone
            self.entered.release()
            wait_for(gone, "the client's end")
        if name is not None:
            self.get_worker(name)
        told: dict[str, Any] = as_json(self.report)
        return told

    def reload(self) -> ReloadView:
        self.entered.release()
        self.proceed.wait()
        self._note("reload")
        return self.reloaded

    def reopen(self) -> None:
        self._note("reopen")

    def start(self, name: str) -> None:
        self._note(f"start {self.get_worker(name).name}")

    def stop(self, name: str) -> None:
        self._note(f"stop {self.get_worker(name).name}")

    def _note(self, what: str) -> None:
        if self.error:
            raise self.error
        self.asked.append(what)


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control"


@pytest.fixture
def server(path: Path, daemon: FakeDaemon) -> Iterator[ControlServer]:
    """A server that is listening, and that must leave no thread behind."""
    before = set(threading.enumerate())
    server = ControlServer(path, daemon)
    server.start()
    yield server
    daemon.proceed.set()
    server.close()
    wait_for(lambda: set(threading.enumerate()) <= before, "no thread is left")
