"""Numbered datagrams that the network loses, and transport streams, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from support.faults import inbound
from support.gallery import GROUP, PORT, Case, Lab, show
from support.meanwhile import meanwhile
from support.transport import Multiplex
from support.wait import wait_for


@contextlib.contextmanager
def skipping(lab: Lab) -> Iterator[None]:
    """Numbered datagrams, of which each third does not come, until the doctor has looked."""
    numbers = (number for number in count(1) if number % 3 != 2)

    def send() -> None:
        number = next(numbers) % 65_536
        lab.talker._socket.sendto(b"numbered" + number.to_bytes(2, "big"), (GROUP, PORT))

    with meanwhile(send, 0.005, "skipping"):
        wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["sequence"]["counters"]["lost"])
        yield


def test_the_network_is_named_first_and_not_this_host(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = Case(
        "network-loss-now",
        "broken",
        inbound('protocol = { kind = "sequence", offset = 8, size = 2 }'),
        skipping,
        by_hand="it is the network's",
    )
    show(case, lab, tmp_path, record_property)


class OftenTold(Multiplex):
    """With its tables so often that a busy machine does not make them too seldom."""

    TABLES_EVERY = 14


class Player:
    """Sends a transport stream in place of what the lab sends, well or badly."""

    def __init__(self) -> None:
        self.lost_each = 0  # of so many datagrams one does not come
        self.is_rtp = False

    @contextlib.contextmanager
    def play(self, lab: Lab) -> Iterator[None]:
        stream, numbers = OftenTold(), count(1)

        def send() -> None:
            number = next(numbers)
            (datagram,) = stream.datagrams(1)
            header = struct.pack(">BBHII", 0x80, 33, number % 65_536, 450 * number, 7) * self.is_rtp
            if not self.lost_each or number % self.lost_each:
                lab.talker._socket.sendto(header + datagram, (GROUP, PORT))

        with lab.quiet(), meanwhile(send, 0.005, "player"):
            yield

    @contextlib.contextmanager
    def lose(self, lab: Lab) -> Iterator[None]:
        self.lost_each = 3
        wait_for(lambda: errors(lab)["Continuity_count_error"])
        yield
        self.lost_each = 0

    @contextlib.contextmanager
    def wrap(self, lab: Lab) -> Iterator[None]:
        self.is_rtp = True
        wait_for(lambda: errors(lab)["TS_sync_loss"])
        yield


def errors(lab: Lab) -> dict[str, int]:
    found: dict[str, int] = lab.daemon.worker("inbound/news")["status"]["ts"]["counters"]["errors"]
    return found


def test_errors_of_a_transport_stream_are_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    player = Player()
    config = inbound('payload = "ts"')
    case = Case("ts-errors-now", "warning", config, player.lose, prepare=player.play, by_hand="as above")
    show(case, lab, tmp_path, record_property)


def test_a_transport_stream_that_comes_in_rtp_is_read_as_such(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    player = Player()
    case = Case("ts-unusable", "broken", inbound('payload = "ts"'), player.wrap, prepare=player.play)
    show(case, lab, tmp_path, record_property)


@contextlib.contextmanager
def other_type(lab: Lab) -> Iterator[None]:
    lab.reload(inbound('protocol = { kind = "rtp", payload_type = 96 }'))
    wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["misfit"], "the misfit")
    yield


def test_settings_that_fit_nothing_of_what_comes_are_named_with_what_comes(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    player = Player()
    player.is_rtp = True

    def hand(lab: Lab, fix: str) -> None:
        assert "payload_type = 33 in protocol of [inbound.news]" in fix
        lab.reload(inbound('protocol = { kind = "rtp", payload_type = 33 }'))

    case = Case(
        "all-refused",
        "broken",
        inbound('protocol = "rtp"'),
        other_type,
        prepare=player.play,
        by_hand="which of both is meant, only a person knows",
        hand=hand,
    )
    show(case, lab, tmp_path, record_property)
