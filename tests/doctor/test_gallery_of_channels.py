"""Channels of media, and sources that others send to, made for real. See test_gallery.py."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faults import configured, ip, news, outbound
from support.gallery import Case, Lab, show
from support.inside import inside
from support.meanwhile import meanwhile
from support.wait import wait_for

LISTEN = "10.6.0.1", 5000


def received(*keys: str, listen: str = "10.6.0.1:5000", rest: str = "") -> str:
    """A channel whose source is what the other host sends."""
    source = ", ".join(('kind = "udp"', f'listen = "{listen}"', *keys))
    return f'[outbound.news]\nsource = {{ {source} }}\ngroup = "239.255.6.9"\nport = 9190\n' + (
        f'interface = "eth0"\n{rest}'
    )


@contextlib.contextmanager
def fed(lab: Lab) -> Iterator[None]:
    """The other host sends to the source all the time."""
    with inside(lab.there):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def feed() -> None:
        with contextlib.suppress(OSError):
            for _ in range(5):
                sock.sendto(bytes(1000), LISTEN)

    with sock, meanwhile(feed, 0.02, "feed"):
        yield


@contextlib.contextmanager
def taken(lab: Lab) -> Iterator[None]:
    """Another program has the port."""
    assert lab.daemon.ctl("stop-worker", "outbound/news").returncode == 0
    lab.daemon.wait_state("outbound/news", "inactive")
    with inside(lab.here):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        # Stopped, a worker keeps its socket until it is closed
        wait_for(lambda: _binds(sock), "the port")
        assert lab.daemon.ctl("start-worker", "outbound/news").returncode == 0
        lab.daemon.wait_state("outbound/news", "auto-restart")
        yield


def _binds(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        sock.bind(LISTEN)
        return True
    return False


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
        "no-carrier",
        "broken",
        outbound('copies = [{ group = "239.255.6.10", interface = "eth1" }]'),
        ip("link set net0 down", "link set net0 up, addr replace fe80::2/64 dev net0 nodad", there=True),
        prepare=news,
        worker="outbound/news",
        never=("dropped-inside", "firewall-drop", "unlucky-source"),  # the other way goes on
        by_hand="plug the cable in",
    ),
    Case(
        "source-overflow",
        "broken",
        received(),
        configured(received("receive_buffer = 4096", rest='rate = "8kbit"\n')),
        prepare=fed,
        worker="outbound/news",
        by_hand="only who knows what is sent can tell whether the rate or the buffer is wrong",
    ),
    Case(
        "sender-refused",
        "warning",
        received(),
        configured(received('senders = ["10.6.0.99"]')),
        prepare=fed,
        worker="outbound/news",
        by_hand="whether it may send is for a person to say",
    ),
    Case(
        "source-silent",
        "warning",
        received(),
        configured(received(listen="10.6.0.1:5001")),
        prepare=fed,
        worker="outbound/news",
        by_hand="its sender is another program",
    ),
    Case(
        "source-taken",
        "broken",
        received(),
        taken,
        prepare=fed,
        worker="outbound/news",
        by_hand="the other program is somebody's",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)
