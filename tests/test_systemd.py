"""What systemd hears, and what it thinks of our unit."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcastd import systemd

UNITS = Path(__file__).parent.parent / "systemd"
pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's end of $NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@mcastd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(10)
        manager.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield manager


def test_messages(manager: socket.socket) -> None:
    systemd.ready("3 of 4 workers active; inbound/news waiting for eth7")
    systemd.status("two\nlines\r\nREADY=1 \udcff\x1b[31m\x9b")
    systemd.watchdog()
    systemd.stopping()
    assert [manager.recv(1000).decode() for _ in range(4)] == [
        "READY=1\nSTATUS=3 of 4 workers active; inbound/news waiting for eth7",
        "STATUS=two lines READY=1 \\udcff\\x1b[31m\\x9b",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_reloading_carries_the_time(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(1000).decode())
    assert match
    assert before <= int(match[1]) <= after


@pytest.mark.parametrize("address", [None, "", "/no/such/socket", "x" * 200, "@nobody-is-there", "vsock:2:1"])
def test_it_never_raises(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.ready("fine")


def test_a_manager_that_does_not_read_now_gets_what_matters_later(manager: socket.socket) -> None:
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(limit + 10):
        systemd.status(f"{number}")
    systemd.ready("at last")
    for number in range(40):
        systemd.status(f"late {number}")
        systemd.watchdog()
    assert not systemd.send_kept()
    got: list[str] = []
    manager.settimeout(0)
    while not systemd.send_kept() or len(got) < limit:
        got.append(manager.recv(1000).decode())
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(manager.recv(1000).decode())
    assert got[-3:] == ["READY=1\nSTATUS=at last", "STATUS=late 39", "WATCHDOG=1"]


def test_descriptors_are_stored_and_given_up(manager: socket.socket) -> None:
    store = systemd.DescriptorStore()
    reading, writing = os.pipe()
    store.add("pipe-1", writing)
    store.remove("pipe-2")
    os.close(writing)
    message, [kept], _, _ = socket.recv_fds(manager, 1000, 1)
    assert message == b"FDSTORE=1\nFDNAME=pipe-1"
    assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=pipe-2"
    os.write(kept, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(kept)
    os.close(reading)


def test_a_manager_that_does_not_read_hangs_no_store(manager: socket.socket) -> None:
    store = systemd.DescriptorStore()
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(limit + 10):
        store.remove("pipe")


@pytest.mark.parametrize(
    ("pid", "count", "names", "taken"),
    [
        ("ours", "3", "pipe-a:control:pipe-b", [("pipe-a", 3), ("control", 4), ("pipe-b", 5)]),
        ("ours", "1", "pipe-", [("pipe-", 3)]),
        ("ours", "2", "pipe-a", []),  # as many names as descriptors, or none of it is understood
        ("ours", "1", None, []),
        ("1", "1", "pipe-a", []),  # meant for another process
        (None, None, None, []),
    ],
)
def test_stored_descriptors_are_taken_once(
    pid: str | None,
    count: str | None,
    names: str | None,
    taken: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"LISTEN_PID": str(os.getpid()) if pid == "ours" else pid, "LISTEN_FDS": count}
    for key, value in {**given, "LISTEN_FDNAMES": names}.items():
        if value is not None:
            monkeypatch.setenv(key, value)
    closed: list[int] = []
    monkeypatch.setattr(os, "set_inheritable", lambda fd, inheritable: closed.append(fd))
    assert systemd.take_stored() == taken
    assert {fd for _, fd in taken} <= set(closed)
    assert systemd.take_stored() == []


def test_descriptors_that_are_not_there_are_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = 900, 901  # numbers that nobody else has here
    for end in (ends := os.pipe()):
        os.dup2(end, high)
    for end in ends:
        os.close(end)
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", low)
    for name, value in (("PID", str(os.getpid())), ("FDS", "2"), ("FDNAMES", "pipe-1:pipe-2")):
        monkeypatch.setenv(f"LISTEN_{name}", value)
    assert systemd.take_stored() == [("pipe-2", high)]
    assert not os.get_inheritable(high)
    os.close(high)


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "ours", 15.0),
        ("30000000", "1", None),  # meant for another process
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
        ("1", None, 0.01),  # nobody is to be busy with signs of life
        (f"{2**64 - 1}", None, None),
        ("9" * 400, None, None),
        ("30000000", "me", None),
    ],
)
def test_watchdog_interval(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))
    assert systemd.watchdog_interval() == interval


@pytest.mark.parametrize(
    ("name", "alias"), [("mcastd.service",) * 2, ("mcastd@.service", "mcastd@a.service")]
)
def test_systemd_takes_the_unit_without_a_word(name: str, alias: str, tmp_path: Path) -> None:
    unit = tmp_path / alias
    text = re.sub(r"=/usr/bin/mcast\w+", "=/bin/true", (UNITS / name).read_text())  # not installed here
    unit.write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in result.stderr.splitlines() if "mcastd" in line]
    expected = "Failed to parse service type, ignoring: notify-reload"  # what systemd before 253 says
    assert all(line.endswith(expected) for line in complaints)
    assert len(complaints) <= 1
    assert result.returncode == 0, result.stderr


def test_an_instance_differs_in_its_paths_only() -> None:
    """Two units say nearly the same; if one is changed, so must be the other."""

    def settings(name: str) -> list[str]:
        lines = (UNITS / name).read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    one, instance = settings("mcastd.service"), settings("mcastd@.service")
    differing = [(ours, its) for ours, its in zip(one, instance, strict=True) if ours != its]
    assert differing == [
        ("Description=IP multicast daemon", "Description=IP multicast daemon (%i)"),
        ("ExecStart=/usr/bin/mcastd run", "ExecStart=/usr/bin/mcastd run --config /etc/mcastd/%i.toml"),
        ("ExecReload=/usr/bin/mcastd check", "ExecReload=/usr/bin/mcastd check --config /etc/mcastd/%i.toml"),
        (
            "Environment=MCASTD_CONTROL_SOCKET=/run/mcastd/control",
            "Environment=MCASTD_CONTROL_SOCKET=/run/mcastd/%i/control",
        ),
        ("RuntimeDirectory=mcastd", "RuntimeDirectory=mcastd/%i"),
        ("LogsDirectory=mcastd", "LogsDirectory=mcastd/%i"),
        ("StateDirectory=mcastd", "StateDirectory=mcastd/%i"),
    ]
