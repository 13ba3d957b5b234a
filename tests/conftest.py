"""All tests run in a network namespace of their own: pytest moves itself there before anything is collected.

So no test can reach a real interface of the machine, and ports are free. Root makes a network
namespace; an ordinary user makes a user namespace around it (``unshare -Urn``), in which it is
root over its own files and its own network only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Generator, Iterator
from contextlib import suppress

import hypothesis
import programs
import pytest
import structlog
from support import backlog, forked
from support.wait import wait_for

hypothesis.settings.register_profile("mcastd", deadline=None)  # no test depends on how fast a machine is
hypothesis.settings.load_profile("mcastd")

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
REAL_ROOT = os.geteuid() == 0 and os.environ.get("MCASTD_TEST_NAMESPACE") != "user"


def _isolate() -> None:
    if os.environ.get("MCASTD_TEST_NAMESPACE") and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNET | (0 if uid == 0 else CLONE_NEWUSER)
    if libc.unshare(flags) != 0:
        raise pytest.UsageError(
            f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}; "
            "run as root, or allow unprivileged user namespaces"
        )
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    os.environ["MCASTD_TEST_NAMESPACE"] = "root" if uid == 0 and REAL_ROOT else "user"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


_isolate()
# Who sets it has each daemon and command that the tests start compile all of mcastd: half of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PATH"] = programs.PATH
# A shell has what it starts in the background ignore SIGINT: what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# -- what this machine lacks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REAL_ROOT:
        return
    for item in items:
        if "root" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs real root"))


@pytest.hookimpl(wrapper=True)
def _skip_without_a_program() -> Generator[None, object, object]:
    """A test, or a fixture of it, that ran a program which is not on this machine is skipped."""
    try:
        return (yield)
    except FileNotFoundError as error:
        name = error.filename
        if name in programs.FOR_TESTS and not programs.find(name):
            pytest.skip(programs.needs(name))
        raise


pytest_runtest_setup = pytest_runtest_call = _skip_without_a_program


_DROPPED_BEFORE = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_DROPPED_BEFORE] = backlog.dropped()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("no_skips"):
        report.outcome, report.longrepr = "failed", f"skipped in spite of --no-skips: {report.longrepr}"
    if report.failed:
        lost = backlog.dropped() - item.stash[_DROPPED_BEFORE]
        state = f"load {os.getloadavg()[0]:.1f}; its receive backlog dropped {lost} packets meanwhile\n"
        report.sections.append(("The machine, while the test ran", state))
    return report


@pytest.fixture(autouse=True)
def _log_as_at_first() -> Iterator[None]:
    """A command that runs in this process configures the log: that is no other test's."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def no_fd_leak() -> Iterator[None]:
    """Fail if the test leaves a file descriptor open in this process."""
    forked.start()  # it stays, whichever test is the first to use it
    before = set(os.listdir("/proc/self/fd"))
    yield
    after: set[str] = set()

    def closed() -> bool:  # by threads of the test that end by themselves, soon
        after.clear()
        after.update(os.listdir("/proc/self/fd"))
        return len(after) <= len(before)

    with suppress(AssertionError):
        wait_for(closed)
    assert len(after) <= len(before), {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in after - before
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
