"""Two daemons that feed each other by a group and an engine, which no configuration shows: it ends.

The server and one daemon are on the host of ``support/engines.py``, which sends what the server has; the
other one, in the net, hands over what it receives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.daemon import RunningDaemon
from support.engines import (
    HERE,
    THERE,
    EngineServer,
    NatsServer,
    RedisServer,
    neighbours,
    require_client,
)
from support.host import Host
from support.peer import Ear, Talker
from support.wait import wait_for

GROUP, PORT = "239.255.9.8", 9191
pytestmark = pytest.mark.root


class Lab(NamedTuple):
    host: Host
    net: Host
    directory: Path

    def daemon(self, on: Host, name: str, *tables: str) -> RunningDaemon:
        (directory := self.directory / name).mkdir()
        return RunningDaemon(directory, "".join(tables), enter=on.enter([]))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    require_client("nats")
    with ExitStack() as stack:
        yield Lab(*neighbours(stack), tmp_path)


def channel(name: str, group: str, interface: str, source: str) -> str:
    table = f'[outbound.{name}]\ngroup = "{group}"\nport = {PORT}\ninterface = "{interface}"\n'
    return f"{table}source = {{ {source} }}\n"


def subscription(name: str, group: str, interface: str, output: str) -> str:
    table = f'[inbound.{name}]\ngroup = "{group}"\nport = {PORT}\ninterface = "{interface}"\n'
    return f"{table}output = {{ {output} }}\n"


def nats_servers(lab: Lab) -> tuple[EngineServer, str, str]:
    """A server, and what a source and an output of it have."""
    server = NatsServer(lab.host, lab.directory, address=HERE)
    server.start()
    server.api("STREAM.CREATE.TV", {"name": "TV", "storage": "file", "subjects": ["tv.>"]})
    common = f'kind = "nats", servers = "{server.url}", stream = "TV"'
    return server, f'{common}, consumer = "radio", create = true', f'{common}, subject = "tv.in"'


def redis_servers(lab: Lab) -> tuple[EngineServer, str, str]:
    server = RedisServer(lab.host, lab.directory, "--protected-mode", "no", address=HERE)
    server.start()
    common = f'kind = "redis", servers = "{server.url}", key = "tv"'
    return server, f'{common}, group = "radio", create = true', common


def status_of(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.worker(name)["status"]
    return found


def sent_and_returned(daemon: RunningDaemon, name: str) -> tuple[int, int]:
    counters = status_of(daemon, name)["counters"]
    return counters["sent"], counters["dropped"].get("circle", 0)


def returned_by(daemon: RunningDaemon) -> str:
    found: str = status_of(daemon, "outbound/a")["reception"]["returned_by"]
    return found


def wait_connected(daemon: RunningDaemon, name: str) -> None:
    wait_for(lambda: status_of(daemon, name)["reception"]["connected"], "the connection")


def rests(moved: Callable[[], object]) -> bool:
    """Return True if nothing moves for a while."""
    before = moved()
    try:
        wait_for(lambda: moved() != before, "anything", timeout=2)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("start", [nats_servers, redis_servers])
def test_what_the_channel_has_sent_comes_back_once(
    lab: Lab, start: Callable[[Lab], tuple[EngineServer, str, str]]
) -> None:
    """The group is fed from the address of the channel itself: that goes on, as from a site with the same."""
    server, source, output = start(lab)
    with (
        lab.daemon(lab.host, "forth", channel("tv", GROUP, "eth0", source)) as forth,
        lab.daemon(lab.net, "back", subscription("in", GROUP, "n0", output)) as back,
        Ear(lab.net, "n0", GROUP, PORT) as ear,
        Talker(lab.host, "eth0", GROUP, PORT, source=HERE) as talker,
    ):
        wait_connected(forth, "outbound/tv")
        back.wait_state("inbound/in", "active")
        for count in (20, 45):
            talker.send(count - len(talker.sent))
            wait_for(lambda count=count: sent_and_returned(forth, "outbound/tv") == (count, count), "once")
        assert rests(lambda: sent_and_returned(forth, "outbound/tv"))
        heard = sorted(payload for payload, _ in ear.heard())
        assert heard == sorted([*talker.sent, *talker.sent])
        worker = forth.worker("outbound/tv")
        assert f"/inbound/in (of {HERE}) sends back what is sent" in worker["detail"]
        assert worker["status"]["reception"]["received"] == 90
        findings = json.loads(forth.ctl("doctor", "--json", "--watch", "0.3s").stdout)["findings"]
        (circle,) = [one for one in findings if one["cause"] == "circle"]
        assert f"or not receive {GROUP}" in circle["fix"]
    server.stop()


FEEDER = """
import asyncio, nats
async def main():
    client = await nats.connect({url!r})
    for number in range(3000):
        await client.publish("A.feed", b"payload %d" % number)
        await asyncio.sleep(0.02)
asyncio.run(main())
"""


def test_a_circle_by_two_groups_and_two_subjects_ends(lab: Lab) -> None:
    """What the first channel sends comes back as from another host: only by trial is it found."""
    server = NatsServer(lab.host, lab.directory, address=HERE)
    server.start()
    for name in ("A", "B"):
        server.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})
    at = f'kind = "nats", servers = "{server.url}"'
    other = "239.255.9.7"
    with (
        lab.daemon(
            lab.host,
            "first",
            channel("a", GROUP, "eth0", f'{at}, subject = "A.>"'),
            subscription("back", other, "eth0", f'{at}, stream = "A", subject = "A.back"'),
        ) as first,
        lab.daemon(
            lab.net,
            "second",
            channel("b", other, "n0", f'{at}, subject = "B.>"'),
            subscription("on", GROUP, "n0", f'{at}, stream = "B", subject = "B.on"'),
        ) as second,
    ):
        for daemon, name in ((first, "a"), (second, "b")):
            wait_connected(daemon, f"outbound/{name}")
        first.wait_state("inbound/back", "active")
        second.wait_state("inbound/on", "active")
        feeder = lab.host.python("-c", FEEDER.format(url=server.url))
        try:
            wait_for(lambda: f"/inbound/back (of {THERE})" in returned_by(first), "it is found")
        finally:
            feeder.terminate()
            feeder.wait(60)
        wait_for(lambda: rests(lambda: sent_and_returned(first, "outbound/a")), "the end of it")
        sent, dropped = sent_and_returned(first, "outbound/a")
        server.publish("A.feed", *(b"later %d" % number for number in range(25)))
        wait_for(lambda: sent_and_returned(first, "outbound/a") == (sent + 25, dropped + 25), "each once")
        assert "would go in a circle for ever" in first.worker("outbound/a")["detail"]
    server.stop()
