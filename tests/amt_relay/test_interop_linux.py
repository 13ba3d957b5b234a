"""Our AMT relay beside a gateway that nobody here wrote: Linux's own driver, in an emulated machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.amt_network import SOURCES, AmtNetwork, feeding, is_whole, numbers
from support.daemon import RunningDaemon
from support.emulated import HERE, Guest
from support.wait import wait_accounted

pytestmark = pytest.mark.root
GUESTS = Path(__file__).parents[1] / "support" / "guests"
OTHER = "10.1.0.3"
SSM, ASM, SSM_6 = "232.1.1.1", "239.1.1.1", "ff3e::1"
STREAMS = ((SOURCES[4], SSM), (OTHER, SSM), (SOURCES[4], ASM), (OTHER, ASM), (SOURCES[6], SSM_6))
WANTED = {(SOURCES[4], SSM), (SOURCES[4], ASM), (OTHER, ASM), (SOURCES[6], SSM_6)}
CONFIG = f"""[amt_relay.edge]
listen = "{HERE}"
interface = "north"
groups = ["232.0.0.0/8", "239.1.0.0/16", "ff3e::/32"]
query_interval = "6s"
"""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with contextlib.ExitStack() as stack:
        network = AmtNetwork(stack)
        network.relay.ip(f"addr del {HERE}/24 dev south")  # it is the wire to the guest that has it
        stack.enter_context(feeding(network, *STREAMS))
        yield stack.enter_context(Guest(network.relay, tmp_path / "shared", GUESTS / "amt_gateway.py"))


def test_linux_gets_what_it_wants_each_once_and_in_order_and_no_more_when_it_leaves(
    guest: Guest, tmp_path: Path
) -> None:
    (tmp_path / "daemon").mkdir()
    got = guest.shared / "got"
    with RunningDaemon(tmp_path / "daemon", CONFIG, enter=guest.host.enter([])) as daemon:
        (guest.shared / "relay").touch()
        guest.wait(
            lambda: all(len(numbers(got)[one]) >= 400 for one in WANTED),
            "four hundred of each, and refreshes",
        )
        status = daemon.worker("amt_relay/edge")["status"]
        (gateway,) = status["gateways"]
        assert (gateway["address"], gateway["port"], gateway["groups"]) == ("192.0.2.2", 2268, 3)
        (guest.shared / "leave").touch()

        def joined() -> set[str]:
            return {one["group"] for one in daemon.worker("amt_relay/edge")["status"]["joins"]}

        guest.wait(lambda: joined() == {SSM, SSM_6}, "the leave")
        before = len(numbers(got)[SOURCES[4], SSM])
        guest.wait(lambda: len(numbers(got)[SOURCES[4], SSM]) > before + 50, "the others to go on")
        wait_accounted(lambda: daemon.worker("amt_relay/edge")["status"]["counters"])
        assert guest.dropped() == 0
    found = numbers(got)
    assert {*found} == WANTED
    for stream, each in found.items():
        assert is_whole(each), stream
    assert found[SOURCES[4], ASM][-1] < found[SOURCES[4], SSM][-1] - 40
