"""A gateway whose players do not get what they ask for, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.gallery import GROUP, PORT, Case, Fault, Lab, show
from support.inside import inside, sender
from support.meanwhile import meanwhile
from support.wait import wait_for

from mcastd.status import GatewayStatus
from mcastd.views import as_kind

CONFIG = """[gateway.tv]
listen = "10.6.1.1:4022"
allow_groups = ["239.255.0.0/16"]
interface = "eth0"
first_data = "10min"
stall = "10min"
"""
PATH = f"/udp/{GROUP}:{PORT}"
QUIET = "239.255.6.78"
Record = Callable[[str, object], None]


def status(lab: Lab) -> GatewayStatus:
    return as_kind(GatewayStatus, lab.daemon.worker("gateway/tv")["status"])


@contextlib.contextmanager
def asking(lab: Lab, path: str = PATH, host: str = "10.6.1.1", buffer: int = 0) -> Iterator[socket.socket]:
    """A player on the second wire that has asked; ``buffer``: bytes that it takes without reading."""
    with inside(lab.there):
        sock = socket.socket()
    with sock:
        sock.settimeout(60)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect(("10.6.1.1", 4022))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield sock


@contextlib.contextmanager
def its_interface_is_down(lab: Lab) -> Iterator[None]:
    lab.here.ip("link set eth1 down")
    yield
    lab.here.ip("link set eth1 up")
    lab.here.ip("addr replace fe80::1/64 dev eth1 nodad")


@contextlib.contextmanager
def its_address_is_gone(lab: Lab) -> Iterator[None]:
    lab.here.ip("addr del 10.6.1.1/24 dev eth1")
    yield
    lab.here.ip("addr replace 10.6.1.1/24 dev eth1")


@pytest.mark.parametrize(
    ("fault", "by_hand"),
    [(its_interface_is_down, ""), (its_address_is_gone, "which interface is to have it")],
)
def test_where_nobody_can_connect_is_named(
    fault: Fault, by_hand: str, lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "gateway-unheard",
        "broken",
        CONFIG,
        fault,
        worker="gateway/tv",
        variant=fault.__name__,
        by_hand=by_hand,
        hand=(lambda lab, _: lab.here.ip("addr replace 10.6.1.1/24 dev eth1")) if by_hand else None,
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def it_listens_everywhere(lab: Lab) -> Iterator[None]:
    lab.reload(CONFIG.replace("10.6.1.1:4022", "0.0.0.0:4022"))
    yield


def with_clients_named(lab: Lab, fix: str) -> None:
    assert "allow_clients in [gateway.tv]" in fix
    lab.reload(lab.daemon.config.read_text() + 'allow_clients = ["10.6.1.0/24"]\n')


def test_a_gateway_that_is_open_to_all_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "gateway-open",
        "hint",
        CONFIG,
        it_listens_everywhere,
        worker="gateway/tv",
        by_hand="who is to be served, only a person knows",
        hand=with_clients_named,
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def it_is_asked_by_a_name(lab: Lab) -> Iterator[None]:
    with asking(lab, host="tv.example.net") as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 421 ")
        yield


def with_its_name(lab: Lab, fix: str) -> None:
    line = 'names = ["tv.example.net"]'
    assert line in fix
    lab.reload(f"{lab.daemon.config.read_text()}{line}\n")


def test_a_name_that_is_not_known_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "gateway-name",
        "hint",
        CONFIG,
        it_is_asked_by_a_name,
        worker="gateway/tv",
        by_hand="whether it is a name of this host, only a person knows",
        hand=with_its_name,
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def a_player_has_its_place(lab: Lab) -> Iterator[None]:
    with asking(lab) as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        yield


@contextlib.contextmanager
def a_second_player_of_its_address_asks(lab: Lab) -> Iterator[None]:
    def ask() -> None:
        with contextlib.suppress(OSError), asking(lab) as sock:
            sock.recv(4096)

    with a_player_has_its_place(lab), meanwhile(ask, 0.02, "player"):
        wait_for(lambda: status(lab).counters.refused.get("per-address"), "a refusal")
        yield


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (a_player_has_its_place, "max_clients = 1"),
        (a_second_player_of_its_address_asks, "max_per_address = 1"),
    ],
)
def test_a_lack_of_places_is_named(
    fault: Fault, line: str, lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "gateway-full",
        "warning",
        f"{CONFIG}{line}\n",
        fault,
        worker="gateway/tv",
        variant=fault.__name__,
    )
    show(one, lab, tmp_path, record_property)


class Sender:
    """Somebody who sends datagrams of a size to a group on the first wire, once it is told to."""

    def __init__(self, size: int, at_once: int) -> None:
        self._size = size
        self._at_once = at_once
        self.sends = threading.Event()

    @contextlib.contextmanager
    def prepared(self, lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            sock = stack.enter_context(sender(lab.there, "net0", "10.6.0.2"))

            def send() -> None:
                for _ in range(self._at_once if self.sends.is_set() else 0):
                    sock.sendto(bytes(self._size), (QUIET, PORT))

            stack.enter_context(meanwhile(send, 0.02, "sender"))
            yield


@contextlib.contextmanager
def what_is_asked_for_is_silent(lab: Lab) -> Iterator[None]:
    with asking(lab, f"/udp/{QUIET}:{PORT}"):
        wait_for(lambda: status(lab).groups, "that it is joined")
        yield


def test_a_group_of_which_nothing_comes_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    somebody = Sender(100, 1)
    one = Case(
        "gateway-dry",
        "warning",
        CONFIG,
        what_is_asked_for_is_silent,
        worker="gateway/tv",
        prepare=somebody.prepared,
        by_hand="whether it is to be sent, only a person knows",
        hand=lambda _lab, _: somebody.sends.set(),
    )
    show(one, lab, tmp_path, record_property)


class SlowPlayer:
    """It asks for a stream of 1.3 MB/s, and reads nothing of it."""

    def __init__(self) -> None:
        self.somebody = Sender(1300, 20)
        self._sock: socket.socket

    @contextlib.contextmanager
    def asks(self, lab: Lab) -> Iterator[None]:
        with asking(lab, f"/udp/{QUIET}:{PORT}", buffer=4096) as self._sock:
            self.somebody.sends.set()
            wait_for(lambda: status(lab).counters.dropped.get("slow"), "drops")
            yield

    def goes(self, _lab: Lab, _fix: str) -> None:
        self._sock.close()


def test_a_player_that_is_slow_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    player = SlowPlayer()
    one = Case(
        "gateway-slow",
        "warning",
        f'{CONFIG}client_buffer = "64KiB"\n',
        player.asks,
        worker="gateway/tv",
        prepare=player.somebody.prepared,
        by_hand="the way to it is its network's",
        hand=player.goes,
    )
    show(one, lab, tmp_path, record_property)
