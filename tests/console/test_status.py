"""``mcastctl status`` as lines; what it prints in all is in control/test_ctl.py."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mcastd.codec import as_json, from_json
from mcastd.console.status import overview, tree
from mcastd.status import (
    NO_MANIFEST,
    ChannelStatus,
    FilesStatus,
    ObjectsStatus,
    ObjectStatus,
    OutputStatus,
    PidStatus,
    ProgramStatus,
)
from mcastd.views import DaemonView, WorkerView


def test_a_table_fits_its_terminal_and_cuts_nothing() -> None:
    reason = "cannot join 239.1.1.2 on eth7: no such interface (have: eth0, eth1, lo); waiting for it"
    workers = [
        {"name": "inbound/news", "state": "auto-restart", "since": 86399, "detail": reason},
        {"name": "outbound/news", "state": "active", "since": 5, "detail": "on eth0"},
    ]
    views = [from_json(WorkerView, worker) for worker in workers]
    daemon = from_json(DaemonView, {"summary": f"1 of 2 workers active; inbound/news: {reason}"})
    lines = list(overview(daemon, views, 80))
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines).count(reason) == 2
    assert lines[-1].endswith("0  on eth0")
    assert len(list(overview(daemon, views, None))) == 4  # in a pipe, one line each


def test_of_a_link_both_ways_are_shown() -> None:
    counters = {"sent": 71, "received": 72}
    rows = [
        {"name": name, "kind": name.partition("/")[0], "status": {"counters": counters}}
        for name in ("gateway/tv", "link/office")
    ]
    daemon = from_json(DaemonView, {"summary": "well"})
    _, _, gateway, link = overview(daemon, [from_json(WorkerView, one) for one in rows], None)
    assert "71 out, 72 in" in link
    assert "71" in gateway
    assert "72" not in gateway


def test_a_file_is_a_line_and_what_does_not_apply_is_left_out() -> None:
    """An output of files has no format, a channel of files no framing, and a raw one no files."""
    first = ObjectStatus(
        name="images/a\x1b.img",
        state="receiving",
        length=26_214_400,
        percent=44.06,
        blocks=18,
        blocks_done=7,
        seconds_left=123.4,
        trouble="",
    )
    second = ObjectStatus(
        name="b",
        state="complete",
        length=1203,
        percent=100.0,
        blocks=1,
        blocks_done=1,
        seconds_left=None,
        trouble="no space left on device",
    )
    objects = ObjectsStatus(
        states={"landed": 301, "receiving": 2},
        total_bytes=310_400_000,
        present_bytes=311_400_000,
        receiving=(first, second),
        source=302,
        repair=303,
        duplicate=304,
        surplus=305,
        restored=306,
        repaired_blocks=307,
        loss_percent=4.8765,
        short_blocks=308,
        wrong_blocks=309,
        unrepaired="",
    )
    shown = list(tree(as_json(objects), ""))
    assert "receiving images/a\\x1b.img: 44.1 % of 26.2 MB, 7 of 18 blocks, done in about 2min 3s" in shown
    assert "complete b: 100.0 % of 1,203 B, 1 of 1 block, no space left on device" in shown
    assert "loss_percent: 4.877 %" in shown
    assert {"total_bytes: 310 MB", "present_bytes: 311 MB"} <= set(shown)
    unknown = list(tree(as_json(from_json(ObjectsStatus, {})), ""))
    assert not [line for line in unknown if line.startswith(("loss", "receiving"))]
    output = list(tree(as_json(from_json(OutputStatus, {"kind": "directory"})), ""))
    assert not [line for line in output if line.startswith(("format", "objects"))]
    channel = list(tree(as_json(from_json(ChannelStatus, {})), ""))
    assert not [line for line in channel if line.startswith(("framing", "files"))]
    files = as_json(from_json(FilesStatus, {"total_bytes": 12_345_678, "pass_percent": 30.5}))
    assert {"total_bytes: 12.3 MB", "pass_percent: 30.5 %"} <= set(tree(files, ""))
    assert not [line for line in tree(files, "") if line.startswith(("described_seconds", "manifest"))]


def test_the_times_of_a_manifest_are_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        manifest = replace(NO_MANIFEST, serial=301, issued=1_764_150_000, files=302, total_bytes=12_345_678)
        shown = list(tree(as_json(manifest), ""))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown[:6] == [
        "serial: 301",
        "signer: -",
        "issued: 2025-11-26 10:40:00+01:00",
        "expires: -",
        "files: 302",
        "total_bytes: 12.3 MB",
    ]


def test_programs_and_pids_of_a_transport_stream_are_a_line_each() -> None:
    programs = [
        ProgramStatus(number=7, map_pid=256, clock_pid=257, pids=(257, 258)),
        ProgramStatus(number=8, map_pid=300, clock_pid=None, pids=()),
    ]
    pids = [
        PidStatus(pid=257, type=0x1B, packets=4711, rate=6_543_210, continuity_errors=1),
        PidStatus(pid=0, type=None, packets=12, rate=15_040, continuity_errors=0),
    ]
    shown = {"programs": [*map(as_json, programs)], "pids": [*map(as_json, pids)], "clock_rate": 8_000_000}
    assert [*tree(shown, "  ")] == [
        "  program 7: map 256, clock 257, PIDs 257, 258",
        "  program 8: map 300, which has not come",
        "  PID 257 of type 0x1b: 6.54 Mbit/s, 4,711 packets, 1 error",
        "  PID 0: 15 kbit/s, 12 packets, 0 errors",
        "  clock_rate: 8000000 bit/s",
    ]
