"""Channels of media, made for real: a way that is down, and a host that keeps the pace from being kept.

See test_gallery.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faults import ip, news, outbound
from support.gallery import PORT, Case, Lab, show
from support.programs import program
from support.recordings import MILLISECOND, recording
from support.wait import wait_for

# Between two datagrams of the film: one is late that is not sent by the time of the next.
DISTANCE_MILLISECONDS = 20
FILM = f"""[outbound.news]
group = "239.255.6.9"
port = {PORT}
interface = "eth0"
source = "DIR/film.pcapng"
framing = "capture"
timing = "capture"
repeat = "forever"
"""


@contextlib.contextmanager
def film(lab: Lab) -> Iterator[None]:
    times = range(0, 60_000 * MILLISECOND, DISTANCE_MILLISECONDS * MILLISECOND)
    (lab.directory / "film.pcapng").write_bytes(recording((time, b"frame %d" % time) for time in times))
    yield


def late(lab: Lab) -> int:
    count: int = lab.daemon.worker("outbound/news")["status"]["counters"]["late"]
    return count


@contextlib.contextmanager
def crowded(lab: Lab) -> Iterator[None]:
    """It has the usual priority, and who sends shares a processor with others, which go before it."""
    cpu, pid = min(os.sched_getaffinity(0)), lab.daemon.process.pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))
        if (task / "comm").read_text().strip() in {"sender", "outbound/news"}:
            os.sched_setaffinity(int(task.name), {cpu})
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
            os.sched_setaffinity(busy.pid, {cpu})
            os.setpriority(os.PRIO_PROCESS, busy.pid, os.getpriority(os.PRIO_PROCESS, pid) - 10)
        before = late(lab)
        wait_for(lambda: late(lab) > before + 3, "late datagrams")
        yield


CASES = [
    Case(
        "leg-down",
        "warning",
        outbound('copies = [{ group = "239.255.6.10", interface = "eth1" }]'),
        ip("link set eth1 down", "link set eth1 up, addr replace fe80::1/64 dev eth1 nodad"),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "sends-late",
        "warning",
        FILM,
        crowded,
        prepare=film,
        worker="outbound/news",
        # Whatever else this machine has to do, it is well
        wrap=("chrt", "--fifo", "5"),
        arguments=("--watch", "1s"),
    ),
]


def hindrance() -> str:
    """Why the fault or the fix cannot be had here; "" if they can: sched(7)."""
    tried = subprocess.run([program("chrt"), "--fifo", "1", "true"], capture_output=True, check=False)
    if tried.returncode:
        return "no real-time policy is to be had here: it takes CAP_SYS_NICE"
    if tuple(map(int, re.findall(r"[0-9]+", os.uname().release)[:2])) < (6, 6):
        return "this kernel has a scheduler that lets who wakes go before all others of the usual policy"
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if case.cause == "sends-late" and (why := hindrance()):
        pytest.skip(why)
    show(case, lab, tmp_path, record_property)
