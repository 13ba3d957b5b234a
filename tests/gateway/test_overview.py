"""What is looked at of the daemon while somebody looks at its page, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.daemon import RunningDaemon
from support.ports import free_port
from support.wait import wait_for

from mcastd.gateway.overview import EXAMINE_SECONDS, LOOKS_SECONDS, Overview, ShownDaemon, ShownFinding
from mcastd.worker import Headline, Vitals

FINDING = ShownFinding("inbound/news", "broken", "eth7 is down", "ip link set eth7 up")


class FakeDaemon:
    """A daemon with workers as they are said, and a doctor who finds what is said."""

    def __init__(self) -> None:
        self.bytes = {"inbound/news": 0, "outbound/tv": 1000}
        self.looks = 0
        self.examinations = 0
        self.doctor: Callable[[], Sequence[ShownFinding]] = lambda: [FINDING]

    def headlines(self) -> Sequence[Headline]:
        return [Headline(name, "active", 0.0, "", 0, troubled=False) for name in self.bytes]

    def vitals(self) -> Mapping[str, Vitals]:
        self.looks += 1
        return {name: Vitals(payload_bytes=size) for name, size in self.bytes.items()}

    def examine(self) -> Sequence[ShownFinding]:
        self.examinations += 1
        return self.doctor()


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


def found(overview: Overview, now: float) -> ShownDaemon:
    """What is shown once the doctor is ready."""
    wait_for(lambda: overview.shown(now).findings is not None or overview.shown(now).trouble, "the doctor")
    return overview.shown(now)


def test_nothing_is_looked_at_before_somebody_looks(daemon: FakeDaemon) -> None:
    overview = Overview(daemon)
    overview.tick(100.0)
    assert overview.deadline == float("inf")
    assert (daemon.looks, daemon.examinations) == (0, 0)


def test_rates_are_those_since_the_first_look(daemon: FakeDaemon) -> None:
    overview = Overview(daemon)
    assert [worker.rates for worker in overview.shown(100.0).workers] == [(), ()]
    assert overview.deadline == 102.0
    daemon.bytes["inbound/news"] += 1_000_000
    overview.tick(101.0)
    assert daemon.looks == 1, "it is not due"
    overview.tick(102.0)
    daemon.bytes = {"inbound/news": 3_000_000, "inbound/late": 500}
    overview.tick(104.0)
    rates = {worker.headline.name: worker.rates for worker in overview.shown(104.5).workers}
    assert rates == {"inbound/news": (4e6, 8e6), "inbound/late": ()}


def test_when_nobody_looks_any_more_nothing_is_looked_at(daemon: FakeDaemon) -> None:
    overview = Overview(daemon)
    overview.shown(100.0)
    overview.tick(100.0 + LOOKS_SECONDS - 1)
    looks = daemon.looks
    overview.tick(100.0 + LOOKS_SECONDS + 2)
    assert (daemon.looks, overview.deadline) == (looks, float("inf"))
    assert [worker.rates for worker in overview.shown(900.0).workers] == [(), ()], "they begin anew"


def test_the_doctor_looks_aside_and_not_each_time(daemon: FakeDaemon) -> None:
    go_on = threading.Event()
    daemon.doctor = lambda: [FINDING] if go_on.wait(60) else []
    overview = Overview(daemon)
    assert overview.shown(100.0).findings is None
    assert overview.shown(109.0).findings is None
    wait_for(lambda: daemon.examinations == 1, "the doctor")
    overview.shown(109.5)
    doctors = [thread for thread in threading.enumerate() if thread.name == "gateway-doctor"]
    assert len(doctors) == 1, "one at a time"
    go_on.set()
    assert found(overview, 110.0).findings == [FINDING]
    assert overview.shown(112.0).examined == 2.0
    overview.shown(110.0 + EXAMINE_SECONDS)
    assert daemon.examinations == 1, "it took ten seconds, so the next one is later"
    overview.shown(210.0)
    wait_for(lambda: daemon.examinations == 2, "another examination")


def test_a_doctor_who_cannot_look_is_said_so(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Sequence[ShownFinding]:
        raise ValueError("a case that nobody thought of")

    daemon.doctor = fails
    overview = Overview(daemon)
    shown = found(overview, 100.0)
    assert (shown.findings, shown.trouble) == (None, "ValueError: a case that nobody thought of")
    assert len(shown.workers) == 2
    daemon.doctor = lambda: [FINDING]
    overview.shown(100.0 + EXAMINE_SECONDS)
    wait_for(lambda: overview.shown(100.0 + EXAMINE_SECONDS).findings, "that it looks again")
    assert overview.shown(111.0).trouble == ""

    def no_threads(*_: object) -> None:
        raise OSError(11, "no more threads")

    monkeypatch.setattr("mcastd.gateway.overview.begin", no_threads)
    assert overview.shown(200.0).trouble == "no more threads"
    assert overview.shown(200.0).findings == [FINDING], "what it found before is still shown"


def test_a_daemon_shows_its_workers_and_what_the_doctor_finds(tmp_path: Path) -> None:
    port = free_port()
    config = f"""[gateway.tv]
listen = "127.0.0.1:{port}"
allow_groups = ["239.1.0.0/16"]
status_page = true

[inbound.news]
group = "239.1.1.1"
port = 5004
interface = "eth9"
output = "{tmp_path}/out"
"""

    def page() -> str:
        with urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    with RunningDaemon(tmp_path, config) as daemon:
        assert "<h2>Workers</h2>" in page()
        told = "there is no interface eth9"
        wait_for(lambda: told in page(), told)
        shown = page()
        assert "<code>gateway/tv</code>" in shown
        assert "<code>inbound/news</code>" in shown
        daemon.write(config.replace("status_page = true\n", ""))
        assert daemon.ctl("reload").returncode == 0
        assert "<h2>Streams</h2>" in page()
        assert "eth9" not in page()
