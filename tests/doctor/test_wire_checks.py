"""The checks that watch, on observations that are given to them: what takes minutes, or must not be said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from support.numbers import NumbersSettings

from mcastd.config import SOURCES, InboundSubscription, OutboundChannel
from mcastd.doctor import blame, delivery, departure, dropped, reports
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.seen import seen_text
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Kernel, Observation
from mcastd.net.interfaces import Host, Interface, Snooping
from mcastd.net.packets import MembershipMessage
from mcastd.net.queues import Queue
from mcastd.net.routes import NO_ROUTE
from mcastd.net.ruleset import INBOUND, Facts, Ruleset
from mcastd.net.tables import UdpSocket
from mcastd.net.tap import Flow, FlowKey, SeenMessage, Traffic

UP, RUNNING = 0x1, 0x40
GROUP, THERE = ip_address("239.255.6.1"), ip_address("10.6.0.2")
QUERY = MembershipMessage(THERE, "IGMP", 3, "query", (), 10.0)

DPORT = {"payload": {"protocol": "udp", "field": "dport"}}


def inbound(received: int = 0, size: int = 0, overflow: int = 0, **settings: object) -> Subject:
    where = {"group": str(GROUP), "port": 9190, "interface": "eth0", "output": "/dev/null", **settings}
    earlier = {"received": 0, "received_bytes": 0, "overflow": 0}
    now = {"received": received, "received_bytes": size, "overflow": overflow}
    status = {
        "memberships": [{"interface": "eth0", "ifindex": 2, "actual": "any"}],
        "counters": now,
        "by_source": {"top": {str(THERE): received} if received else {}, "rest": 0},
    }
    empty = {"counters": earlier, "by_source": {"top": {}, "rest": 0}}
    return Subject("inbound/news", InboundSubscription.model_validate(where), "active", "", status, empty)


def outbound() -> Subject:
    where = {"group": str(GROUP), "port": 9190, "interface": "eth0", "source": "/etc/hosts", "ttl": 1}
    counters = {"counters": {"sent": 2, "refused": {}}}
    return Subject(
        "outbound/news", OutboundChannel.model_validate(where), "active", "", counters,
        {"counters": {"sent": 0, "refused": {}}},
    )  # fmt: skip


def observed(
    seconds: float = 1.0,
    flows: dict[FlowKey, Flow] | None = None,
    messages: Iterable[tuple[float, bool, MembershipMessage]] = (),
    sockets: Iterable[UdpSocket] = (),
    counters: dict[str, int] | None = None,
) -> Observation:
    seen = [SeenMessage(when, "eth0", outgoing, message) for when, outgoing, message in messages]
    traffic = Traffic(0.0, seconds, flows or {}, seen)
    around = Traffic(0.0, 0.0), Traffic(seconds, seconds)
    rules = Ruleset(unread="nothing was read")
    before, after = Kernel({}, tuple(sockets), rules), Kernel(counters or {}, tuple(sockets), rules)
    return Observation(seconds, traffic, around, "", before, after)


def given(
    observation: Observation | None, *, joined: bool = True, snooping: Snooping | None = None
) -> Evidence:
    eth0 = Interface(2, "eth0", UP | RUNNING, 0, (ip_address("10.6.0.1"),), snooping=snooping)
    host = Host({2: eth0}, 0.0)
    host._groups = {4: {2: frozenset([GROUP] if joined else [])}, 6: {}}
    return Evidence((), observation, look=lambda: host, route_to=lambda _, by=0: NO_ROUTE)


def causes(said: Iterable[object]) -> list[str]:
    return [one.cause if isinstance(one, Finding) else "skipped" for one in said]


def flow(packets: int, size: int, *, first: float = 0.1, **differences: object) -> dict[FlowKey, Flow]:
    key = FlowKey("eth0", False, GROUP, 9190, THERE, 0)._replace(**differences)  # type: ignore[arg-type]
    return {key: Flow(packets, size, first, first, ttls={1})}


# -- who asks


def test_that_nobody_asks_takes_a_long_watch_to_know() -> None:
    assert causes(reports.querier(inbound(), given(observed(259.0)))) == ["skipped"]
    assert causes(reports.querier(inbound(), given(observed(260.0)))) == ["no-querier"]
    asked = observed(260.0, messages=[(99.0, False, QUERY)])
    assert causes(reports.querier(inbound(), given(asked))) == []
    assert causes(reports.querier(inbound(group="224.0.0.9"), given(observed(260.0)))) == []  # needs none


@pytest.mark.parametrize(
    ("snooping", "expected"),
    [
        (Snooping(on=True, querier=False, other_querier=frozenset()), ["no-querier"]),
        (Snooping(on=True, querier=False, other_querier=frozenset([6])), ["no-querier"]),
        (Snooping(on=True, querier=False, other_querier=frozenset([4])), ["skipped"]),
        (Snooping(on=True, querier=True, other_querier=frozenset()), ["skipped"]),
        (Snooping(on=False, querier=False, other_querier=frozenset()), ["skipped"]),
    ],
)
def test_a_bridge_of_this_host_says_it_at_once(snooping: Snooping, expected: list[str]) -> None:
    assert causes(reports.querier(inbound(), given(observed(), snooping=snooping))) == expected


# -- who answers


def report(version: int, *groups: object) -> MembershipMessage:
    return MembershipMessage(
        THERE, "IGMP", version, "report", tuple(ip_address(str(group)) for group in groups)
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([(1.0, False, QUERY)], ["no-report"]),
        ([(9.0, False, QUERY)], []),  # it may still come
        ([(1.0, True, QUERY)], []),  # this host does not answer itself
        (
            [(1.0, False, QUERY._replace(groups=(ip_address("239.1.1.1"),)))],
            [],
        ),  # another group was asked for
        ([(1.0, False, QUERY), (2.0, True, report(3, GROUP))], []),
        ([(1.0, False, QUERY), (2.0, False, report(2, GROUP))], []),  # another's report keeps ours back
        ([(1.0, False, QUERY), (2.0, False, report(3, GROUP))], ["no-report"]),  # in version 3 it does not
        ([(1.0, False, QUERY), (2.0, True, report(3, "239.1.1.1"))], ["no-report"]),
    ],
)
def test_a_member_answers(messages: list[tuple[float, bool, MembershipMessage]], expected: list[str]) -> None:
    evidence = given(observed(15.0, messages=messages))
    assert causes(reports.answers(inbound(), evidence)) == expected


@pytest.mark.parametrize(
    ("messages", "joined", "expected"),
    [
        ([], False, []),  # nobody asked
        ([(1.0, False, QUERY)], False, ["skipped"]),  # maybe a switch keeps the reports from us
        ([(1.0, False, QUERY), (2.0, False, report(3, "239.1.1.1"))], False, ["nobody-joined"]),
        ([(1.0, False, QUERY), (2.0, False, report(3, "239.1.1.1"))], True, []),  # on this host
        ([(1.0, False, QUERY), (2.0, False, report(3, "239.1.1.1", GROUP))], False, []),
    ],
)
def test_a_channel_has_receivers(
    messages: list[tuple[float, bool, MembershipMessage]], joined: bool, expected: list[str]
) -> None:
    evidence = given(observed(15.0, messages=messages), joined=joined)
    assert causes(reports.answers(outbound(), evidence)) == expected


# -- what came, and what was received


def test_nothing_is_said_of_what_may_still_be_on_its_way() -> None:
    late = observed(flows=flow(3, 30, first=0.95))
    assert causes(delivery.delivery(inbound(), given(late))) == []
    early = observed(flows=flow(3, 30))
    assert causes(delivery.delivery(inbound(), given(early))) == ["dropped-inside"]


def ruled(*legacy: tuple[int, str], unread: str = "") -> Observation:
    """Packets that do not arrive, with rules of iptables whose counters have grown from 0."""
    seen = observed(flows=flow(3, 30))
    before = Kernel({}, (), Ruleset(legacy=tuple((0, rule) for _, rule in legacy)))
    return replace(seen, before=before, after=Kernel({}, (), Ruleset(legacy=legacy, unread=unread)))


@pytest.mark.parametrize(
    ("observation", "cause", "words", "fix"),
    [
        (
            ruled(),
            "dropped-inside",
            "no rule of nftables or iptables does it",
            "look for another filter: tc ",
        ),
        (ruled(unread="nft is missing"), "dropped-inside", "could not be read: nft is", "nft list ruleset; "),
        (ruled((0, "-A INPUT -j DROP")), "dropped-inside", "no rule", "look for another filter"),
        (
            ruled((7, "-A INPUT -p udp -j DROP")),
            "firewall-drop",
            "iptables -A INPUT -p udp -j DROP: 7 packets meanwhile",
            f"iptables-legacy -I INPUT -d {GROUP} -p udp --dport 9190 -j ACCEPT",
        ),
        (
            ruled((7, "-P PREROUTING DROP")),
            "firewall-drop",
            "7 packets",
            f"iptables-legacy -t raw -I PREROUTING -d {GROUP} -p udp --dport 9190 -j ACCEPT",
        ),
    ],
)
def test_a_firewall_is_blamed_only_for_a_rule(
    observation: Observation, cause: str, words: str, fix: str
) -> None:
    (found,) = delivery.delivery(inbound(), given(observation))
    assert isinstance(found, Finding)
    assert found.cause == cause
    assert ("firewall" in found.what) == (cause == "firewall-drop")
    assert any(words in line for line in found.evidence), found
    assert found.fix.startswith(fix)


def test_a_way_to_a_sender_is_proposed_only_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can send in the name of a name server: a route to it by that link takes it from the host."""
    monkeypatch.setattr(dropped, "reverse_path", lambda *_: "it is reached by eth1")
    filtered = observed(flows=flow(3, 30), counters={"TcpExtIPReversePathFilter": 3})
    (found,) = delivery.delivery(inbound(), given(filtered))
    assert isinstance(found, Finding)
    assert found.cause == "rp-filter"
    assert found.fix.startswith(f"if {THERE} is there indeed")
    assert [way.command for way in found.ways] == [
        f"ip route replace {THERE}/32 dev eth0",
        "sysctl net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.all.rp_filter=0",
    ]


@pytest.mark.parametrize(
    ("senders", "words"),
    [(1, "192.0.2.1 to"), (2, "192.0.2.1 and 1 other to"), (4, "192.0.2.1 and 3 others to")],
)
def test_of_several_senders_one_is_named_and_the_others_are_counted(senders: int, words: str) -> None:
    flows: dict[FlowKey, Flow] = {}
    for number in range(senders):
        flows |= flow(3, 30, source=ip_address("192.0.2.1") + number)
    text = seen_text(list(flows.items()))
    assert text == f"{3 * senders} packets from {words} {GROUP} port 9190 on eth0 (AF_PACKET)"


def test_the_rule_whose_counter_grew_is_named_before_one_that_certainly_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blame, "text_of", lambda key: f"rule {key.handle} of nobody's")
    first, then = ("ip", "filter", "first"), ("ip", "filter", "then")
    maybe, certain = {"limit": {"rate": 1}}, {"match": {"op": "==", "left": DPORT, "right": 9190}}

    def rules(packets: int) -> Ruleset:
        counted = [maybe, {"counter": {"packets": packets, "bytes": 0}}, {"drop": None}]
        chains = {first: {"hook": "input", "prio": 0}, then: {"hook": "input", "prio": 1}}
        uncounted = {"handle": 5, "expr": [certain, {"drop": None}]}
        return Ruleset(chains, {first: [uncounted], then: [{"handle": 4, "expr": counted}]})

    seen = replace(observed(), before=Kernel({}, (), rules(2)), after=Kernel({}, (), rules(9)))
    lines = blame.rules_of(Facts(GROUP, 9190, "eth0"), INBOUND, seen).lines
    assert [("rule 4 " in line, "grew by 7" in line) for line in lines] == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("differences", "counters", "cause"),
    [
        ({"not_ours": 6}, {}, "wrong-mac"),
        ({"not_ours": 5}, {}, "dropped-inside"),  # one was ours
        ({}, {"UdpInCsumErrors": 3}, "bad-checksum"),
        ({}, {"UdpInCsumErrors": 2}, "dropped-inside"),  # of others: less than half of these
        ({"fragmented": 2}, {"IpReasmReqds": 9}, "fragments-lost"),
        ({"fragmented": 2}, {"IpReasmReqds": 9, "IpReasmOKs": 4}, "dropped-inside"),
        ({"fragmented": 2}, {}, "dropped-inside"),
        ({}, {"IpReasmReqds": 9}, "dropped-inside"),
    ],
)
def test_a_part_of_this_host_is_blamed_for_all_that_is_missing_or_for_nothing(
    differences: dict[str, int], counters: dict[str, int], cause: str
) -> None:
    (missing,) = flow(6, 60).items()
    flows = {missing[0]: replace(missing[1], **differences)}
    seen = observed(flows=flows, counters=counters)
    assert causes(delivery.delivery(inbound(), given(seen))) == [cause]


def test_what_the_kernel_refused_counts_as_sent_when_nothing_left() -> None:
    """A chain at egress drops it, and the kernel says ENOBUFS."""
    enough = replace(outbound(), status={"counters": {"sent": 0, "refused": {"ENOBUFS": 3}}})
    assert causes(departure.departure(enough, given(observed()))) == ["dropped-inside"]
    few = replace(outbound(), status={"counters": {"sent": 1, "refused": {"ENOBUFS": 1}}})
    assert causes(departure.departure(few, given(observed()))) == []


def test_what_waits_in_the_buffer_was_not_dropped() -> None:
    any_address = ip_address("0.0.0.0")
    waits = UdpSocket(GROUP, 9190, any_address, 0, queued=768, uid=0, inode=7, drops=0)
    assert causes(delivery.delivery(inbound(), given(observed(flows=flow(3, 30), sockets=[waits])))) == []


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (inbound(20, 2000), []),
        (inbound(1, 2000), []),  # coalesced differently: the bytes count
        (inbound(19, 1900), []),  # what was on its way at the edges
        (inbound(10, 1000), ["dropped-inside"]),
        (inbound(10, 1000, overflow=10), []),  # that is why
    ],
)
def test_a_part_is_missed_by_its_bytes(subject: Subject, expected: list[str]) -> None:
    assert causes(delivery.delivery(subject, given(observed(flows=flow(20, 2000))))) == expected


def test_what_this_host_sends_itself_is_no_arrival() -> None:
    sent = observed(flows=flow(20, 2000, outgoing=True))
    assert causes(delivery.delivery(inbound(), given(sent))) == ["nothing-arrives"]


def test_a_channel_that_sends_seldom_is_not_suspected() -> None:
    assert causes(departure.departure(outbound(), given(observed()))) == []


@pytest.mark.parametrize(
    ("kind", "drops", "settings", "lines"),
    [
        ("tbf", (0xFFFFFFFE, 3), {"rate": 80_000}, ["rate = 19200"]),  # the counter has 32 bits
        ("tbf", (2, 9), {"rate": 40_000}, ["rate = 19200"]),
        ("tbf", (2, 9), {"rate": 20_000}, ["rate = 10000"]),
        ("tbf", (2, 9), {"interval": 0}, ["interval = 0.0625"]),
        ("tbf", (2, 9), {"interval": 0.05}, ["interval = 0.1"]),
        ("pfifo_fast", (2, 9), {"interval": 0.05}, ["interval = 0.1", "ip link set eth0 txqueuelen 1400"]),
        ("tbf", (9, 9), {"rate": 80_000}, []),  # another part of the kernel has refused
        ("tbf", (1, 9), {"source": {"kind": "numbers"}}, []),  # it has a schedule of its own
    ],
)
def test_a_full_send_queue_is_known_by_its_own_counter(
    kind: str,
    drops: tuple[int, int],
    settings: dict[str, object],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SOURCES.models, "numbers", NumbersSettings)
    now = {"counters": {"sent": 20, "sent_bytes": 3000, "refused": {"ENOBUFS": 5}}}
    before = {"counters": {"sent": 0, "sent_bytes": 0, "refused": {"ENOBUFS": 1}}}
    where = {"group": str(GROUP), "port": 9190, "interface": "eth0", "source": "/etc/hosts", **settings}
    channel = OutboundChannel.model_validate(where)
    subject = Subject("outbound/news", channel, "active", "", now, before)
    observation = observed(flows=flow(9, 90, outgoing=True))
    assert observation.before is not None
    assert observation.after is not None
    kernels = [
        replace(one, queues={2: Queue(kind, count, 700, "limit 7p")})
        for one, count in zip((observation.before, observation.after), drops, strict=True)
    ]
    said = departure.departure(subject, given(replace(observation, before=kernels[0], after=kernels[1])))
    found = [one for one in said if isinstance(one, Finding)]
    assert [one.cause for one in found] == ["queue-full"] * (drops[0] != drops[1])
    assert [line for one in found for way in one.ways for line in (*way.lines, way.command) if line] == lines
    if found and "of its own" in found[0].evidence[0]:
        assert found[0].fix == "a queue with more room: tc -s qdisc show dev eth0"


@pytest.mark.parametrize(
    ("code", "times", "expected"),
    [("EPERM", 7, ["dropped-inside"]), ("EPERM", 0, []), ("EACCES", 7, []), ("", 7, [])],
)
def test_what_ended_a_channel_is_known_by_its_errno_not_by_its_words(
    code: str, times: int, expected: list[str]
) -> None:
    """EPERM without a refused send is of something else, such as its file."""
    counters = {"counters": {"sent": 2, "refused": {"EPERM": times} if times else {}}}
    words = "Vorgang nicht zulässig" if code == "EPERM" else "operation not permitted"
    waiting = replace(
        outbound(), state="auto-restart", detail=words, errno=code, status=counters, earlier=counters
    )
    assert causes(departure.departure(waiting, given(observed()))) == expected


def test_what_nobody_watched_is_not_looked_at() -> None:
    for check in (delivery.delivery, reports.querier, reports.answers):
        assert causes(check(inbound(), given(None))) == ["skipped"]
    blind = Observation(1.0, blind="needs root")
    (skipped,) = delivery.delivery(inbound(), given(blind))
    assert skipped.privileged  # type: ignore[union-attr]


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("lost", ["missed", "untold"])
def test_what_a_flood_has_hidden_is_not_called_absent(part: int, lost: str) -> None:
    """Anybody on the link can send more reports than are kept: our own may be among those that are not."""

    def flooded(observation: Observation) -> Observation:
        setattr(observation.everything()[part], lost, 1)
        return observation

    asked = [(1.0, False, QUERY)]
    others = [*asked, (2.0, False, report(3, "239.1.1.1"))]
    for check, subject, observation, joined, otherwise in (
        (reports.answers, inbound(), observed(15.0, messages=asked), True, "no-report"),
        (reports.answers, outbound(), observed(15.0, messages=others), False, "nobody-joined"),
        (reports.querier, inbound(), observed(260.0), True, "no-querier"),
        (delivery.delivery, inbound(), observed(), True, "nothing-arrives"),
    ):
        assert causes(check(subject, given(observation, joined=joined))) == [otherwise]
        assert causes(check(subject, given(flooded(observation), joined=joined))) == ["skipped"]
    there = observed(15.0, messages=[*asked, (2.0, True, report(3, GROUP))])
    assert causes(reports.answers(inbound(), given(flooded(there)))) == []  # it was seen
