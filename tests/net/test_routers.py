"""Topology "three routers in a row" (see README.md here): how far a TTL reaches."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.frames import UdpFrames
from support.host import Host
from support.programs import program
from support.switch import Switch
from support.wait import wait_for

PORT = 9190
LINKS = 4
GROUPS = {4: "239.255.9.3", 6: "ff05::9:3"}
SENDERS = {4: "10.9.0.100", 6: "fd00:9::100"}
TTLS = (1, 2, 3, 4)
MARK = 64
BRIDGE = f"""
[bridge.row]
from = "left"
to = "right"
groups = ["{GROUPS[4]}", "{GROUPS[6]}"]
sources = ["{SENDERS[4]}", "{SENDERS[6]}"]
when = "always"
"""


@dataclass(frozen=True)
class Row:
    sender: Host
    receivers: Sequence[Host]  # on each link one; routers are crossed to reach it as many as its index


@pytest.fixture(scope="module", params=["smcrouted", "mcastd"])
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Switch()) for _ in range(LINKS)]
        sender = stack.enter_context(Host())
        links[0].plug(sender, "eth0", f"{SENDERS[4]}/24", f"{SENDERS[6]}/64")
        receivers = [stack.enter_context(Host()) for _ in links]
        for number, (host, link) in enumerate(zip(receivers, links, strict=True)):
            link.plug(host, "eth0", f"10.9.{number}.9/24", f"fd00:9:0:{number}::9/64")
            if number:  # the way back to the sender, or rp_filter could drop what comes from there
                host.ip(f"route add 10.9.0.0/24 via 10.9.{number}.2")
        for number in range(1, LINKS):
            router = stack.enter_context(Host())
            left, right = number - 1, number
            links[left].plug(router, "left", f"10.9.{left}.3/24", f"fd00:9:0:{left}::3/64")
            links[right].plug(router, "right", f"10.9.{right}.2/24", f"fd00:9:0:{right}::2/64")
            if left:
                router.ip(f"route add 10.9.0.0/24 via 10.9.{left}.2")
            directory = tmp_path_factory.mktemp(f"r{number}")
            if request.param == "smcrouted":
                route(router, directory)
            else:
                daemon = stack.enter_context(RunningDaemon(directory, BRIDGE, enter=router.enter([])))
                daemon.wait_state("bridge/row", "active")
        yield Row(sender, receivers)


def route(router: Host, directory: Path) -> None:
    """Let smcrouted set the kernel's multicast routing, from left to right."""
    rules = [
        f"mroute from left source {SENDERS[version]} group {GROUPS[version]} to right" for version in GROUPS
    ]
    config = directory / "smcroute.conf"
    config.write_text("\n".join(["phyint left enable", "phyint right enable", *rules, ""]))
    files = ["-f", str(config), "-P", str(directory / "pid"), "-u", str(directory / "socket")]
    with (directory / "log").open("wb") as log:
        command = [program("smcrouted"), "-n", "-N", "-i", directory.name, *files]
        daemon = router.start(*command, stdout=log, stderr=log)

    def routed() -> bool:
        assert daemon.poll() is None, (directory / "log").read_text()
        caches = [
            Path(f"/proc/{router.pid}/net/{name}").read_text() for name in ("ip_mr_cache", "ip6_mr_cache")
        ]
        return all(re.search(r" \d+:1 *\n", cache) for cache in caches)  # to an interface from TTL 1 on

    wait_for(routed, "smcrouted sets the routes")


def channel(directory: Path, version: int, ttl: int) -> str:
    """A channel that sends its TTL as its news, three times."""
    source = directory / f"ttl{ttl}.txt"
    source.write_text(f"ttl {ttl}\n" * 3)
    where = f'group = "{GROUPS[version]}"\nport = {PORT}\ninterface = "eth0"'
    return f'[outbound.ttl{ttl}]\n{where}\nsource = "{source}"\nttl = {ttl}\ninterval = 0\n'


@pytest.mark.parametrize("version", [4, 6])
def test_a_channel_of_ttl_n_crosses_n_minus_1_routers(tmp_path: Path, row: Row, version: int) -> None:
    outputs: list[Path] = []
    with contextlib.ExitStack() as stack:
        daemons = []
        for number, host in enumerate(row.receivers):
            here = tmp_path / f"h{number}"
            here.mkdir()
            outputs.append(here / "news.json")
            where = f'group = "{GROUPS[version]}"\nport = {PORT}\ninterface = "eth0"'
            output = f'{{ kind = "file", path = "{outputs[-1]}", format = "json" }}'
            config = f"[inbound.news]\n{where}\noutput = {output}\n"
            daemons.append(RunningDaemon(here, config, ready=False, enter=host.enter([])))
            stack.enter_context(daemons[-1])
        for daemon in daemons:
            daemon.wait_notified("READY")
            daemon.wait_state("inbound/news", "active")
        taps = [stack.enter_context(UdpFrames(host, "eth0", GROUPS[version])) for host in row.receivers]

        here = tmp_path / "sender"
        here.mkdir()
        channels = "\n".join(channel(here, version, ttl) for ttl in TTLS)
        sender = stack.enter_context(RunningDaemon(here, channels, enter=row.sender.enter([])))
        wait_for(lambda: len(sender.events("worker.finished")) == len(TTLS), "all channels have sent")
        # A mark that reaches every link, after all the rest and on the same way: what comes, comes before it.
        sender.write(channels + channel(here, version, MARK))
        assert sender.ctl("reload").returncode == 0

        for crossed, (output, tap) in enumerate(zip(outputs, taps, strict=True)):
            expected = {f"ttl {ttl}\n": ttl - crossed for ttl in (*TTLS, MARK) if ttl > crossed}
            count = 3 * len(expected)
            wait_for(
                lambda output=output, count=count: (
                    output.exists() and output.read_text().count("\n") >= count
                ),
                f"{count} datagrams, the mark among them, at {output}",
            )
            received = [json.loads(line) for line in output.read_text().splitlines()]
            assert {datagram["payload"]: datagram["ttl"] for datagram in received} == expected
            assert len(received) == count
            assert {datagram["source"] for datagram in received} == {SENDERS[version]}
            frames = [(frame.payload.decode(), frame.ttl) for frame in tap.all()]  # not even on the wire
            assert sorted(frames) == sorted([*expected.items()] * 3)
