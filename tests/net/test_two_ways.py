"""One stream by two ways, of which one fails and comes back; one that is repaired by what is beside it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import is_ready
from support.meanwhile import meanwhile
from support.peer import Talker
from support.repair import matrix, media
from support.wait import wait_for

from mcastd.protocols import sdp

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
        wait_for(lambda: "eth1 is down" in status()["detail"], "the worker to say it")
        go_on()
        wires.here.ip("link set eth1 up")
        wait_for(lambda: legs_now()[1]["trouble"] == "", "the wire")
        wait_for(lambda: is_ready(wires.there, "net1"), "its other end")
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


def test_other_legs_at_a_reload_cost_nothing(tmp_path: Path) -> None:
    """A leg is named by its address, and back, while datagrams come all the time."""
    output = tmp_path / "news"

    def config(second: str) -> str:
        legs = ", ".join(
            f'{{ group = "{group}", port = {PORT}, interface = "{by}" }}'
            for group, by in zip(GROUPS, ("eth0", second), strict=True)
        )
        return f"""
[inbound.news]
legs = [{legs}]
protocol = {{ kind = "sequence", offset = 0, size = 4 }}
max_skew = "1s"
output = "{output}"
"""

    sent = 0

    def send() -> None:
        nonlocal sent
        wires.send([sent])
        sent += 1

    with ExitStack() as stack:
        wires = Wires(stack)
        daemon = stack.enter_context(RunningDaemon(tmp_path, config("eth1"), enter=wires.here.enter(())))
        wait_for(lambda: len(daemon.worker("inbound/news")["status"]["memberships"]) == 2, "both legs")
        with meanwhile(send, 0.002, "news"):
            for second in ("10.31.1.1", "eth1"):
                begun = sent
                wait_for(lambda begun=begun: sent > begun + 50, "some datagrams")
                daemon.write(config(second))
                assert daemon.ctl("reload").returncode == 0
                wait_for(
                    lambda by=second: (
                        [leg["interface"] for leg in daemon.worker("inbound/news")["status"]["legs"]]
                        == ["eth0", by]
                    )
                )
            wait_for(lambda begun=sent: sent > begun + 50, "some more")
        wait_for(lambda: output.stat().st_size == 4 * sent, "all of it")
        wait_for(lambda: len(daemon.events("link.replaced")) == 2)
        status = daemon.worker("inbound/news")["status"]
    numbers = [int.from_bytes(output.read_bytes()[at : at + 4], "big") for at in range(0, 4 * sent, 4)]
    assert numbers == [*range(sent)]
    assert status["sequence"]["counters"]["lost"] == 0


def test_the_copies_of_a_channel_are_the_legs_of_a_subscription(tmp_path: Path) -> None:
    """Over the loopback interface, with another max_skew meanwhile."""
    source, output = tmp_path / "film", tmp_path / "seen"
    source.write_bytes(bytes(number * 7 % 251 for number in range(300_000)))
    legs = ", ".join(f'{{ group = "{group}", port = {PORT}, interface = "lo" }}' for group in GROUPS)
    config = f"""
[outbound.tv]
source = "{source}"
group = "{GROUPS[0]}"
port = {PORT}
interface = "lo"
framing = "chunk"
max_datagram = 500
protocol = "rtp"
rate = "4Mbit"
copies = [{{ group = "{GROUPS[1]}", interface = "lo" }}]
[inbound.tv]
legs = [{legs}]
protocol = "rtp"
max_skew = "1s"
output = {{ kind = "file", path = "{output}", format = "payload" }}
"""
    with RunningDaemon(tmp_path, config) as daemon:
        wait_for(lambda: output.stat().st_size > 10_000, "some of it")
        daemon.write(config.replace('max_skew = "1s"', 'max_skew = "0.7s"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: output.stat().st_size == source.stat().st_size, "all of it", timeout=60)
        sent = daemon.wait_state("outbound/tv", "finished")["status"]["counters"]["sent"]
        seen = wait_for(lambda: both(daemon, sent), "both legs")
    assert seen is not None
    assert output.read_bytes() == source.read_bytes()
    assert seen["counters"]["dropped"] == {"other-leg": sent}
    assert seen["sequence"]["counters"] == {"lost": 0, "duplicated": 0, "reordered": 0, "restarts": 0}
    assert len(seen["sequence"]["senders"]) == 2
    assert seen["shared_interface"] == "lo"


def test_a_description_names_both_ways_and_a_subscription_receives_by_them(tmp_path: Path) -> None:
    """A way that goes is named with the sender that it had; the announcement is by the one that is left."""
    described, output = tmp_path / "tv.sdp", tmp_path / "seen"
    channel = f"""
[outbound.tv]
source = "{tmp_path}/film"
group = "{GROUPS[0]}"
port = {PORT}
interface = "eth0"
framing = "chunk"
protocol = "rtp"
rate = "1Mbit"
repeat = "forever"
copies = [{{ group = "{GROUPS[1]}", interface = "eth1" }}]
announce = {{ copies = true, sdp = "{described}" }}
"""
    subscription = f"""
[inbound.tv]
sdp = "{described}"
interface = ["eth0", "eth1"]
protocol = "rtp"
max_skew = "1s"
output = "{output}"
"""
    (tmp_path / "film").write_bytes(bytes(300_000))

    def is_announced_by(address: str) -> bool:
        """With both ways and their senders."""
        if not described.exists():
            return False
        session = sdp.parse(described.read_bytes())
        legs = [(str(leg.address), *map(str, leg.sources)) for leg in session.legs_of(0)]
        assert legs == [(GROUPS[0], "10.31.0.1"), (GROUPS[1], "10.31.1.1")]
        return session.origin.address == address

    with ExitStack() as stack:
        wires = Wires(stack)
        daemon = stack.enter_context(RunningDaemon(tmp_path, channel, enter=wires.here.enter(())))
        wait_for(lambda: is_announced_by("10.31.0.1"), "the first way")
        wires.there.ip("link set net0 down")
        wait_for(lambda: is_announced_by("10.31.1.1"), "the way that has a carrier")
        status = daemon.worker("outbound/tv")["status"]
        assert status["link"]["interface"] == "eth0", "its metrics have that as a label"
        wires.there.ip("link set net0 up")
        wait_for(lambda: is_announced_by("10.31.0.1"), "the first way again")
        wires.here.ip("link del eth0")
        wait_for(lambda: is_announced_by("10.31.1.1"), "the way that is left")
        wires.plug(0)
        wait_for(lambda: is_announced_by("10.31.0.1"), "the first way again")
        daemon.write(channel + subscription)
        assert daemon.ctl("reload").returncode == 0
        legs = wait_for(lambda: brought(daemon), "both legs")
        assert legs is not None
        assert [leg["group"] for leg in legs] == list(GROUPS)


def brought(daemon: RunningDaemon) -> list[dict[str, Any]] | None:
    """The legs of the subscription, when each has brought something."""
    legs: list[dict[str, Any]] = daemon.worker("inbound/tv")["status"]["legs"]
    return legs if all(leg["received"] for leg in legs) else None


def both(daemon: RunningDaemon, count: int) -> dict[str, Any] | None:
    """The status of the subscription when each leg has brought so many datagrams, and half are dropped."""
    found: dict[str, Any] = daemon.worker("inbound/tv")["status"]
    have_come = [leg["received"] for leg in found["legs"]] == [count, count]
    return found if have_come and sum(found["counters"]["dropped"].values()) == count else None


def test_what_is_lost_is_repaired_by_what_comes_on_the_ports_beside(tmp_path: Path) -> None:
    packets = media(65_500, 4 * 40)
    sent, output = [*packets.values()], tmp_path / "seen"
    lost = {9, 17, 55, 100, 101, 102}
    config = f"""
[inbound.tv]
group = "{GROUPS[0]}"
port = {PORT}
interface = "lo"
protocol = "rtp"
fec = true
reorder = "1s"
coalesce = false
output = {{ kind = "file", path = "{output}", format = "payload" }}
"""
    with (
        RunningDaemon(tmp_path, config) as daemon,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for block in range(0, len(sent), 40):
            for at in range(block, block + 40):
                if at not in lost:
                    sender.sendto(sent[at], (GROUPS[0], PORT))
            repair = matrix(packets, (65_500 + block) % 65_536, 8, 5)
            for more, some in ((2, repair[:8]), (4, repair[8:])):
                for packet in some:
                    sender.sendto(packet, (GROUPS[0], PORT + more))
        received = len(sent) - len(lost) + 4 * 13

        def repaired() -> dict[str, Any] | None:
            found: dict[str, Any] = daemon.worker("inbound/tv")["status"]
            whole = found["sequence"]["repaired"] == len(lost) and found["counters"]["received"] == received
            return found if whole and not found["counters"]["held"] else None

        status = wait_for(repaired, "the repair")
        assert status is not None
    assert output.read_bytes() == b"".join(packet[12:] for packet in sent)
    assert status["counters"]["dropped"] == {"fec": 4 * 13 - len(lost)}
    assert status["sequence"]["counters"]["lost"] == 0
    (file,) = status["outputs"]
    assert file["counters"]["written"] == len(sent) == received - (4 * 13 - len(lost))
