"""The network watch: whom a change concerns, and what it costs those whom it does not."""

from __future__ import annotations

import errno
import math
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from structlog.testing import capture_logs
from support.host import Host, connect
from support.inside import ifindex, inside, sysctl
from support.wait import wait_for

from mcastd import clock
from mcastd.config import Changes, InboundSubscription
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import Address, Concerned, Interfaces
from mcastd.makers import Parts, build
from mcastd.net._abi import (
    IFA_LOCAL,
    NLM_F_REQUEST,
    RTA_OIF,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTN_BLACKHOLE,
    RTN_PROHIBIT,
    RTN_UNREACHABLE,
    attribute,
    ifaddrmsg,
    ifinfomsg,
    nlmsghdr,
    rtmsg,
)
from mcastd.net.change import Change, renewed
from mcastd.net.interfaces import look, look_at
from mcastd.net.netlink import Netlink, _refused
from mcastd.net.news import Notices, open_news
from mcastd.net.pace import GATHER_MAX_SECONDS, GATHER_SECONDS
from mcastd.net.routes import Question, Route, Routes, route_to
from mcastd.net.watch import ROUTES_AT_ONCE, SETTLE_SECONDS, NetworkWatch
from mcastd.supervisor import Supervisor
from mcastd.supervisor.restart import Backoff

AF_BRIDGE = 7
FOUR, SIX = ip_address("239.255.8.1"), ip_address("ff15::8:1")
WISHES = {  # by a name: an interface setting and a group
    "eth0": ("eth0", FOUR),
    "eth0 by IPv6": ("eth0", SIX),
    "eth1": ("eth1", FOUR),
    "10.8.0.1": ("10.8.0.1", FOUR),
    "fd08:1::1": ("fd08:1::1", SIX),
    "all": ("all", FOUR),
    "route": (None, FOUR),
    "route by IPv6": (None, SIX),
    "lo": ("lo", FOUR),
    "nothing": ("eth9", FOUR),
}
ALL_OF_ETH0 = {"eth0", "eth0 by IPv6", "10.8.0.1", "all", "route"}


def concerns(concerned: Concerned, setting: Interfaces | None, group: Address) -> bool:
    of_groups = concerned(setting)
    return of_groups is not None and of_groups(group)


class Here:
    """A host with lo, eth0 and eth1, the way to IPv4 groups by eth0, and who was told what of it."""

    def __init__(self, stack: ExitStack) -> None:
        self.host = stack.enter_context(Host())
        self.there = stack.enter_context(Host())
        for each in ("all", "default"):  # IPv6 addresses are usable at once
            sysctl(self.host, **{f"ipv6__conf__{each}__accept_dad": 0})
        for number in (0, 1):
            connect(self.host, f"eth{number}", self.there, f"port{number}")
            self.host.ip(f"address add 10.8.{number}.1/24 dev eth{number}")
            self.host.ip(f"address add fd08:{number}::1/64 dev eth{number} nodad")
        self.host.ip("route add 239.0.0.0/8 dev eth0")
        self.wishes = dict(WISHES)
        self.told: list[set[str]] = []
        self._marks = 0

    def begin(self, stack: ExitStack) -> None:
        with inside(self.host):
            self.watch = NetworkWatch(self._note)
        stack.callback(self.watch.close)
        for setting, group in WISHES.values():  # as workers do when they start
            with suppress(LinkError):  # there is no eth9
                self.watch.host().resolve(setting, group)
        self.settle()

    def _note(self, concerned: Concerned) -> None:
        self.told.append({name for name, wish in self.wishes.items() if concerns(concerned, *wish)})

    def batch(self, *commands: str, family: str = "-4") -> None:
        text = "".join(f"{command}\n" for command in commands)
        subprocess.run(self.host.enter(["ip", family, "-batch", "-"]), input=text, text=True, check=True)

    def mark(self) -> None:
        """Wait until the watch has acted on all that was changed before."""
        self._marks += 1
        name, before = f"mark{self._marks}", len(self.told)
        self.host.ip(f"link property add dev lo altname {name}")
        lo = ifindex(self.host, "lo")
        wait_for(lambda: name in self.watch.host().interfaces[lo].alternative_names, name)
        wait_for(
            lambda: any("lo" in one for one in self.told[before:]), f"{name} told"
        )  # it is told after that

    def settle(self) -> None:
        """Wait for what links and addresses bring with them later, such as carriers."""
        self.mark()
        wait_for(lambda: all(one.carrier for one in self.watch.host().interfaces.values()), "carriers")
        self.mark()
        self.told.clear()

    def concerned(self) -> set[str]:
        """Everybody who was told, but for the mark on lo itself."""
        return set().union(*self.told) - {"lo"}


@pytest.fixture
def here() -> Iterator[Here]:
    with ExitStack() as stack:
        one = Here(stack)
        one.begin(stack)
        yield one


def test_changes_of_others_concern_nobody(here: Here) -> None:
    before = here.watch.host().interfaces
    here.batch(*(f"route add 2001:db8:{n:x}::/48 dev eth0" for n in range(100)), family="-6")
    here.batch(
        *(f"route add 192.0.2.{n}/32 dev eth0" for n in range(100)),
        "link add other0 type veth peer name other1",
        "address add 10.99.0.1/24 dev other0",
        "link set other0 up",
        "link set other1 up",
        "link set other0 down",
        "link del other0",
    )
    here.mark()
    # "all" may have met one of the two while it was there and up
    assert here.concerned() <= {"all"}
    lo = ifindex(here.host, "lo")
    now = here.watch.host().interfaces
    assert {index: one for index, one in now.items() if index != lo} == {
        index: one for index, one in before.items() if index != lo
    }


@pytest.mark.parametrize(
    ("command", "concerned"),
    [
        ("address add 10.8.0.9/24 dev eth0", ALL_OF_ETH0),
        ("address add fd08:1::9/64 dev eth1 nodad", {"eth1", "fd08:1::1", "all"}),
        ("link set eth1 mtu 1279", {"eth1", "fd08:1::1", "all"}),
        ("link set eth1 mtu 1400", {"eth1", "fd08:1::1", "all"}),
        ("link set eth1 name eth9", {"eth1", "nothing"}),  # it is down, and so without IPv6 addresses
        ("link property add dev eth1 altname eth9", {"eth1", "nothing", "fd08:1::1", "all"}),
        ("route add 239.255.0.0/16 dev eth1", {"route"}),
        ("route add default dev eth1", set()),  # the route to the group is narrower
        ("route add 239.1.0.0/16 dev eth1", set()),
        ("rule add to 239.255.8.0/24 lookup 100", set()),  # an empty table
        ("route add prohibit 239.255.8.1/32", {"route"}),
    ],
)
def test_a_change_is_told_to_those_it_concerns(here: Here, command: str, concerned: set[str]) -> None:
    if command.startswith("link set eth1 name"):
        here.host.ip("link set eth1 down")
        here.mark()
        here.told.clear()
    here.host.ip(command)
    here.mark()
    # That of IPv6 has several ways of the same metric: which it is may change with anything
    assert here.concerned() - {"route by IPv6"} == concerned


def test_the_source_that_a_route_prefers_is_told_to_those_who_send_by_it(here: Here) -> None:
    here.host.ip("address add 10.8.0.7/24 dev eth0")
    here.mark()
    eth0 = ifindex(here.host, "eth0")
    here.watch.host().routes.to(FOUR, by=eth0, as_added=True)  # as a channel does
    here.told.clear()
    here.host.ip("route replace 239.0.0.0/8 dev eth0 src 10.8.0.7")
    here.mark()
    assert here.concerned() - {"route by IPv6"} == {"eth0", "10.8.0.1", "all", "route"}
    assert here.watch.host().routes.to(FOUR, by=eth0, as_added=True).source == ip_address("10.8.0.7")


@pytest.mark.parametrize("having", [("lo", "eth0", "eth1"), ("eth0", "eth1")])
def test_an_address_that_several_have_means_the_one_of_the_route(here: Here, having: tuple[str, ...]) -> None:
    for name in having:
        here.host.ip(f"address add 10.8.9.9/32 dev {name}")
    here.mark()

    def meant() -> list[str]:
        return [one.name for one in here.watch.host().resolve("10.8.9.9", FOUR)]

    assert meant() == ["eth0", "eth1"]
    here.wishes["shared"] = ("10.8.9.9", FOUR)
    here.told.clear()
    here.host.ip("route replace 239.0.0.0/8 dev eth1")
    here.mark()
    assert meant() == ["eth1", "eth0"]
    assert here.concerned() - {"route by IPv6"} == {"shared", "route"}


def _moved_by_rule(here: Here, family: str, group: str) -> None:
    here.host.ip(f"{family} route add {group} dev eth1 table 100")
    here.mark()
    here.told.clear()
    here.host.ip(f"{family} rule add pref 1 to {group} lookup 100")


def _moved_by_nexthop_alone(here: Here, family: str, group: str) -> None:
    sysctl(here.host, ipv4__nexthop_compat_mode=0)  # else the kernel tells of the nexthop's routes, too
    _moved_by_nexthop(here, family, group)


def _moved_by_nexthop(here: Here, family: str, group: str) -> None:
    here.host.ip(f"{family} nexthop add id 7 dev eth0")
    here.host.ip(f"{family} route add {group} nhid 7")
    here.mark()
    here.told.clear()
    here.host.ip(f"{family} nexthop replace id 7 dev eth1")


@pytest.mark.parametrize(
    ("family", "prefix", "wish"), [("", "239.255.0.0/16", "route"), ("-6", "ff15::/16", "route by IPv6")]
)
@pytest.mark.parametrize("move", [_moved_by_rule, _moved_by_nexthop, _moved_by_nexthop_alone])
def test_the_way_to_a_group_is_moved(
    here: Here, move: Callable[[Here, str, str], None], family: str, prefix: str, wish: str
) -> None:
    if family:  # the kernel's own ff00::/8 is in the local table, which goes first
        here.host.ip("-6 rule add pref 40000 lookup local")
        here.host.ip("-6 rule del pref 0")
    move(here, family, prefix)
    wait_for(lambda: wish in here.concerned(), "told")
    (way,) = here.watch.host().resolve(*WISHES[wish])
    assert way.name == "eth1"
    # eth1, too: by IPv6 it can only send to groups that it has routes to
    assert here.concerned() <= ({"route by IPv6", "eth1", "all", "fd08:1::1"} if family else {"route"})


@pytest.mark.parametrize("prefix", ["ff15::/16", "default"])
def test_an_ipv6_route_by_several_interfaces_is_told_to_those_of_each(here: Here, prefix: str) -> None:
    ways = " ".join(f"nexthop via fd08:{number}::2 dev eth{number}" for number in (0, 1))
    for command in ("add", "del"):
        here.host.ip(f"-6 route {command} {prefix} {ways}")
        here.mark()
        wait_for(lambda: here.concerned() >= {"eth0 by IPv6", "fd08:1::1"}, command)
        here.told.clear()


def test_a_route_that_goes_without_notice_is_missed_soon(here: Here) -> None:
    here.host.ip("address add 10.77.0.1/32 dev eth1")
    here.host.ip("route replace 239.255.0.0/16 dev eth0 src 10.77.0.1")
    here.mark()
    assert str(here.watch.host().routes.to(FOUR).source) == "10.77.0.1"
    here.told.clear()
    here.host.ip("address del 10.77.0.1/32 dev eth1")  # and the kernel drops the route with it
    wait_for(lambda: "route" in here.concerned(), "told")
    assert str(here.watch.host().routes.to(FOUR).source) == "10.8.0.1"


@pytest.mark.parametrize("group", [FOUR, SIX])
def test_routes_in_use_are_asked_for_again_some_time_after_an_interface_changed(
    here: Here, group: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.net.watch.SETTLE_SECONDS", 0.1)
    routes = here.watch.host().routes
    right = routes.to(group)
    routes._known[Question(group)] = replace(right, ifindex=77)  # as if it had changed without notice
    here.host.ip("address add 10.9.9.9/24 dev lo")
    wait_for(lambda: here.watch.host().routes.to(group) == right, "asked again")


def test_news_do_not_wait_until_all_routes_were_asked_for_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [ip_address("239.255.9.0") + number for number in range(10 * ROUTES_AT_ONCE)]
    for group in groups:
        here.watch.host().routes.to(group)
    asked: list[int] = []  # kinds of questions
    ask = here.watch._netlink.ask

    def note(kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
        if kind == RTM_GETROUTE and RTM_GETROUTE not in asked:
            here.host.ip("link set eth1 mtu 1400")  # while the routes are asked for
        asked.append(kind)
        return ask(kind, header, dump=dump)

    here.mark()
    monkeypatch.setattr(here.watch._netlink, "ask", note)
    here.watch._settle_at = 0.0
    here.host.ip("link property add dev lo altname begin")  # wakes it
    wait_for(lambda: RTM_GETROUTE in asked, "the routes are asked for again")
    del asked[: asked.index(RTM_GETROUTE)]
    wait_for(lambda: len(asked) > len(groups), "all of them are")
    assert asked.index(RTM_GETLINK) <= 2 * ROUTES_AT_ONCE


def test_all_routes_are_asked_for_again_while_changes_keep_coming(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [ip_address("239.255.9.0") + number for number in range(3 * ROUTES_AT_ONCE)]
    routes = here.watch.host().routes
    right = [routes.to(group) for group in groups]
    here.watch.close()  # its turns are taken here, on a clock of the test's own
    for group in groups:
        routes._known[Question(group)] = replace(right[0], ifindex=77)  # as if it had changed without notice
    now = clock.monotonic() + 2 * SETTLE_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    here.watch._settle_at, here.watch._doubted = math.inf, []
    with inside(here.host), closing(Netlink()) as here.watch._netlink:
        for _ in range(int(SETTLE_SECONDS / GATHER_MAX_SECONDS) + 10):
            here.watch._notices.links.add(ifindex(here.host, "eth1"))  # in each turn something has changed
            here.watch._renew()
            now += GATHER_MAX_SECONDS
    assert [here.watch.host().routes.to(group) for group in groups] == right


def test_what_the_kernel_refuses_to_say_stops_nothing_else_and_is_said_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.net.pace.RETRY_SECONDS", 0.01)
    here.watch._refusal.reset()
    refused, ask = [], here.watch._netlink.ask
    eth0 = ifindex(here.host, "eth0")

    def refuse(kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
        if kind == RTM_GETLINK and ifinfomsg.unpack_from(header)[2] == eth0:
            refused.append(clock.monotonic())
            raise LinkError("the kernel refused an answer (netlink)", "made up", errno=errno.EINVAL)
        return ask(kind, header, dump=dump)

    monkeypatch.setattr(here.watch._netlink, "ask", refuse)
    with capture_logs() as logged:
        here.batch("link set eth0 mtu 1400", "link set eth1 mtu 1401")
        wait_for(lambda: here.concerned() == {"eth1", "fd08:1::1", "all"}, "the other one is told")
        wait_for(lambda: len(refused) > 4, "it is asked again")
        assert here.watch.host().interfaces[eth0].mtu != 1400
    assert [(one["event"], one["reason"].partition(":")[2]) for one in logged] == [
        ("network.refused", " made up")
    ]
    wait_for(lambda: here.watch._refusal.at - refused[-1] > 0.08, "the pause is doubled each time")
    here.told.clear()
    monkeypatch.setattr(here.watch._netlink, "ask", ask)
    wait_for(lambda: here.concerned() >= ALL_OF_ETH0, "it is told at last")
    assert here.watch.host().interfaces[eth0].mtu == 1400
    wait_for(lambda: not here.watch._refused, "nothing is left to ask")


def test_a_refused_look_at_all_is_asked_for_again_and_stops_nothing_else(here: Here) -> None:
    notices = Notices(links={ifindex(here.host, "eth1")}, overrun=True)
    here.host.ip("link set eth1 mtu 1400")

    def refuse(kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
        if dump and kind == RTM_GETLINK:
            raise LinkError("the kernel refused an answer (netlink)", "made up", errno=errno.EINVAL)
        return here.watch._netlink.ask(kind, header, dump=dump)

    answer = renewed(here.watch.host(), notices, SimpleNamespace(ask=refuse))  # type: ignore[arg-type]
    assert answer.host.interfaces[ifindex(here.host, "eth1")].mtu == 1400
    assert answer.refused == Notices(overrun=True)
    assert answer.refusal is not None


def test_a_storm_of_changes_is_taken_together(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    renewals, renew = [], here.watch._renew
    monkeypatch.setattr(here.watch, "_renew", lambda: (renewals.append(clock.monotonic()), renew()))
    here.batch(*(f"link set eth1 mtu {1300 + number}" for number in range(200)))
    here.mark()
    eth1 = ifindex(here.host, "eth1")
    assert here.watch.host().interfaces[eth1].mtu == 1499
    assert renewals
    # Each lets changes gather first: whatever the machine's speed
    assert all(after - before >= GATHER_SECONDS for before, after in pairwise(renewals))


def test_a_route_that_was_asked_for_during_a_change_may_be_the_old_one(here: Here) -> None:
    before = here.watch.host()
    fresh = {Question(FOUR): before.routes.to(FOUR)}
    after = type(before)(before.interfaces, before.asked, Routes(known=fresh))
    change = Change(before, after, dict(fresh))
    assert [concerns(change.concerned, None, group) for group in (FOUR, SIX)] == [False, True]


def test_an_answer_to_another_question_is_passed_over(here: Here) -> None:
    with inside(here.host), closing(Netlink()) as netlink:
        eth0, lo = ifindex(here.host, "eth0"), ifindex(here.host, "lo")
        question = ifinfomsg.pack(0, 0, lo, 0, 0)
        size = nlmsghdr.size + len(question)
        netlink._socket.send(nlmsghdr.pack(size, RTM_GETLINK, NLM_F_REQUEST, 4711, 0) + question)
        (answer,) = netlink.ask(RTM_GETLINK, ifinfomsg.pack(0, 0, eth0, 0, 0))
        assert ifinfomsg.unpack_from(answer)[2] == eth0


def test_addresses_of_other_protocols_are_passed_over(here: Here) -> None:
    """MCTP (family 45) and Phonet (35) have addresses of one byte, of lo, too; most kernels lack both."""
    with inside(here.host), closing(Netlink()) as netlink:
        expected = look(netlink.ask).interfaces

        def ask(kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
            others = [
                ifaddrmsg.pack(family, 0, 0, 0, 1) + attribute(IFA_LOCAL, b"\x08") for family in (45, 35)
            ]
            return [*(others if kind == RTM_GETADDR else []), *netlink.ask(kind, header, dump=dump)]

        assert look(ask).interfaces == expected
        assert look_at(1, ask) == expected[1]


@pytest.mark.parametrize(
    ("number", "no_answer"), [(errno.ENOBUFS, True), (errno.ENOMEM, True), (errno.ENODEV, False)]
)
def test_a_shortage_of_the_kernel_is_no_answer(number: int, no_answer: bool) -> None:
    error = _refused(number)
    assert (isinstance(error, CannotAskError), error.errno) == (no_answer, number)


def test_an_interface_made_anew_that_looks_the_same_concerns_its_workers(here: Here) -> None:
    notices = Notices()
    index = ifindex(here.host, "eth1")
    for kind in (RTM_DELLINK, RTM_NEWLINK):
        notices.take(kind, ifinfomsg.pack(0, 0, index, 0, 0))
    before = here.watch.host()
    after, routes, _, _ = renewed(before, notices, here.watch._netlink)
    change = Change(before, after, routes)
    assert before.interfaces[index] == replace(after.interfaces[index], edition=0)
    assert {name for name, wish in WISHES.items() if concerns(change.concerned, *wish)} == {
        "eth1",
        "all",
        "fd08:1::1",
    }


def test_a_port_that_leaves_a_bridge_is_no_interface_that_went() -> None:
    notices = Notices()
    notices.take(RTM_DELLINK, ifinfomsg.pack(AF_BRIDGE, 0, 7, 0, 0))
    assert (notices.links, notices.deleted) == ({7}, set())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.ENOMEM])
def test_while_the_kernel_cannot_be_asked_the_host_stays_as_it_was(
    here: Here, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*_: object, **__: object) -> list[bytes]:
        asked.append(True)
        raise CannotAskError("cannot ask", "none left", errno=number)

    before, ask = here.watch.host(), here.watch._netlink.ask
    monkeypatch.setattr(here.watch._netlink, "ask", refuse)
    here.host.ip("address add 10.8.1.9/24 dev eth1")
    wait_for(lambda: len(asked) > 2, "it is asked again")
    assert here.watch.host() is before
    assert here.told == []
    monkeypatch.setattr(here.watch._netlink, "ask", ask)
    wait_for(lambda: here.concerned() == {"eth1", "fd08:1::1", "all"}, "told at last")
    here.mark()


def test_a_change_costs_a_look_at_what_changed_alone(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.batch(*(f"link add many{n} type veth peer name more{n}" for n in range(20)))
    here.mark()
    answers, ask = [], here.watch._netlink.ask

    def count(kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
        answers.extend(found := ask(kind, header, dump=dump))
        return found

    monkeypatch.setattr(here.watch._netlink, "ask", count)
    here.host.ip("address add 10.8.1.9/24 dev eth1")
    here.mark()
    # eth1 and the mark's lo, each with its addresses; and the routes once more, if it is time for that
    assert len(answers) <= 24, len(answers)


@pytest.mark.parametrize(
    ("prefix", "kept"),
    [
        ("192.0.2.0/24", False),
        ("10.0.0.0/8", False),
        ("223.0.0.0/8", False),
        ("64.0.0.0/4", False),
        ("default", True),
        ("128.0.0.0/1", True),
        ("224.0.0.0/4", True),
        ("239.1.2.3/32", True),
        ("2001:db8::/32", False),
        ("fc00::/7", True),  # shorter than ff00::/8: not looked at closely
        ("fe80:1::/64", False),
        ("::/0", True),
        ("ff00::/8", True),
        ("ff15::8:1/128", True),
    ],
)
def test_the_kernel_drops_notices_of_routes_that_no_group_can_take(prefix: str, kept: bool) -> None:
    with ExitStack() as stack:
        host = stack.enter_context(Host())
        host.ip("link set lo up")
        with inside(host):
            news = stack.enter_context(open_news())
        for command in ("add", "del"):
            host.ip(f"{'-6 ' if ':' in prefix else ''}route {command} {prefix} dev lo table 77")
            notices = Notices()
            notices.take_all(news)
            assert notices.routes == ({6 if ":" in prefix else 4} if kept else set()), command
            # By IPv6 it can only send to groups that it has routes to
            assert notices.routed == ({1} if kept and ":" in prefix else set()), command


@pytest.mark.parametrize(
    ("number", "kind"),
    [(RTN_BLACKHOLE, "blackhole"), (RTN_UNREACHABLE, "unreachable"), (RTN_PROHIBIT, "prohibit")],
)
def test_a_route_that_leads_nowhere_is_known_by_its_type_too(number: int, kind: str) -> None:
    answer = rtmsg.pack(10, 128, 0, 0, 0, 0, 0, number, 0) + attribute(RTA_OIF, b"\1\0\0\0")
    assert route_to(SIX, lambda *_: [answer]) == Route(0, refusal=kind)


@pytest.mark.parametrize("group", [FOUR, SIX])
@pytest.mark.parametrize("kind", ["prohibit", "unreachable", "blackhole", "throw"])
def test_a_route_that_leads_nowhere_is_told_as_what_it_is(group: object, kind: str) -> None:
    with ExitStack() as stack:
        host = stack.enter_context(Host())
        if group is SIX:
            host.ip("-6 rule add pref 40000 lookup local")
            host.ip("-6 rule del pref 0")
            host.ip(f"-6 route add {kind} ff15::/16")
        else:
            host.ip(f"route add {kind} 239.0.0.0/8")
        with inside(host):
            watch = NetworkWatch(lambda _: None)
        stack.callback(watch.close)
        with pytest.raises(LinkError) as caught:
            watch.host().resolve(None, group)  # type: ignore[arg-type]
        assert caught.value.errno == errno.ENETUNREACH
        of_type = f"the route to the group is of type {kind}"
        assert (of_type if kind != "throw" else "the host has no route to the group") in str(caught.value)


@pytest.mark.parametrize(
    ("off", "on", "way_out"),
    [
        ("link set eth1 mtu 1279", "link set eth1 mtu 1280", "below the 1280 that IPv6 needs; ip link set"),
        (None, None, "IPv6 is disabled on it; sysctl net/ipv6/conf/eth1/disable_ipv6=0"),
    ],
)
def test_an_interface_without_the_version_of_the_group_says_why(
    here: Here, off: str | None, on: str | None, way_out: str
) -> None:
    def turn(command: str | None, disabled: int) -> None:
        if command is None:
            sysctl(here.host, ipv6__conf__eth1__disable_ipv6=disabled)
        else:
            here.host.ip(command)

    turn(off, 1)
    wait_for(lambda: "eth1" in here.concerned(), "told")
    with pytest.raises(LinkError, match=way_out) as caught:
        here.watch.host().resolve("eth1", SIX)
    assert caught.value.errno == errno.EAFNOSUPPORT
    able = [one.name for one in here.watch.host().resolve("all", SIX)]
    assert able == ["eth0"], "those that can do it do it"
    here.told.clear()
    turn(on, 0)
    wait_for(lambda: "eth1" in here.concerned(), "told")
    wait_for(lambda: 6 in here.watch.host().resolve("eth1", SIX)[0].versions, "it is back")


def test_a_watch_that_could_not_begin_begins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise CannotAskError("cannot ask", "none left", errno=errno.EMFILE)

    monkeypatch.setattr("mcastd.net.watch.open_news", short)
    watch = NetworkWatch(lambda _: None)
    with pytest.raises(CannotAskError, match="none left"):
        watch.host()
    monkeypatch.undo()
    assert watch.host().interfaces, "it is tried again"
    assert watch.problem == ""
    watch.close()


def test_a_watch_without_memory_for_its_thread_begins_later(
    monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "__init__", mock.Mock(side_effect=MemoryError()))
        watch = NetworkWatch(lambda _: None)
        with pytest.raises(CannotAskError, match="cannot start the thread interfaces"):
            watch.host()
    assert watch.host().interfaces, "it is tried again"
    watch.close()


def test_news_and_not_the_next_attempt_bring_a_waiting_worker_to_work(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = Backoff(first=3600.0, longest=3600.0)
    monkeypatch.setattr("mcastd.supervisor.thread.Backoff", lambda **_: hour)
    monkeypatch.setattr("mcastd.supervisor.thread.WATCHED_RETRY_MAX_SECONDS", 3600.0)
    monkeypatch.setattr("mcastd.net.watch.SETTLE_SECONDS", 0.05)  # so it is under way mostly
    for number in range(10 * ROUTES_AT_ONCE):
        here.watch.host().routes.to(ip_address("239.255.9.0") + number)
    config = InboundSubscription.model_validate(
        {"group": str(FOUR), "port": 9190, "interface": "10.77.0.1", "output": str(tmp_path / "out")}
    )
    supervisor = Supervisor(lambda name, settings: build(name, settings, Parts(host=here.watch.host)))
    here.watch._on_change = supervisor.network_changed
    try:
        with inside(here.host):
            supervisor.apply(Changes(("inbound/waiting",), (), (), (), ()), {"inbound/waiting": config}, 5)
        for _ in range(5):
            for command, state in (("add", "active"), ("del", "auto-restart")):
                here.host.ip(f"address {command} 10.77.0.1/32 dev eth1")
                wait_for(lambda state=state: supervisor.view("inbound/waiting").state == state, command)  # type: ignore[misc]
    finally:
        supervisor.close(5)
