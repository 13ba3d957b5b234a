"""Two daemons that feed each other by unicast and multicast: it ends, and the status says why.

```
   feeder eth0 ------ eth0 one eth1 ------ eth0 other
   10.8.0.1       10.8.0.2  10.9.0.1      10.9.0.2
                            10.9.0.7
```

``one`` receives the group and sends it to ``other`` by UDP, which sends it to the group: one hears that, too.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, three_in_a_row
from support.inside import inside
from support.meanwhile import meanwhile
from support.peer import Talker
from support.wait import wait_for

pytestmark = pytest.mark.root
GROUP, PORT, LISTEN = "239.1.1.1", 5004, 5000
FORTH = f"""
[inbound.forth]
group = "{GROUP}"
port = {PORT}
interface = ["eth0", "eth1"]
output = {{ kind = "udp", to = "10.9.0.2:{LISTEN}" }}
"""
BACK = f"""
[outbound.back]
source = {{ kind = "udp", listen = "10.9.0.2:{LISTEN}" }}
group = "{GROUP}"
port = {PORT}
interface = "eth0"
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Host]]:
    with three_in_a_row() as (feeder, one, other):
        one.ip("address add 10.9.0.7/24 dev eth1")
        yield feeder, one, other


@pytest.fixture
def circle(hosts: tuple[Host, Host, Host], tmp_path: Path) -> Iterator[tuple[RunningDaemon, RunningDaemon]]:
    _, one, other = hosts
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        RunningDaemon(tmp_path / "b", BACK, enter=other.enter([])) as back,
        RunningDaemon(tmp_path / "a", FORTH, enter=one.enter([])) as forth,
    ):
        yield forth, back


def output_of(daemon: RunningDaemon) -> dict[str, Any]:
    (output,) = daemon.worker("inbound/forth")["status"]["outputs"]
    return output  # type: ignore[no-any-return]


def written_and_returned(daemon: RunningDaemon) -> tuple[int, int]:
    counters = output_of(daemon)["counters"]
    return counters["written"], counters["dropped"].get("circle", 0)


def sent_by(daemon: RunningDaemon) -> int:
    return int(daemon.worker("outbound/back")["status"]["counters"]["sent"])


def test_it_ends_where_the_group_is_fed(
    hosts: tuple[Host, Host, Host], circle: tuple[RunningDaemon, RunningDaemon]
) -> None:
    forth, back = circle
    with Talker(hosts[0], "eth0", GROUP, PORT, source="10.8.0.1") as talker:
        with meanwhile(talker.send, 0.01, "talk"):
            wait_for(lambda: "10.9.0.2 sends back" in (output_of(forth)["error"] or ""), "it is found")
        wait_for(lambda: _rests(lambda: (written_and_returned(forth), sent_by(back))), "the end of it")
        written, returned = written_and_returned(forth)
        talker.send(25)
        wait_for(
            lambda: written_and_returned(forth) == (written + 25, returned + 25), "each once, and no more"
        )
    wait_for(lambda: sent_by(back) >= written + 25, "the account of the other one")
    worker = forth.worker("inbound/forth")
    assert "10.9.0.2 sends back what is sent there" in worker["detail"]
    shown = forth.ctl("status", "inbound/forth").stdout
    assert "would go in a circle" in shown
    assert "sources of the subscription" in shown
    assert "circle" in causes(forth)


def causes(daemon: RunningDaemon) -> list[str]:
    report = json.loads(daemon.ctl("doctor", "--json", "--watch", "0.3s").stdout)
    return [finding["cause"] for finding in report["findings"]]


def _rests(moved: Callable[[], object]) -> bool:
    """Return True if nothing moves for a while."""
    before = moved()
    try:
        wait_for(lambda: moved() != before, "anything", timeout=2)
    except AssertionError:
        return True
    return False


def test_it_ends_where_the_source_is_fed(
    hosts: tuple[Host, Host, Host], circle: tuple[RunningDaemon, RunningDaemon]
) -> None:
    """The subscription hears one sender alone: it is the channel that finds out."""
    forth, back = circle
    with inside(hosts[1]):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    count = 0

    def feed() -> None:
        nonlocal count
        sock.sendto(b"datagram %d" % count, ("10.9.0.2", LISTEN))
        count += 1

    def status() -> dict[str, Any]:
        found: dict[str, Any] = back.worker("outbound/back")["status"]
        return found

    def moved() -> tuple[int, int]:
        counters = status()["counters"]
        return counters["sent"], counters["dropped"]["circle"]

    with sock:
        sock.bind(("10.9.0.7", 0))
        with meanwhile(feed, 0.01, "feed"):
            wait_for(lambda: status()["reception"]["returned_by"] == "10.9.0.1", "it is found")
        wait_for(lambda: _rests(lambda: (moved(), written_and_returned(forth))), "the end of it")
        sent, returned = moved()
        for _ in range(25):
            feed()
        wait_for(lambda: moved() == (sent + 25, returned + 25), "each once, and no more")
    worker = back.worker("outbound/back")
    assert "10.9.0.1 sends back what is sent" in worker["detail"]
    assert worker["state"] == "active"
    assert "circle" in causes(back)
