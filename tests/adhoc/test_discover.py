"""``mcastctl discover``: each session once, as a line or as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import MCASTCTL, RunningDaemon
from support.host import Host
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd.adhoc.discover import SHOWN_MAX, ShownSessions
from mcastd.protocols import sdp
from mcastd.status import SessionStatus


@contextmanager
def announcing(tmp_path: Path) -> Iterator[Host]:
    """A host on which a channel "news" is announced ten times a second, by the loopback interface."""
    source = tmp_path / "news"
    source.write_text("a\n")
    config = (
        f'[daemon]\ncontrol_socket = "{tmp_path}/control"\n[outbound.news]\nsource = "{source}"\n'
        'group = "239.255.1.2"\nport = 5004\nttl = 0\ninterface = "lo"\nrepeat = "forever"\n'
        'announce = { name = "All News", interval = "100ms" }\n'
    )
    with Host() as host, RunningDaemon(tmp_path, config, enter=host.enter([])) as daemon:
        wait_for(lambda: daemon.worker("outbound/news")["status"]["announcement"]["sent"], "an announcement")
        yield host


def discover(host: Host, *options: str) -> subprocess.CompletedProcess[str]:
    command = host.enter([*MCASTCTL, "discover", "--interface", "lo", *options])
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


def test_what_is_announced_is_shown_once(tmp_path: Path) -> None:
    with announcing(tmp_path) as host:
        table = discover(host, "--for", "3s")
        lines = discover(host, "--for", "3s", "--json", "--group", "239.255.255.255")
    assert table.returncode == lines.returncode == 0
    head, row = table.stdout.splitlines()
    assert head.split() == ["GROUP", "MEDIUM", "FROM", "NAME"]
    assert row.split(maxsplit=5) == [
        *("239.255.1.2:5004", "application", "udp", "octet-stream", "127.0.0.1"),
        "All News",
    ]
    assert "1 session in " in table.stderr
    (session,) = map(json.loads, lines.stdout.splitlines())
    assert (session["name"], session["announced_to"], session["interface"]) == (
        "All News",
        "239.255.255.255",
        "lo",
    )
    assert sdp.parse(session["sdp"].encode()).media[0].address == ip_address("239.255.1.2")


def test_a_flood_of_new_ones_takes_bounded_memory_and_shows_none_twice_that_is_listed() -> None:
    listed = SessionStatus(
        name="news",
        media=(),
        sender="192.0.2.1",
        interface="lo",
        announced_to="239.255.255.255",
        age=9.0,
        last_age=1.0,
        interval=None,
        sdp="v=0",
    )
    shown = ShownSessions()
    assert [shown.note(listed), shown.note(listed), shown.note(replace(listed, sender="192.0.2.2"))] == [
        *(True, False, True)
    ]
    for number in range(SHOWN_MAX + 100):
        assert shown.note(replace(listed, sdp=f"v=0 {number}"))
        if not number % 100:
            assert not shown.note(listed)
    assert shown.number == SHOWN_MAX + 102
    assert len(shown._known) == SHOWN_MAX


def test_where_nothing_is_announced() -> None:
    with Host() as host:
        result = discover(host, "--for", "100ms")
    assert (result.returncode, result.stdout) == (1, "")
    assert "0 sessions in " in result.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--group", "192.0.2.1"), "--group 192.0.2.1 is not a multicast address"),
        (("--for", "never"), "--for must be a number of seconds"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], why: str) -> None:
    with Host() as host:
        result = discover(host, *options)
    assert result.returncode == 2
    assert why in result.stderr
