"""A stream by two ways that do not protect from each other's failure, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from support.gallery import GROUP, PORT, Case, Lab, show
from support.meanwhile import meanwhile
from support.peer import Talker
from support.wait import wait_for

SECOND = "239.255.6.2"


def config(interface: str = "eth1") -> str:
    legs = ((GROUP, "eth0"), (SECOND, interface))
    tables = ", ".join(f'{{ group = "{group}", port = {PORT}, interface = "{by}" }}' for group, by in legs)
    return f"""[inbound.news]
legs = [{tables}]
protocol = {{ kind = "sequence", offset = 0, size = 2 }}
output = "DIR/news.log"
"""


class TwoWays:
    """A numbered stream to both groups, each by its own wire; to the second by the first wire, too."""

    def __init__(self) -> None:
        self._second_is_up = threading.Event()
        self._second_is_up.set()

    @contextlib.contextmanager
    def sent(self, lab: Lab) -> Iterator[None]:
        numbers = count(1)
        with ExitStack() as stack:
            first, again = (
                stack.enter_context(Talker(lab.there, "net0", group, PORT, source="10.6.0.2"))
                for group in (GROUP, SECOND)
            )
            second = stack.enter_context(Talker(lab.there, "net1", SECOND, PORT, source="10.6.1.2"))

            def send() -> None:
                datagram = (next(numbers) % 65_536).to_bytes(2, "big") + b"news"
                for talker in (first, second, again) if self._second_is_up.is_set() else (first,):
                    with contextlib.suppress(OSError):
                        talker._socket.sendto(datagram, talker._to)

            stack.enter_context(lab.quiet())
            stack.enter_context(meanwhile(send, 0.01, "two ways"))
            yield

    @contextlib.contextmanager
    def second_ends(self, lab: Lab) -> Iterator[None]:
        self._second_is_up.clear()
        wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["legs"][1]["silent"], "its silence")
        yield
        self._second_is_up.set()


@contextlib.contextmanager
def by_one_interface(lab: Lab) -> Iterator[None]:
    lab.reload(config("eth0"))
    wait_for(
        lambda: lab.daemon.worker("inbound/news")["status"]["shared_interface"] == "eth0", "one interface"
    )
    wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["legs"][1]["received"], "the second leg")
    yield


def test_a_leg_that_is_silent_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    ways = TwoWays()
    by_hand = "it is the network's, or its sender's"
    show(
        Case("leg-silent", "warning", config(), ways.second_ends, prepare=ways.sent, by_hand=by_hand),
        *(lab, tmp_path, record_property),
    )


def test_legs_by_one_interface_are_named_until_each_has_its_own(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = Case(
        "legs-shared",
        "warning",
        config(),
        by_one_interface,
        prepare=TwoWays().sent,
        by_hand="which interface is for the other leg, only a person knows",
        hand=lambda lab, _: lab.reload(config()),
    )
    show(case, lab, tmp_path, record_property)


@contextlib.contextmanager
def numbers_elsewhere(lab: Lab) -> Iterator[None]:
    lab.reload(config().replace("offset = 0", "offset = 7"))
    wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["legs"][0]["misfit"], "the misfit")
    yield


def test_legs_that_bring_nothing_of_use_are_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = Case(
        "leg-refused",
        "warning",
        config(),
        numbers_elsewhere,
        prepare=TwoWays().sent,
        by_hand="where the numbers stand, its sender knows",
        hand=lambda lab, _: lab.reload(config()),
    )
    show(case, lab, tmp_path, record_property)
