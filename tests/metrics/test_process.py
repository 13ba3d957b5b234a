"""What is told of the process itself: what the kernel says, in a unit that hides most of /proc, too."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from metrics.conftest import parse
from prometheus_client import CollectorRegistry, generate_latest
from support.programs import ONLY_PROCESSES_IN_PROC

from mcastd.metrics import process
from mcastd.metrics.process import ProcessCollector

PRINT = """
from prometheus_client import CollectorRegistry, generate_latest
from mcastd.metrics.process import ProcessCollector
registry = CollectorRegistry()
registry.register(ProcessCollector())
print(generate_latest(registry).decode())
"""


def told() -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ProcessCollector())
    return {name: value for (name, _), value in parse(generate_latest(registry).decode()).items()}


def test_it_is_what_the_kernel_says() -> None:
    before = time.process_time()
    samples = told()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert before <= samples["process_cpu_seconds_total"] <= time.process_time()
    assert samples["process_resident_memory_bytes"] == pytest.approx(
        int(status["VmRSS"].split()[0]) * 1024, rel=0.1
    )
    assert samples["process_virtual_memory_bytes"] == pytest.approx(
        int(status["VmSize"].split()[0]) * 1024, rel=0.1
    )
    assert samples["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("size", [True, False])
def test_descriptors_are_counted(size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel, or one by one where it does not."""
    if not size:
        monkeypatch.setattr(process.os, "stat", lambda _: SimpleNamespace(st_size=0))
    before = told()["process_open_fds"]
    opened = [os.dup(1) for _ in range(5)]
    try:
        assert told()["process_open_fds"] == before + 5
    finally:
        for fd in opened:
            os.close(fd)


def test_it_is_told_in_a_unit_that_shows_nothing_but_processes() -> None:
    before = time.time()
    text = subprocess.check_output([*ONLY_PROCESSES_IN_PROC, sys.executable, "-c", PRINT], text=True)
    samples = {name: value for (name, _), value in parse(text).items()}
    assert samples.keys() == told().keys()
    assert len(samples) == 6
    assert before - 0.02 <= samples["process_start_time_seconds"] <= time.time(), "in ticks of 10 ms"
