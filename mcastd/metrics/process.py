"""The metrics that every program has, by the names that Prometheus gave them.

Not prometheus_client's own collector: it has nothing to say where a unit hides /proc/stat (ProcSubset=pid),
and counts descriptors by listing them, which takes 2 us for each.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mcastd import clock

PROC = Path("/proc/self")  # proc_pid(5)


class ProcessCollector(Collector):
    """This process, as the kernel sees it."""

    def __init__(self) -> None:
        since_boot = int(_stat()[19]) / os.sysconf("SC_CLK_TCK")
        self._started = clock.wall() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot

    def collect(self) -> Iterable[Metric]:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        virtual, resident = map(int, (PROC / "statm").read_text().split()[:2])
        page = resource.getpagesize()
        yield CounterMetricFamily(
            "process_cpu_seconds_total", "User and system CPU time spent.", value=time.process_time()
        )
        for name, text, value in (
            ("start_time_seconds", "When the process started, Unix time.", self._started),
            ("virtual_memory_bytes", "Virtual memory size.", virtual * page),
            ("resident_memory_bytes", "Resident memory size.", resident * page),
            ("open_fds", "Open file descriptors.", _open_descriptors()),
            ("max_fds", "File descriptors that may be open.", most),
        ):
            yield GaugeMetricFamily(f"process_{name}", text, value=value)


def _stat() -> list[str]:
    """The fields from the third on; the second, a name in parentheses, may be anything."""
    return (PROC / "stat").read_text().rpartition(")")[2].split()


def _open_descriptors() -> int:
    listing = PROC / "fd"
    return os.stat(listing).st_size or len(os.listdir(listing))  # Linux 6.2 gives their number as the size
