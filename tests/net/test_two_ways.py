"""One stream by two wires, of which one is pulled, comes back, is deleted, and made again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.peer import Talker
from support.wait import wait_for

pytestmark = pytest.mark.root

GROUPS, PORT = ("239.255.31.1", "239.255.31.2"), 9331
AT_ONCE = 20


class Wires:
    def __init__(self, stack: ExitStack) -> None:
        self.here = stack.enter_context(Host())
        self.there = stack.enter_context(Host())
        self.talkers = [self.plug(number) for number in (0, 1)]

    def plug(self, number: int) -> Talker:
        connect(self.here, f"eth{number}", self.there, f"net{number}")
        for host, name, last in ((self.here, f"eth{number}", 1), (self.there, f"net{number}", 2)):
            host.ip(f"addr add 10.31.{number}.{last}/24 dev {name}")
        return Talker(self.there, f"net{number}", GROUPS[number], PORT, source=f"10.31.{number}.2")

    def send(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for talker in self.talkers:
                with contextlib.suppress(OSError):  # its wire is pulled
                    talker._socket.sendto(number.to_bytes(4, "big"), talker._to)


def test_nothing_is_lost_or_doubled_when_a_way_fails_and_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "news"
    legs = ", ".join(
        f'{{ group = "{group}", port = {PORT}, interface = "eth{number}" }}'
        for number, group in enumerate(GROUPS)
    )
    config = f"""
[inbound.news]
legs = [{legs}]
protocol = {{ kind = "sequence", offset = 0, size = 4 }}
max_skew = "1s"
output = "{output}"
"""
    with ExitStack() as stack:
        wires = Wires(stack)
        daemon = stack.enter_context(RunningDaemon(tmp_path, config, enter=wires.here.enter(())))

        def status() -> dict[str, Any]:
            found: dict[str, Any] = daemon.worker("inbound/news")
            return found

        def legs_now() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = status()["status"]["legs"]
            return found

        sent = 0

        def go_on() -> None:
            nonlocal sent
            for _ in range(5):
                wires.send(range(sent, sent + AT_ONCE))
                sent += AT_ONCE
                wait_for(lambda size=4 * sent: output.stat().st_size == size, f"{sent} numbers")

        wait_for(lambda: [leg["joined"] for leg in legs_now()] == [["eth0"], ["eth1"]], "both legs")
        go_on()
        wires.here.ip("link set eth1 down")
        wait_for(lambda: "eth1 is down" in legs_now()[1]["trouble"], "the trouble")
        assert "eth1 is down" in status()["detail"]
        go_on()
        wires.here.ip("link set eth1 up")
        wait_for(lambda: legs_now()[1]["trouble"] == "", "the wire")
        received = legs_now()[1]["received"]
        go_on()
        wait_for(lambda: legs_now()[1]["received"] == received + 5 * AT_ONCE, "all by the second again")
        wires.here.ip("link delete eth1")
        wait_for(lambda: "eth1" in legs_now()[1]["trouble"], "its end")
        go_on()
        wires.talkers[1] = wires.plug(1)
        wait_for(lambda: legs_now()[1]["joined"] == ["eth1"], "another of its name")
        go_on()
        wires.here.ip("link set eth0 down")
        go_on()
        wait_for(lambda: len(daemon.events("reception.hindered")) >= 3)
        counters = status()["status"]
    numbers = [int.from_bytes(output.read_bytes()[at : at + 4], "big") for at in range(0, 4 * sent, 4)]
    assert numbers == [*range(sent)]
    assert counters["sequence"]["counters"] == {"lost": 0, "duplicated": 0, "reordered": 0, "restarts": 0}
    assert counters["counters"]["dropped"].keys() == {"other-leg"}
    left, right = counters["legs"]
    assert left["first"] + right["first"] == sent
    assert right["first"] >= 5 * AT_ONCE
