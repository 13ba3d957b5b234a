"""Interfaces, addresses, routes and filters as they come and go, seen by the real daemon.

Two hosts: ``here`` runs mcastd, ``there`` is the network. Link 0 joins here's eth0 (10.9.1.1, fd09:1::1) and
there's port0 (10.9.1.2 to .4, fd09:1::2 to ::4), where plain talkers and ears sit, and the observer of IGMP
and MLD. Link 1 is the same with eth1, port1, 10.9.2 and fd09:2.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect, ip
from support.inside import ifindex, inside, is_ready, listener, sysctl
from support.peer import Ear, Talker, streaming
from support.wait import wait_for
from support.wire import Wire

from mcastd.net.watch import NetworkWatch

PORT = 9192
AGAIN = b"again\n"  # what our channels say
REPORTS = 2  # of each state change: the default robustness (RFC 3376 section 8.1) sends it twice


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6."""

    version: int
    group: str
    other: str  # another group
    pattern: str  # of addresses: link and host number
    prefix: int

    def address(self, link: int, host: int) -> str:
        return self.pattern.format(link + 1, host)

    def addresses(self, link: int, *hosts: int) -> list[str]:
        return [self.address(link, host) for host in hosts]


IPV4 = Family(4, "239.255.9.1", "239.255.9.2", "10.9.{}.{}", 24)
IPV6 = Family(6, "ff15::9:1", "ff15::9:2", "fd09:{}::{}", 64)


@pytest.fixture(params=[IPV4, IPV6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@dataclass
class Net:
    """The two hosts and all that a test opens on them."""

    directory: Path
    here: Host
    there: Host
    stack: ExitStack
    daemon: RunningDaemon = field(init=False)

    def plug(self, link: int, *, addresses: bool = True) -> None:
        """Make link ``link``; without ``addresses`` its near end has none but its IPv6 link-local one."""
        connect(self.here, f"eth{link}", self.there, f"port{link}")
        if addresses:
            self.give_address(link)
        for family in (IPV4, IPV6):
            at_once = "nodad" if family.version == 6 else ""  # not tentative until the carrier is known
            for address in family.addresses(link, 2, 3, 4):
                self.there.ip(f"addr add {address}/{family.prefix} dev port{link} {at_once}")

    def give_address(self, link: int) -> None:
        for family in (IPV4, IPV6):
            self.here.ip(f"addr add {family.address(link, 1)}/{family.prefix} dev eth{link}")

    def unplug(self, link: int) -> None:
        self.here.ip(f"link del eth{link}")

    def run(self, *config: str) -> RunningDaemon:
        self.daemon = RunningDaemon(self.directory, "\n".join(config), enter=self.here.enter([]))
        return self.stack.enter_context(self.daemon)

    def wire(self) -> Wire:
        return self.stack.enter_context(Wire(self.there))

    def talker(
        self, family: Family, link: int = 0, host: int = 2, label: str = "", group: str = ""
    ) -> Talker:
        source = family.address(link, host)
        talker = Talker(self.there, f"port{link}", group or family.group, PORT, source=source, label=label)
        return self.stack.enter_context(talker)

    def ear(self, family: Family, link: int = 0) -> Ear:
        return self.stack.enter_context(Ear(self.there, f"port{link}", family.group, PORT))

    def inbound(
        self, name: str, family: Family, interface: str | None = "eth0", more: str = "", group: str = ""
    ) -> str:
        where = f'interface = "{interface}"\n' if interface else ""
        return (
            f'[inbound.{name}]\ngroup = "{group or family.group}"\nport = {PORT}\n{where}'
            f'output = "{self.directory / name}.log"\n{more}\n'
        )

    def outbound(self, name: str, family: Family, interface: str | None = "eth0", more: str = "") -> str:
        """A channel that says AGAIN every 10 ms, for ever, but not to this host."""
        source = self.directory / "again.txt"
        source.write_bytes(AGAIN)
        where = f'interface = "{interface}"\n' if interface else ""
        return (
            f'[outbound.{name}]\ngroup = "{family.group}"\nport = {PORT}\n{where}source = "{source}"\n'
            f'interval = "10ms"\nrepeat = "forever"\nloop = false\n{more}\n'
        )

    def output(self, name: str) -> list[bytes]:
        """The datagrams that the subscription has written: talkers end each with a newline."""
        path = self.directory / f"{name}.log"
        return path.read_bytes().splitlines(keepends=True) if path.exists() else []

    def wait_output(self, name: str, expected: list[bytes]) -> None:
        """Wait until the subscription has written as many as ``expected``, which these must be."""
        try:
            wait_for(lambda: len(self.output(name)) >= len(expected))
        except AssertionError:
            missing = set(expected) - set(self.output(name))
            raise AssertionError(
                f"{name}: {len(missing)} of {len(expected)} missing, first {min(missing)!r}; "
                f"{json.dumps(self.daemon.worker(f'inbound/{name}'), indent=1)}"
            ) from None
        assert self.output(name) == expected

    def wait_all_comes(self, talker: Talker, *names: str) -> None:
        """Wait until all that is sent comes, in order and once. When an interface comes up, its groups may be
        joined more than once: before it has its carrier, and then. What comes in between is missed."""

        def all_comes() -> bool:
            sent = talker.send(5)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: all(sent[-1] in self.output(name) for name in names), timeout=2)
            return all(set(sent) <= {*self.output(name)} for name in names)

        wait_for(all_comes, "all that is sent")
        for name in names:
            written = [line for line in self.output(name) if line in talker.sent]
            assert written == [line for line in talker.sent if line in {*written}]

    def wait_line(self, name: str, line: bytes) -> None:
        wait_for(lambda: line in self.output(name), f"{line!r} in {name}")

    def joined(self, name: str) -> list[str]:
        """Interfaces on which wanted and actual membership are the same."""
        memberships = self.daemon.worker(f"inbound/{name}")["status"]["memberships"]
        return sorted(each["interface"] for each in memberships if each["wanted"] == each["actual"])

    def wait_link(self, link: int = 0) -> None:
        """Wait until what is sent at the far end of a link goes: it is told late of a carrier."""
        wait_for(lambda: is_ready(self.there, f"port{link}"), f"port{link} to be up")

    def wait_joined(self, name: str, *interfaces: str) -> None:
        wait_for(lambda: self.joined(name) == sorted(interfaces), f"{name} on {interfaces}")

    def wait_waiting(self, worker: str, reason: str) -> None:
        """Wait until the worker is in auto-restart with ``reason`` in its words."""

        def waits() -> bool:
            view = self.daemon.worker(worker)
            return view["state"] == "auto-restart" and reason in view["detail"]

        try:
            wait_for(waits)
        except AssertionError:
            raise AssertionError(
                f"{worker} does not wait for {reason!r}: {self.daemon.worker(worker)}"
            ) from None

    def waitings(self, worker: str, count: int) -> list[str]:
        """The reasons that were logged for a worker that waits: ``count`` are waited for."""
        return [event["reason"] for event in self.daemon.wait_events("worker.waiting", count, worker=worker)]

    def causes(self, worker: str) -> list[str]:
        """What was logged of a worker's troubles and recoveries, oldest first."""
        names = ("worker.waiting", "worker.activated")
        events = [e for e in self.daemon.events() if e.get("worker") == worker and e["event"] in names]
        return [event.get("reason", "active") for event in events]


@pytest.fixture
def net(no_fd_leak: None, tmp_path: Path) -> Iterator[Net]:
    with ExitStack() as stack:
        here, there = stack.enter_context(Host()), stack.enter_context(Host())
        for host in (here, there):
            for which in ("all", "default"):  # IPv6 addresses are usable at once
                sysctl(host, **{f"ipv6__conf__{which}__accept_dad": 0})
        # reports of a state change are repeated within 0.1 s instead of 1 s
        sysctl(here, ipv4__conf__default__igmpv3_unsolicited_report_interval=100)
        sysctl(here, ipv6__conf__default__mldv2_unsolicited_report_interval=100)
        yield Net(tmp_path, here, there, stack)


# -- several of a kind


def test_two_nics_same_group(net: Net, family: Family) -> None:
    net.plug(0)
    net.plug(1)
    net.run(
        net.inbound("on0", family, "eth0"),
        net.inbound("on1", family, family.address(1, 1)),  # named by its local address
        net.inbound("all", family, "all"),
    )
    for name, interfaces in (("on0", ["eth0"]), ("on1", ["eth1"]), ("all", ["eth0", "eth1"])):
        net.wait_joined(name, *interfaces)
    talkers = net.talker(family, 0, label="a"), net.talker(family, 1, label="b")
    everything = [payload for _ in range(20) for talker in talkers for payload in talker.send()]
    net.wait_output("on0", talkers[0].sent)
    net.wait_output("on1", talkers[1].sent)
    wait_for(lambda: len(net.output("all")) >= len(everything))
    assert sorted(net.output("all")) == sorted(everything)  # each interface's in order, but one at a time
    for talker, label in zip(talkers, (b"a", b"b"), strict=True):
        assert [line for line in net.output("all") if line.startswith(label)] == talker.sent
    workers = net.daemon.workers()
    for name, count, sources in (("on0", 20, {0}), ("on1", 20, {1}), ("all", 40, {0, 1})):
        status = workers[f"inbound/{name}"]["status"]
        assert (status["counters"]["received"], status["counters"]["overflow"]) == (count, 0)
        assert status["by_source"] == {"top": {family.address(n, 2): 20 for n in sources}, "rest": 0}
        assert {each["interface"] for each in status["memberships"]} == {f"eth{n}" for n in sources}
        assert {(each["wanted"], each["actual"]) for each in status["memberships"]} == {("any", "any")}


def test_same_port_two_groups_and_a_third_of_another_program(net: Net, family: Family) -> None:
    net.plug(0)
    third = family.group[:-1] + "3"
    stranger = net.stack.enter_context(listener(net.here, family.version, PORT, ("eth0", third)))
    net.run(net.inbound("one", family), net.inbound("two", family, group=family.other))
    one, two = net.talker(family, label="one"), net.talker(family, label="two", group=family.other)
    three = net.talker(family, label="three", group=third)
    for _ in range(20):
        for talker in (three, one, two):
            talker.send()
    net.wait_output("one", one.sent)
    net.wait_output("two", two.sent)
    heard = {stranger.recv(100) for _ in range(60)}  # the wildcard's lot: what anybody here has joined
    assert heard == {*one.sent, *two.sent, *three.sent}


# -- source-specific


@pytest.mark.parametrize(
    ("setting", "before", "after", "heard"),
    [
        ("sources", (2, 3), (2, 4), ({2, 3}, {2, 4})),
        ("exclude_sources", (4,), (3,), ({2, 3}, {2, 4})),
        ("exclude_sources", (3, 4), (4,), ({2}, {2, 3})),
    ],
)
def test_source_filters_and_their_change_on_reload(  # noqa: PLR0917 - a column of the table each
    net: Net,
    family: Family,
    setting: str,
    before: tuple[int, ...],
    after: tuple[int, ...],
    heard: tuple[set[int], set[int]],
) -> None:
    net.plug(0)
    wire = net.wire()
    mode = "include" if setting == "sources" else "exclude"

    def config(hosts: tuple[int, ...]) -> str:
        # the addresses as they are not sorted: order means nothing
        return net.inbound("ssm", family, more=f"{setting} = {family.addresses(0, *reversed(hosts))}")

    def membership() -> dict[str, object]:
        found = wait_for(lambda: net.daemon.worker("inbound/ssm")["status"]["memberships"], "a membership")
        (only,) = found
        return only  # type: ignore[no-any-return]

    net.run(config(before))
    joining = family.addresses(0, *before)
    wire.wait_reception(family.group, mode, *joining)
    for key in ("wanted", "actual"):
        wait_for(lambda key=key: membership()[key] == f"{mode} {', '.join(joining)}")
    named = {source for record in wire.records(family.group) for source in record.sources}
    assert named - {"192.0.2.0", "2001:db8::"} == set(
        joining
    )  # those are nobody's, and may be named in passing
    # all that is said of the join is said: IPv6 sources may come in a record each
    wire.wait(family.group, "ALLOW", "TO_EX", count=REPORTS)
    kept, third, fourth = (net.talker(family, host=host, label=f"{host}:") for host in (2, 3, 4))
    old = net.daemon.worker("inbound/ssm")
    with streaming(kept):
        for talker in (third, fourth):
            talker.send(5)
        wait_for(lambda: len(kept.sent) > 300)
        mark = wire.mark()
        net.daemon.write(config(after))
        answer = net.daemon.ctl("reload")
        assert "changed inbound/ssm" in " ".join(answer.stdout.split()).replace(":", "")
        leaving = family.addresses(0, *after)
        wait_for(lambda: membership()["actual"] == f"{mode} {', '.join(leaving)}")
        for talker in (third, fourth):
            talker.send(5)
        more = len(kept.sent) + 100
        wait_for(lambda: len(kept.sent) > more)

    lots = {2: kept.sent, 3: third.sent[:5], 4: fourth.sent[:5]}
    later = {3: third.sent[5:], 4: fourth.sent[5:]}
    expected = {*kept.sent}
    for host in (3, 4):
        expected |= set(lots[host]) if host in heard[0] else set()
        expected |= set(later[host]) if host in heard[1] else set()
    wait_for(lambda: len(net.output("ssm")) >= len(expected))
    assert set(net.output("ssm")) == expected
    assert [line for line in net.output("ssm") if line.startswith(b"2:")] == kept.sent

    wire.wait_reception(family.group, mode, *leaving)
    changed = wire.records(family.group, since=mark)
    assert {record.kind for record in changed} <= {"ALLOW", "BLOCK"}, changed
    named = {source for record in changed for source in record.sources}
    assert named == set(joining) ^ set(leaving)

    new = net.daemon.worker("inbound/ssm")
    assert (new["restarts"], new["state"]) == (old["restarts"], "active")
    assert new["since"] >= old["since"]  # its age: it goes on growing
    assert len(net.daemon.wait_events("worker.activated")) == 1
    status = new["status"]
    assert status[setting] == list(reversed(leaving)) if setting == "sources" else status["sources"] == []
    # Of a large batch, as after a stall, some senders are named: the others' few may count as this one's
    assert 0 <= status["by_source"]["top"][family.address(0, 2)] - len(kept.sent) <= 20
    assert sum(status["by_source"]["top"].values()) == status["counters"]["received"] == len(expected)
    assert status["counters"]["overflow"] == 0


def test_subscriptions_to_one_group_with_different_sources(net: Net, family: Family) -> None:
    net.plug(0)
    wire = net.wire()
    second, third = family.addresses(0, 2, 3)
    net.run(
        net.inbound("second", family, more=f'sources = ["{second}"]'),
        net.inbound("third", family, more=f'sources = ["{third}"]'),
        net.inbound("but", family, more=f'exclude_sources = ["{second}"]'),
        net.inbound("any", family),
    )
    wire.wait_reception(family.group, "exclude")  # the host as a whole wants all
    talkers = {host: net.talker(family, host=host, label=f"{host}:") for host in (2, 3, 4)}
    rounds = [{host: talker.send()[0] for host, talker in talkers.items()} for _ in range(10)]
    net.wait_output("any", [payload for each in rounds for payload in each.values()])
    net.wait_output("but", [payload for each in rounds for host, payload in each.items() if host != 2])
    net.wait_output("second", talkers[2].sent)
    net.wait_output("third", talkers[3].sent)


# -- several interfaces, by a list and by patterns


def several(net: Net, family: Family, *interfaces: str, name: str = "news") -> str:
    return net.inbound(name, family, None, more=f"interface = {json.dumps(interfaces)}")


def test_an_address_in_a_list_that_no_interface_has_is_called_an_address(net: Net) -> None:
    net.run(several(net, IPV4, "lo", "10.99.3.7"))
    told = "; no interface has the address 10.99.3.7; waiting for it"
    wait_for(lambda: net.daemon.worker("inbound/news")["detail"].endswith(told), told)


def test_a_list_of_interfaces_is_followed_and_one_that_is_named_is_missed(net: Net, family: Family) -> None:
    net.run(several(net, family, "eth0", "e*1"))
    net.wait_waiting("inbound/news", "there is none of these (have: lo); waiting for one of them")
    net.plug(1)
    net.wait_joined("news", "eth1")
    told = "; eth0: no such interface; waiting for it"
    wait_for(lambda: net.daemon.worker("inbound/news")["detail"].endswith(told), told)
    assert net.daemon.worker("inbound/news")["state"] == "active"
    assert "inbound/news: receiving" in " ".join(net.daemon.ctl("status").stdout.split())  # in the summary
    net.plug(0)
    net.wait_joined("news", "eth0", "eth1")  # eth1 is meant by one, eth0 by the other
    wait_for(lambda: "no such" not in net.daemon.worker("inbound/news")["detail"], "well")
    talkers = [net.talker(family, link, label=label) for link, label in ((0, "a"), (1, "b"))]
    everything = [payload for _ in range(5) for talker in talkers for payload in talker.send()]
    wait_for(lambda: sorted(net.output("news")) == sorted(everything))  # each once
    net.unplug(1)
    net.wait_joined("news", "eth0")  # a pattern that means none is no trouble
    well = f"receiving {family.group} port {PORT}"
    wait_for(lambda: net.daemon.worker("inbound/news")["detail"] == well, well)
    view = net.daemon.worker("inbound/news")
    assert view["state"] == "active"
    assert view["status"]["interface"] == ["eth0", "e*1"]


def test_a_reload_of_interfaces_leaves_no_group_that_stays(net: Net, family: Family) -> None:
    net.plug(0)
    net.plug(1)
    net.run(net.inbound("news", family, "eth0"))
    net.wait_joined("news", "eth0")
    talker, wire = net.talker(family), net.wire()
    with streaming(talker):
        for setting, joined in ((("eth0", "eth1"), ("eth0", "eth1")), (("e*0",), ("eth0",))):
            net.daemon.write(several(net, family, *setting))
            assert net.daemon.ctl("reload").returncode == 0
            net.wait_joined("news", *joined)
        more = len(talker.sent) + 50
        wait_for(lambda: len(talker.sent) > more)
    wait_for(lambda: len(net.output("news")) >= len(talker.sent))
    assert net.output("news") == talker.sent
    assert ("port0", "TO_IN") not in wire.kinds(family.group)
    assert net.daemon.worker("inbound/news")["restarts"] == 0
    assert len(net.daemon.wait_events("worker.activated")) == 1


def test_who_listens_on_a_port_of_a_bridge_is_told_so(net: Net) -> None:
    net.plug(0)
    net.run(net.inbound("news", IPV4, "eth0"), net.outbound("beat", IPV6, "eth0"))
    net.wait_joined("news", "eth0")
    net.here.ip("link add br0 type bridge")
    net.here.ip("link set br0 up")
    net.here.ip("link set eth0 master br0")
    told = 'eth0 is a port of br0, which takes all that arrives there: set interface = "br0"'
    wait_for(lambda: told in net.daemon.worker("inbound/news")["detail"], told)
    net.here.ip("link set eth0 nomaster")
    wait_for(lambda: told not in net.daemon.worker("inbound/news")["detail"], "well")


def test_who_listens_where_nothing_can_arrive_is_told_so(net: Net, family: Family) -> None:
    """No carrier, or down: of an interface that is named, or of all that a pattern means."""
    net.plug(0)
    net.plug(1)
    settings = {"name": "eth0", "pattern": ("e*0",), "list": ("eth0", "e*"), "others": ("e*",), "all": "all"}
    net.run(
        *(net.inbound(name, family, one) for name, one in settings.items() if isinstance(one, str)),
        *(several(net, family, *one, name=name) for name, one in settings.items() if isinstance(one, tuple)),
    )
    hindered = ("name", "pattern", "list")

    def told(name: str) -> tuple[str, bool]:
        view = net.daemon.worker(f"inbound/{name}")
        return view["detail"].removeprefix(f"receiving {family.group} port {PORT}"), view["troubled"]

    def wait_told(detail: str) -> None:
        for name in settings:
            expected = (detail, True) if detail and name in hindered else ("", False)
            wait_for(lambda name=name, expected=expected: told(name) == expected, f"{name}: {detail}")

    wait_told("")
    net.there.ip("link set port0 down")
    wait_told("; eth0 has no carrier: nothing arrives there")
    assert net.daemon.ctl("status").returncode == 3
    net.here.ip("link set eth0 down")
    wait_told("; eth0 is down: nothing arrives there")
    net.there.ip("link set port0 up")
    net.here.ip("link set eth0 up")
    wait_told("")
    assert net.daemon.ctl("status").returncode == 0
    names = ("reception.hindered", "reception.cleared")

    def log() -> list[dict[str, Any]]:
        return [e for e in net.daemon.events() if e["event"] in names and e["worker"] == "inbound/name"]

    wait_for(lambda: log() and log()[-1]["event"] == "reception.cleared")
    assert [e["event"] for e in log() if "no carrier" in e.get("reason", "")] == ["reception.hindered"]


# -- interfaces that come and go


def test_late_interface(net: Net, family: Family) -> None:
    net.plug(0)
    net.run(
        net.inbound("named", family, "eth1"),
        net.inbound("address", family, family.address(1, 1)),
        net.inbound("all", family, "all"),
        net.outbound("news", family, "eth1"),
    )
    assert "no such interface" in net.daemon.worker("inbound/named")["detail"]
    assert "no interface has this address" in net.daemon.worker("inbound/address")["detail"]
    net.wait_joined("all", "eth0")
    net.plug(1)
    ear = net.ear(family, 1)
    for name in ("inbound/named", "inbound/address", "outbound/news"):
        net.daemon.wait_state(name, "active")
    net.wait_joined("all", "eth0", "eth1")
    talker = net.talker(family, 1)
    talker.send(10)
    for name in ("named", "address", "all"):
        net.wait_output(name, talker.sent)
    wait_for(lambda: ear.hear() == (AGAIN, family.address(1, 1)))  # IPv6: at first perhaps link-local


@pytest.mark.slow
def test_an_event_ends_the_longest_back_off(net: Net) -> None:
    net.run(net.inbound("sub", IPV4), net.outbound("news", IPV4))
    names = "inbound/sub", "outbound/news"

    def patient() -> bool:
        return all(net.daemon.worker(name)["restarts"] >= 8 for name in names)

    wait_for(patient, timeout=60)  # now the back-off is 12.8 s long
    net.plug(0)
    wait_for(lambda: all(net.daemon.worker(name)["state"] == "active" for name in names), timeout=10)


@pytest.mark.parametrize("setting", ["eth0", "all"])
def test_re_created_interface(net: Net, family: Family, setting: str) -> None:
    """Same name, new ifindex: receivers and senders follow. Another interface stays as it is meanwhile."""
    net.plug(0)
    net.plug(1)
    wire = net.wire()
    out = [net.outbound("news", family)] if setting == "eth0" else []
    net.run(net.inbound("sub", family, setting), net.inbound("still", family, "eth1"), *out)
    first = ifindex(net.here, "eth0")
    before, still = net.talker(family, label="before"), net.talker(family, 1, label="still")
    before.send(5)
    net.wait_output("sub", before.sent)
    with streaming(still):
        wait_for(lambda: len(still.sent) > 20)
        net.unplug(0)
        if setting == "eth0":
            net.wait_waiting("inbound/sub", "no such interface")
            net.wait_waiting("outbound/news", "no such interface")
        else:
            net.wait_joined("sub", "eth1")
        mark = wire.mark()
        net.plug(0)
        assert ifindex(net.here, "eth0") != first
        wire.wait(family.group, "TO_EX", "IS_EX", since=mark)
        net.wait_joined("sub", "eth0", *(["eth1"] if setting == "all" else []))
        wait_for(lambda: len(still.sent) > 40)
    after = net.talker(family, label="after")
    net.wait_all_comes(after, "sub")
    written = [line for line in net.output("sub") if not line.startswith(b"still")]
    assert written == before.sent + [line for line in after.sent if line in written]
    net.wait_output("still", still.sent)
    (membership, *_) = net.daemon.worker("inbound/sub")["status"]["memberships"]
    assert net.daemon.worker("inbound/still")["restarts"] == 0
    assert ifindex(net.here, "eth0") in {
        each["ifindex"] for each in net.daemon.worker("inbound/sub")["status"]["memberships"]
    }
    assert membership["actual"] == "any"
    if out:
        net.daemon.wait_state("outbound/news", "active")
        ear = net.ear(family)
        wait_for(lambda: ear.hear() == (AGAIN, family.address(0, 1)))


def test_renamed_away_from_and_to_the_wanted_name(net: Net, family: Family) -> None:
    net.plug(0)
    net.run(
        net.inbound("old", family, "eth0"),
        net.inbound("new", family, "wan0"),
        net.inbound("all", family, "all"),
        net.outbound("news", family, "wan0"),
    )
    net.daemon.wait_state("inbound/old", "active")

    def rename(before: str, after: str) -> None:
        net.here.ip(f"link set {before} down")  # older kernels rename no interface that is up
        net.here.ip(f"link set {before} name {after}")
        net.here.ip(f"link set {after} up")
        net.here.ip(f"addr replace {family.address(0, 1)}/{family.prefix} dev {after}")
        net.wait_link()

    talker, ear = net.talker(family), net.ear(family)
    first = talker.send(5)
    net.wait_output("old", first)
    rename("eth0", "wan0")
    net.daemon.wait_state("inbound/new", "active")
    net.daemon.wait_state("outbound/news", "active")
    net.wait_waiting("inbound/old", "no such interface (have: lo, wan0)")
    net.wait_joined("all", "wan0")
    second = talker.send(5)
    net.wait_output("new", second)
    assert ear.hear()[0] == AGAIN
    rename("wan0", "eth0")
    net.daemon.wait_state("inbound/old", "active")
    net.wait_waiting("inbound/new", "no such interface (have: eth0, lo)")
    net.wait_waiting("outbound/news", "no such interface (have: eth0, lo)")
    net.wait_joined("all", "eth0")
    third = talker.send(5)
    net.wait_output("old", first + third)
    net.wait_output("all", first + second + third)
    net.wait_output("new", second)


def test_admin_down_and_up(net: Net, family: Family) -> None:
    net.plug(0)
    wire = net.wire()
    net.run(net.inbound("sub", family), net.inbound("all", family, "all"))
    talker = net.talker(family)
    net.wait_output("sub", talker.send(5))
    wire.wait(family.group, "TO_EX", count=REPORTS)
    for _ in range(3):
        net.here.ip("link set eth0 down")
        mark = wire.mark()
        net.here.ip("link set eth0 up")
        wire.wait(family.group, "TO_EX", "IS_EX", since=mark)
        for name in ("sub", "all"):
            net.wait_joined(name, "eth0")
        net.wait_link()
        net.wait_all_comes(talker, "sub", "all")


def test_carrier_flap_is_followed_by_reports(net: Net, family: Family) -> None:
    """The kernel itself reports IPv6 groups again when the carrier is back, but not those of IPv4."""
    net.plug(0)
    net.plug(1)
    wire = net.wire()
    source = family.address(0, 3)
    net.run(
        net.inbound("one", family),
        net.inbound("two", family),  # while one holder stays, a join of another emits nothing
        net.inbound("all", family, "all"),
        net.inbound("ssm", family, group=family.other, more=f'sources = ["{source}"]'),
    )
    assert {worker["state"] for worker in net.daemon.workers().values()} == {"active"}
    wire.wait(family.group, "TO_EX", count=2 * REPORTS)  # on both links
    wire.wait(family.other, "ALLOW", count=REPORTS)
    talker, special = net.talker(family), net.talker(family, host=3, group=family.other)
    expected, ssm = talker.send(3), special.send(3)
    for name in ("one", "two", "all"):
        net.wait_output(name, expected)
    net.wait_output("ssm", ssm)
    for turn in range(3):
        net.there.ip("link set port0 down")
        carrier_lost(net.here, "eth0")
        mark = wire.mark()
        net.there.ip("link set port0 up")
        wire.wait(family.group, "TO_EX", since=mark)
        wire.wait_reception(family.group, "exclude", since=mark)
        wire.wait(family.other, "ALLOW", "TO_IN", since=mark)
        wire.wait_reception(family.other, "include", source, since=mark)
        # port1 had no flap, and was not bothered
        assert {interface for interface, _ in wire.kinds(family.group, since=mark)} == {"port0"}
        for address in (family.address(0, 2), family.address(0, 3)) if family.version == 6 else ():
            net.there.ip(f"addr replace {address}/64 dev port0 nodad")  # they go with a link that is down
        for name in ("one", "two"):
            net.wait_joined(name, "eth0")
        net.wait_joined("all", "eth0", "eth1")
        net.wait_link()
        # The addresses that talkers had may be gone
        net.wait_all_comes(net.talker(family, label=f"turn{turn}-"), "one", "two", "all")
        special = net.talker(family, host=3, group=family.other, label=f"turn{turn}-")
        net.wait_all_comes(special, "ssm")
    assert {worker["restarts"] for worker in net.daemon.workers().values()} == {0}


def carrier_lost(host: Host, interface: str) -> None:
    def lost() -> bool:
        with inside(host):
            return (
                "NO-CARRIER"
                in subprocess.run(
                    ["ip", "link", "show", interface], capture_output=True, text=True, check=True
                ).stdout
            )

    wait_for(lost)


# -- addresses


def test_address_appears_late(net: Net, family: Family) -> None:
    net.plug(0, addresses=False)
    net.run(
        net.outbound("named", family, "eth0"),
        net.outbound("address", family, family.address(0, 1)),
        net.inbound("address", family, family.address(0, 1)),
        net.inbound("named", family, "eth0"),
    )
    net.daemon.wait_state("inbound/named", "active")  # which needs no address
    net.wait_waiting("outbound/address", "no interface has this address")
    net.wait_waiting("inbound/address", "no interface has this address")
    if family.version == 4:
        net.wait_waiting("outbound/named", "has no IPv4 address yet")
    ear = net.ear(family)
    net.give_address(0)
    for name in ("outbound/named", "outbound/address", "inbound/address"):
        net.daemon.wait_state(name, "active")
        assert len(net.waitings(name, 0)) <= 1
    wait_for(lambda: {ear.hear() for _ in range(20)} == {(AGAIN, family.address(0, 1))}, "this source alone")
    talker = net.talker(family)
    talker.send(5)
    net.wait_line("address", talker.sent[-1])
    # at once, by the event: not by a retry, of which there were only the first ones
    assert net.daemon.worker("outbound/address")["restarts"] < 20


def test_what_was_reported_from_no_address_is_reported_again_from_the_first_one(net: Net) -> None:
    """Switches may ignore reports of 0.0.0.0, and the kernel sends the next one only when a query comes."""
    net.plug(0, addresses=False)
    wire = net.wire()
    source = IPV4.address(0, 3)
    net.run(
        net.inbound("one", IPV4, "eth0"),
        net.inbound("two", IPV4, "eth0"),
        net.inbound("ssm", IPV4, "eth0", group=IPV4.other, more=f'sources = ["{source}"]'),
        net.inbound("address", IPV4, IPV4.address(0, 9), group="239.255.9.3"),
    )
    wire.wait(IPV4.group, "TO_EX", count=REPORTS)
    wire.wait(IPV4.other, "ALLOW", count=REPORTS)
    mark = wire.mark()
    net.give_address(0)
    wire.wait(IPV4.group, "TO_EX", since=mark)
    wire.wait_reception(IPV4.group, "exclude", since=mark)
    wire.wait_reception(IPV4.other, "include", source, since=mark)
    for name in ("one", "two", "ssm"):
        net.wait_joined(name, "eth0")
    # Another address is no reason for it
    wire.wait(IPV4.group, "TO_EX", count=REPORTS, since=mark)
    mark = wire.mark()
    net.here.ip(f"addr add {IPV4.address(0, 9)}/{IPV4.prefix} dev eth0")
    net.daemon.wait_state("inbound/address", "active")
    talker = net.talker(IPV4)
    expected = talker.send(3)
    for name in ("one", "two"):
        net.wait_output(name, expected)
    assert not wire.kinds(IPV4.group, since=mark)


def test_the_senders_address_changes(net: Net, family: Family) -> None:
    net.plug(0)
    net.run(net.outbound("news", family, "eth0"))
    ear = net.ear(family)
    assert ear.hear() == (AGAIN, family.address(0, 1))
    net.here.ip(f"addr del {family.address(0, 1)}/{family.prefix} dev eth0")
    if family.version == 4:
        net.wait_waiting("outbound/news", "has no IPv4 address yet")
    net.here.ip(f"addr add {family.address(0, 9)}/{family.prefix} dev eth0")
    net.daemon.wait_state("outbound/news", "active")
    wait_for(lambda: ear.hear() == (AGAIN, family.address(0, 9)))
    wait_for(lambda: {ear.hear() for _ in range(20)} == {(AGAIN, family.address(0, 9))}, "this source alone")


def test_a_better_address_is_followed_and_costs_no_datagram(net: Net, family: Family) -> None:
    """As DHCP and router advertisements have it: link-local first, then an address, then another instead."""
    net.plug(0, addresses=False)
    first, second = (f"{family.address(n, 1)}/{family.prefix}" for n in (0, 5))
    if family.version == 4:
        net.here.ip("addr add 169.254.9.9/16 dev eth0 scope link")
    lines = [b"%05d\n" % number for number in range(20_000)]
    (net.directory / "numbers.txt").write_bytes(b"".join(lines))
    ear = net.ear(family)
    net.run(
        f'[outbound.news]\ngroup = "{family.group}"\nport = {PORT}\ninterface = "eth0"\ninterval = "1ms"\n'
        f'source = "{net.directory}/numbers.txt"\nrepeat = "forever"\n'
    )
    heard = [ear.hear()]
    assert ip_address(heard[0][1]).is_link_local
    attempts = net.daemon.worker("outbound/news")["restarts"]  # before it was there to be heard

    def until_from(address: str) -> None:
        while heard[-1][1] != address.partition("/")[0]:
            heard.append(ear.hear())

    net.here.ip(f"addr add {first} dev eth0")
    until_from(first)
    if family.version == 4:
        net.here.ip("addr del 169.254.9.9/16 dev eth0")
    net.here.ip(f"addr add {second} dev eth0")
    if family.version == 6:  # first it is deprecated
        net.here.ip(f"addr change {first} dev eth0 preferred_lft 0 valid_lft 1000")
        until_from(second)
    net.here.ip(f"addr del {first} dev eth0")
    until_from(second)
    sent = [payload for payload, _ in heard]
    begun = lines.index(sent[0])
    assert sent == (lines * 2)[begun : begun + len(sent)]
    assert net.daemon.worker("outbound/news")["restarts"] == attempts, net.daemon.log.read_text()


# -- routes


def route(family: Family, action: str, link: int) -> str:
    if family.version == 4:
        return f"route {action} 239.0.0.0/8 dev eth{link}"
    return f"-6 route {action} multicast ff00::/8 dev eth{link} table local metric 100"


def without_routes(net: Net, family: Family, *links: int) -> None:
    """IPv6 has a route to all groups on each interface from the beginning."""
    for link in links if family.version == 6 else ():
        net.here.ip(f"-6 route del multicast ff00::/8 dev eth{link} table local")


def test_route_appears_late_and_goes_again(net: Net, family: Family) -> None:
    net.plug(0)
    without_routes(net, family, 0)
    net.run(net.inbound("sub", family, None), net.outbound("news", family, None))
    talker, ear = net.talker(family), net.ear(family)
    expected: list[bytes] = []
    for _ in range(2):
        for name in ("inbound/sub", "outbound/news"):
            net.wait_waiting(name, "the host has no route to the group")
        ear.heard()
        net.here.ip(route(family, "add", 0))
        for name in ("inbound/sub", "outbound/news"):
            net.daemon.wait_state(name, "active")
        net.wait_joined("sub", "eth0")
        expected += talker.send(5)
        net.wait_line("sub", expected[-1])
        assert ear.hear() == (AGAIN, family.address(0, 1))
        net.here.ip(route(family, "del", 0))
    net.wait_output("sub", expected)
    for name in ("inbound/sub", "outbound/news"):
        net.wait_waiting(name, "the host has no route to the group")
        wait_for(lambda name=name: net.causes(name).count("active") == 2)
        causes = net.causes(name)  # told once each time, however many attempts
        assert all(one != other for one, other in pairwise(causes)), causes


def test_route_moves_to_another_interface(net: Net, family: Family) -> None:
    net.plug(0)
    net.plug(1)
    without_routes(net, family, 0, 1)
    net.here.ip(route(family, "add", 0))
    wire = net.wire()
    net.run(net.inbound("sub", family, None), net.outbound("news", family, None))
    talkers = net.talker(family, 0, label="a"), net.talker(family, 1, label="b")
    ears = net.ear(family, 0), net.ear(family, 1)
    net.daemon.wait_state("inbound/sub", "active")
    net.wait_joined("sub", "eth0")
    wire.wait(family.group, "TO_EX", count=REPORTS)
    for talker in talkers:
        talker.send(5)
    net.wait_output("sub", talkers[0].sent)
    assert ears[0].hear() == (AGAIN, family.address(0, 1))
    mark = wire.mark()
    net.here.ip(
        route(family, "add", 1).replace("metric 100", "metric 50")
        if family.version == 6
        else route(family, "replace", 1)
    )
    net.wait_joined("sub", "eth1")
    # IPv6: a datagram may still leave by the new route with the old address
    wait_for(lambda: ears[1].hear() == (AGAIN, family.address(1, 1)))
    wire.wait(family.group, "TO_IN", since=mark)
    wire.wait(family.group, "TO_EX", since=mark)
    assert wire.kinds(family.group, since=mark) == {("port0", "TO_IN"), ("port1", "TO_EX")}
    ears[0].heard()
    later = [talker.send(5) for talker in talkers]
    net.wait_output("sub", talkers[0].sent[:5] + later[1])
    for _ in range(20):
        assert ears[1].hear() == (AGAIN, family.address(1, 1))
    assert ears[0].heard() == []
    assert net.daemon.worker("outbound/news")["status"]["link"]["interface"] == "eth1"


# -- what time alone brings


def test_rejoin_every_reports_without_any_event(net: Net, family: Family) -> None:
    net.plug(0)
    wire = net.wire()
    net.run(
        net.inbound("often", family, more='rejoin_every = "300ms"'),
        net.inbound("held", family),  # holds the group as well, and has to leave with it
        net.inbound("never", family, group=family.other),
    )
    wire.wait(family.other, "TO_EX", count=REPORTS)
    wire.wait(family.group, "TO_EX", count=6 * REPORTS)
    assert len(wire.records(family.other)) == REPORTS
    talker = net.talker(family)
    with streaming(talker):  # of which members may miss some at the moment of a rejoin, never all
        for name in ("often", "held"):
            wait_for(lambda name=name: len(net.output(name)) > 500)
    # switched off by a reload, in place
    net.daemon.write(net.inbound("often", family) + net.inbound("held", family))
    assert net.daemon.ctl("reload").returncode == 0
    assert net.daemon.worker("inbound/often")["restarts"] == 0
    assert len(net.daemon.wait_events("worker.activated", worker="inbound/often")) == 1


def test_expect_every_tells_of_silence_and_of_its_end(net: Net, family: Family) -> None:
    net.plug(0)
    net.run(net.inbound("sub", family, more='expect_every = "1s"'), net.inbound("patient", family))
    talker = net.talker(family)

    def stale() -> bool:
        return net.daemon.worker("inbound/sub")["status"]["stale"]

    def events(name: str) -> list[str]:
        return [event["worker"] for event in net.daemon.events(name)]

    def wait_events(name: str, count: int) -> None:
        wait_for(lambda: len(events(name)) == count, f"{count} x {name}")

    wait_events("subscription.silent", 1)  # it never began
    assert stale()
    assert net.daemon.worker("inbound/sub")["state"] == "active"
    assert net.daemon.ctl("status").returncode == 3  # not all is well
    for times in (1, 2):
        with streaming(talker):
            wait_events("subscription.resumed", times)
            assert not stale()
        assert len(events("subscription.silent")) == times
        wait_events("subscription.silent", times + 1)
        assert stale()
    status = net.daemon.worker("inbound/sub")["status"]
    assert status["last_datagram_age"] > 0.1
    assert status["first_source"] == status["last_source"] == family.address(0, 2)
    assert set(events("subscription.silent")) == set(events("subscription.resumed")) == {"inbound/sub"}
    assert net.daemon.worker("inbound/patient")["status"]["stale"] is False


@pytest.mark.parametrize("more", ['expect_every = "1h"', ""], ids=["longer", "absent"])
def test_who_need_not_be_heard_any_more_is_not_stale(net: Net, more: str) -> None:
    net.plug(0)
    net.run(net.inbound("sub", IPV4, more='expect_every = "100ms"'))
    wait_for(lambda: net.daemon.worker("inbound/sub")["status"]["stale"])
    net.daemon.write(net.inbound("sub", IPV4, more=more))
    assert net.daemon.ctl("reload").returncode == 0
    wait_for(lambda: not net.daemon.worker("inbound/sub")["status"]["stale"])
    wait_for(lambda: "stale" not in net.daemon.worker("inbound/sub")["detail"], "the worker to say so")
    assert net.daemon.worker("inbound/sub")["restarts"] == 0


# -- senders that are refused


def test_a_sender_waits_out_a_lost_route_and_a_downed_interface(net: Net, family: Family) -> None:
    net.plug(0)
    without_routes(net, family, 0)
    net.here.ip(route(family, "add", 0))
    net.run(net.outbound("routed", family, None), net.outbound("named", family, "eth0"))
    ear = net.ear(family)
    names = "outbound/routed", "outbound/named"
    for name in names:
        net.daemon.wait_state(name, "active")
    assert ear.hear()[0] == AGAIN
    for _ in range(2):
        net.here.ip("link set eth0 down")  # takes the route with it, and IPv6 addresses
        for name in names:
            net.daemon.wait_state(name, "auto-restart")
        net.wait_waiting("outbound/routed", "the host has no route to the group")
        net.wait_waiting("outbound/named", "eth0")
        net.here.ip("link set eth0 up")
        if family.version == 6:
            net.here.ip(f"addr add {family.address(0, 1)}/64 dev eth0")
            without_routes(net, family, 0)
        net.here.ip(route(family, "add", 0))
        for name in names:
            net.daemon.wait_state(name, "active")
        assert net.ear(family).hear()[0] == AGAIN
        for name in names:
            assert net.daemon.worker(name)["status"]["counters"]["refused"].keys() <= {
                "EADDRNOTAVAIL",
                "ENETUNREACH",
                "ENODEV",
            }
    for name in names:  # a line for each change of the cause, not for each attempt
        assert all(one != other for one, other in pairwise(net.causes(name))), net.causes(name)


def test_a_firewall_that_refuses_is_named_counted_and_outlived(net: Net, family: Family) -> None:
    net.plug(0)
    protocol = "ip" if family.version == 4 else "ip6"
    rule = (
        "table inet t {\nchain out {\ntype filter hook output priority 0\n"
        f"{protocol} daddr {family.group} drop\n}}\n}}"
    )

    def nft(command: str) -> None:
        try:
            subprocess.run(net.here.enter(["nft", command]), check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"nftables does not work here: {error.stderr}")

    ear = net.ear(family)
    nft(rule)
    net.run(net.outbound("news", family))
    net.wait_waiting("outbound/news", "firewall")

    def refused() -> int:
        return net.daemon.worker("outbound/news")["status"]["counters"]["refused"].get("EPERM", 0)

    wait_for(lambda: refused() >= 3)  # it goes on trying
    assert len(net.waitings("outbound/news", 1)) == 1
    assert ear.heard() == []
    nft("delete table inet t")
    net.daemon.wait_state("outbound/news", "active")  # by itself: nobody tells of a firewall
    assert ear.hear() == (AGAIN, family.address(0, 1))
    status = net.daemon.worker("outbound/news")["status"]
    assert set(status["counters"]["refused"]) == {"EPERM"}
    nft(rule)
    net.wait_waiting("outbound/news", "firewall")
    assert len(net.waitings("outbound/news", 2)) == 2


# -- the netlink socket


def drops() -> int:
    """Messages that rtnetlink sockets of this process have lost, of those in the tests' namespace."""
    inodes = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    lost = 0
    for line in Path("/proc/net/netlink").read_text().splitlines()[1:]:
        words = line.split()
        if f"socket:[{words[9]}]" in inodes:
            lost += int(words[8])
    return lost


def test_an_overrun_of_the_netlink_socket_ends_with_the_right_host(no_fd_leak: None) -> None:
    held, entered = threading.Event(), threading.Event()

    def on_change(_: object) -> None:
        entered.set()
        held.wait(60)

    with ExitStack() as stack:
        monitor = NetworkWatch(on_change)
        stack.callback(monitor.close)
        stack.callback(held.set)
        tiny = 4096  # bytes; a handful of messages
        monitor._news.setsockopt(1, 8, tiny)  # SOL_SOCKET, SO_RCVBUF
        assert {interface.name for interface in monitor.host().interfaces.values()} == {"lo"}
        ip("link add flood0 type veth peer name flood1")
        stack.callback(ip, "link del flood0")
        wait_for(entered.is_set)  # its thread is held: from here on nobody reads the socket
        before = drops()
        batch = "".join(f"addr add 10.11.{n // 250}.{n % 250 + 1}/32 dev flood0\n" for n in range(1000))
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        ip("addr add 10.12.0.1/24 dev flood1")
        assert drops() > before
        held.set()

        def addresses(name: str) -> set[str]:
            found = [each for each in monitor.host().interfaces.values() if each.name == name]
            return {str(address) for each in found for address in each.addresses if address.version == 4}

        wait_for(lambda: len(addresses("flood0")) == 1000)
        assert addresses("flood1") == {"10.12.0.1"}
        ip("addr del 10.12.0.1/24 dev flood1")  # and it goes on hearing of changes
        wait_for(lambda: addresses("flood1") == set())
