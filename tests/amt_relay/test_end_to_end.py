"""Our gateway at our relay, each a daemon on a host of its own: every way between them."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.amt_network import PORT, RELAYS, SOURCES, AmtNetwork, Feed, feeding, is_whole, numbers
from support.daemon import RunningDaemon
from support.wait import wait_accounted, wait_for

pytestmark = pytest.mark.root
SSM, ASM, SSM_6 = "232.1.1.1", "239.1.1.1", "ff3e::1"
OTHER = "10.1.0.3"  # another sender
# A relay that was killed and is back serves its gateways again within so long.
AGAIN_SECONDS = 5
# What a loaded machine may add to that.
LATE_SECONDS = 5
RELAY = f"""[amt_relay.edge]
listen = ["{RELAYS[4]}", "{RELAYS[6]}"]
interface = "north"
groups = ["232.0.0.0/8", "239.1.0.0/16", "ff3e::/32"]
"""
STREAMS = ((SOURCES[4], SSM), (OTHER, SSM), (SOURCES[4], ASM), (OTHER, ASM), (SOURCES[6], SSM_6))


def gateway(directory: Path, version: int, *, more: str = "") -> str:
    return f"""[amt]
relay = "{RELAYS[version]}"
{more}
[inbound.ssm]
group = "{SSM}"
sources = ["{SOURCES[4]}"]
port = {PORT}
via = "amt"
output = "{directory}/ssm"
[inbound.asm]
group = "{ASM}"
port = {PORT}
via = "amt"
output = "{directory}/asm"
[inbound.six]
group = "{SSM_6}"
sources = ["{SOURCES[6]}"]
port = {PORT}
via = "amt"
output = "{directory}/six"
"""


class Running:
    """A relay and a gateway, at work."""

    def __init__(self, stack: contextlib.ExitStack, network: AmtNetwork, directory: Path, feed: Feed) -> None:
        self.network, self.feed = network, feed
        self.out = directory / "out"
        self._stack, self._directory = stack, directory
        self.out.mkdir()

    def start_relay(self, config: str = RELAY, name: str = "relay") -> RunningDaemon:
        (self._directory / name).mkdir(exist_ok=True)
        enter = self.network.relay.enter([])
        return self._stack.enter_context(RunningDaemon(self._directory / name, config, enter=enter))

    def start_gateway(self, version: int, more: str = "") -> RunningDaemon:
        (self._directory / "gateway").mkdir()
        config, enter = gateway(self.out, version, more=more), self.network.gateway.enter([])
        return self._stack.enter_context(RunningDaemon(self._directory / "gateway", config, enter=enter))

    def count(self, name: str = "ssm") -> int:
        return sum(map(len, numbers(self.out / name).values()))

    def last(self) -> int:
        """The number of the last datagram that has come of the group of source-specific multicast."""
        return max(itertools.chain.from_iterable(numbers(self.out / "ssm").values()), default=-1)

    def wait_more(self, name: str = "ssm", count: int = 20, timeout: float = 60) -> None:
        """Wait for so many datagrams more."""
        before = self.count(name)
        wait_for(lambda: self.count(name) >= before + count, f"{count} more of {name}", timeout)


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    with contextlib.ExitStack() as stack:
        network = AmtNetwork(stack, router=getattr(request, "param", False))
        feed = stack.enter_context(feeding(network, *STREAMS))
        yield Running(stack, network, tmp_path, feed)


@pytest.mark.parametrize("version", [4, 6])
def test_each_datagram_comes_once_and_in_order_and_none_that_is_not_wanted(
    running: Running, version: int
) -> None:
    relay, daemon = running.start_relay(), running.start_gateway(version)
    for name in ("ssm", "asm", "six"):
        running.wait_more(name, 50)
    status = relay.worker("amt_relay/edge")["status"]
    assert (status["tunnels"], status["interfaces"]) == (1, ["north"])
    (served,) = status["gateways"]
    assert (served["port"], served["groups"], served["missed"]) == (2268, 3, {})
    assert {(one["group"], one["wanted"]) for one in status["joins"]} == {
        (SSM, f"include {SOURCES[4]}"),
        (ASM, "any"),
        (SSM_6, f"include {SOURCES[6]}"),
    }
    assert daemon.worker("inbound/ssm")["status"]["link"]["tunnel"]["dropped"] == {}, "sources are kept apart"
    counters = wait_accounted(lambda: relay.worker("amt_relay/edge")["status"]["counters"])
    assert {*counters["dropped"]} <= {"unwanted"}
    assert (counters["missed"], counters["ignored"], status["overflow"]) == ({}, {}, 0)
    # A leave stops it
    config = daemon.config.read_text()
    daemon.write(config.replace("[inbound.asm]\n", "[inbound.asm]\nenabled = false\n"))
    assert daemon.ctl("reload").returncode == 0
    wait_for(lambda: len(relay.worker("amt_relay/edge")["status"]["joins"]) == 2, "the leave")
    sent = relay.worker("amt_relay/edge")["status"]["counters"]["sent"]
    running.wait_more("ssm", 20)
    wait_for(lambda: relay.worker("amt_relay/edge")["status"]["counters"]["sent"] > sent, "the account")
    daemon.stop()
    wait_for(lambda: relay.worker("amt_relay/edge")["status"]["tunnels"] == 0, "the end of the tunnel")
    wait_for(lambda: relay.worker("amt_relay/edge")["status"]["joins"] == [], "all groups left")
    for name, streams in (("ssm", 1), ("asm", 2), ("six", 1)):
        found = numbers(running.out / name)
        assert len(found) == streams
        assert all(map(is_whole, found.values())), name


@pytest.mark.parametrize(("phase", "tries"), [("open", 0), ("open", 3), ("discovering", 2)])
def test_a_relay_that_is_killed_and_comes_back_brings_again_within_five_seconds(
    running: Running, phase: str, tries: int
) -> None:
    relay, daemon = running.start_relay(), running.start_gateway(4)
    running.wait_more(count=50)
    relay.process.kill()
    relay.process.wait()

    def is_missed() -> bool:
        tunnel = daemon.worker("inbound/ssm")["status"]["link"]["tunnel"]
        return bool(tunnel["phase"] == phase and tunnel["unanswered"] >= tries)

    wait_for(is_missed, f"{tries} questions, {phase}")
    again = running.start_relay(name="again")
    began, sent = time.monotonic(), running.feed.sent
    wait_for(lambda: running.last() > sent, "datagrams again", AGAIN_SECONDS + LATE_SECONDS)
    print(f"again after {time.monotonic() - began:.1f} s")
    assert again.worker("amt_relay/edge")["status"]["tunnels"] == 1
    running.wait_more(count=50)


@pytest.mark.parametrize("running", [True], indirect=True)
def test_through_a_nat_that_gets_another_address_it_goes_on(running: Running) -> None:
    network = running.network
    network.nft(
        'table ip nat { chain out { type nat hook postrouting priority 100; oifname "out" masquerade; }; }'
    )
    relay = running.start_relay(f'{RELAY}query_interval = "5s"\n')
    running.start_gateway(4)
    running.wait_more(count=50)
    assert [one["address"] for one in relay.worker("amt_relay/edge")["status"]["gateways"]] == ["192.0.2.254"]
    assert network.router is not None
    network.router.ip("addr del 192.0.2.254/24 dev out")  # and what the NAT knew goes with it
    network.router.ip("addr add 192.0.2.253/24 dev out")
    network.relay.ip("neigh flush dev south")

    def served() -> set[str]:
        return {one["address"] for one in relay.worker("amt_relay/edge")["status"]["gateways"]}

    wait_for(lambda: "192.0.2.253" in served(), "the new address")
    running.wait_more(count=50)
    # Nobody is at the old one, and ICMP has told it often enough
    wait_for(lambda: served() == {"192.0.2.253"}, "the end of the old tunnel")
    running.wait_more(count=50)


@pytest.mark.parametrize("running", [True], indirect=True)
@pytest.mark.parametrize(
    ("version", "old", "new"), [(4, "10.2.0.2/24", "10.2.0.3/24"), (6, "fd02::2/64", "fd02::3/64 nodad")]
)
def test_a_gateway_that_gets_another_address_is_served_there(
    running: Running, version: int, old: str, new: str
) -> None:
    network = running.network
    assert network.router is not None
    network.relay.ip("route add 10.2.0.0/24 via 192.0.2.254")
    network.relay.ip("-6 route add fd02::/64 via 2001:db8:a::254")
    relay = running.start_relay(f"{RELAY}teardown = true\n")
    running.start_gateway(version)
    running.wait_more(count=50)
    address, *options = new.split()
    network.gateway.ip(f"addr del {old} dev eth0")
    network.gateway.ip(" ".join(["addr add", address, "dev eth0", *options]))
    network.gateway.ip("route replace default via 10.2.0.254")
    network.gateway.ip("-6 route replace default via fd02::254")

    def served() -> set[str]:
        return {one["address"] for one in relay.worker("amt_relay/edge")["status"]["gateways"]}

    wait_for(lambda: served() == {address.split("/")[0]}, "the new address, and only that")
    running.wait_more(count=50)


def test_interfaces_may_come_late_and_go_and_come_again(running: Running) -> None:
    network = running.network
    network.relay.ip("link set south down")
    network.relay.ip(f"addr del {RELAYS[4]}/24 dev south")
    relay = running.start_relay(RELAY.replace(f', "{RELAYS[6]}"', "").replace('"north"', '"later"'))

    def detail() -> str:
        return str(relay.worker("amt_relay/edge")["detail"])

    wait_for(lambda: "waiting for the address" in relay.worker("amt_relay/edge")["waits"], "the cause")
    network.relay.ip("link set south up")
    network.relay.ip(f"addr add {RELAYS[4]}/24 dev south")
    relay.wait_state("amt_relay/edge", "active")
    running.start_gateway(4)

    wait_for(lambda: "on later: no such interface" in detail(), "the cause")
    assert relay.worker("amt_relay/edge")["troubled"]
    for name in ("later", "north", "later"):
        network.relay.ip("link set " + ("north" if name == "later" else "later") + " down")
        network.relay.ip("link set " + ("north" if name == "later" else "later") + f" name {name}")
        network.relay.ip(f"link set {name} up")
        network.relay.ip(f"-6 addr replace fd01::2/64 dev {name} nodad")
        if name == "later":
            running.wait_more(count=20)
            wait_for(lambda: not relay.worker("amt_relay/edge")["troubled"], "no trouble")
        else:
            wait_for(lambda: relay.worker("amt_relay/edge")["troubled"], "the trouble")
