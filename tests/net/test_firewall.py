"""Rules of nftables: what is said of each beside what the kernel does with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.host import Host, connect
from support.inside import inside, listener, sender, taken
from support.wait import wait_for

from mcastd.net import firewall
from mcastd.net.ruleset import FORWARDED, INBOUND, OUTBOUND, Facts, Ruleset

PORT = 9190
GROUPS = {4: "239.255.7.1", 6: "ff15::7:1"}
SENDERS = {4: "10.9.1.1", 6: "fd09:1::1"}
MARK = 9191  # a port that no rule names: what is sent to it afterwards arrives afterwards

# A body of the input chain, and whether the group's datagrams to the port are said to be dropped
RULES = {
    "udp dport 9190 drop": True,
    "udp dport 9190 counter drop": True,
    "udp dport 9190 reject": True,
    "udp dport 9192 drop": False,
    "udp dport { 9180, 9185-9192 } udp dport != 9191 drop": True,
    "udp dport { 9180, 9185-9189 } drop": False,
    "ip daddr 239.255.7.1 udp dport 9190 drop": 4,
    "ip6 daddr ff15::7:1 udp dport 9190 drop": 6,
    "ip daddr 239.0.0.0/8 udp dport < 9191 drop": 4,
    "ip daddr 239.255.7.1-239.255.7.9 udp dport 9190 drop": 4,
    "ip daddr != 239.255.7.1 drop": False,
    "ip saddr 10.9.1.1 udp dport 9190 drop": 4,
    "ip6 saddr fd09:1::/64 udp dport 9190 drop": 6,
    "ip saddr != 10.9.1.0/24 drop": False,
    'iifname "eth0" udp dport 9190 drop': True,
    'iifname "eth*" udp dport 9190 drop': True,
    'iifname { "eth1", "lo" } drop': False,
    "iif lo drop": False,
    "meta pkttype multicast udp dport 9190 drop": True,
    "fib daddr type multicast udp dport 9190 drop": True,
    "meta nfproto ipv4 udp dport 9190 drop": 4,
    "meta l4proto tcp drop": False,
    "meta l4proto udp th dport 9190 drop": True,
    "ip ttl 1 udp dport 9190 drop": 4,
    "tcp dport 9190 drop": False,
    "udp dport 9190 accept; udp dport 9190 drop": False,
    "udp dport 9190 return; udp dport 9190 drop": False,
    "jump sub": True,
    "ip daddr @named udp dport 9190 drop": 4,
    "udp dport vmap { 9190 : drop, 9191 : accept }": True,
    "udp dport vmap { 9190 : jump sub, 9191 : accept }": True,
    "udp dport 9190 goto harmless; udp dport 9190 drop": False,
    "udp dport 9190 jump harmless; udp dport 9190 drop": True,
    "meta mark set 7 udp dport 9190 drop": True,
    'udp dport 9190 log prefix "x" drop': True,
    # not understood: it may
    "ip ttl set 9; ip ttl 1 udp dport 9190 drop": None,
    "ct mark vmap { 7 : drop, 0 : accept }": None,
    "udp dport 9190 add @seen { udp sport limit rate over 1000/second } drop": None,
    "ip daddr { 239.255.7.1 } udp dport 9190 update @seen { udp sport } drop": None,
    "ct state new udp dport 9190 drop": None,
    "numgen random mod 100 < 99 udp dport 9190 drop": None,
    "ct state established accept; udp dport 9190 drop": None,
    "udp length 9 udp dport 9190 drop": None,
    "ip daddr . udp dport { 239.255.7.1 . 9190 } drop": None,
}
TABLE = """table inet t {{
 set named {{ type ipv4_addr; flags interval; elements = {{ 239.255.0.0/16 }}; }}
 set seen {{ type inet_service; flags dynamic; size 64; }}
 chain sub {{ udp dport != 9190 return; drop; }}
 chain harmless {{ counter; }}
 chain in {{ type filter hook input priority 0; {}; }}
}}"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        for number, host in enumerate((left, right), 1):
            host.ip(f"addr add 10.9.1.{number}/24 dev eth0")
            host.ip(f"addr add fd09:1::{number}/64 dev eth0 nodad")
        yield left, right


def nft(host: Host, rules: str) -> None:
    command = host.enter(["nft", "-f", "-"])
    subprocess.run(command, input=f"flush ruleset\n{rules}\n", check=True, text=True, capture_output=True)


def ruleset(host: Host) -> Ruleset:
    found: list[Ruleset] = []
    with inside(host):
        found.append(firewall.read())
    assert not found[0].unread
    return found[0]


def facts(version: int) -> Facts:
    return Facts(ip_address(GROUPS[version]), PORT, "eth0", ip_address(SENDERS[version]), 1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_said_of_a_rule_is_what_it_does(hosts: tuple[Host, Host], rule: str, version: int) -> None:
    left, right = hosts
    nft(right, TABLE.format(rule))
    suspects = ruleset(right).suspects(facts(version), INBOUND)
    with (
        closing(listener(right, version, PORT, ("eth0", GROUPS[version]))) as sock,
        closing(listener(right, version, MARK, ("eth0", GROUPS[version]))) as mark,
        closing(sender(left, "eth0", SENDERS[version])) as out,
    ):
        out.sendto(b"x", (GROUPS[version], PORT))
        out.sendto(b"x", (GROUPS[version], MARK))
        wait_for(lambda: taken(mark))
        received = bool(taken(sock))
    expected = RULES[rule]
    if expected is None:
        assert not any(suspect.certain for suspect in suspects)
        assert suspects or received
    else:
        dropped = expected is True or (expected is not False and expected == version)
        assert received is not dropped
        assert [suspect.certain for suspect in suspects] == [True] * dropped
    for suspect in suspects:
        assert (suspect.hook, suspect.key.family, suspect.key.table) == ("input", "inet", "t")


def test_a_rule_is_shown_in_its_own_words_with_its_counter(hosts: tuple[Host, Host]) -> None:
    left, right = hosts
    nft(right, TABLE.format("udp dport 9190 counter drop"))
    with (
        closing(sender(left, "eth0", SENDERS[4])) as out,
        closing(listener(right, 4, PORT, ("eth0", GROUPS[4]))),
    ):
        out.sendto(b"x", (GROUPS[4], PORT))
        (suspect,) = wait_for(
            lambda: [one for one in ruleset(right).suspects(facts(4), INBOUND) if one.packets]
        )
        assert (suspect.packets, suspect.verdict) == (1, "drop")
        with inside(right):
            text = firewall.text_of(suspect.key)
            gone = firewall.text_of(suspect.key._replace(handle=999))
    assert (
        text
        == f"udp dport 9190 counter packets 1 bytes 29 drop (chain inet t in, handle {suspect.key.handle})"
    )
    assert gone == "rule 999 in inet t in"


def test_what_is_routed_on_passes_by_two_interfaces(hosts: tuple[Host, Host]) -> None:
    _, right = hosts
    nft(
        right,
        """
        table ip t {
            chain forward {
                type filter hook forward priority 0; policy drop;
                iifname "eth0" oifname "eth1" meta pkttype multicast accept
                iifname "eth0" oifname "eth2" drop
                iifname "eth1" drop
            }
            chain out { type filter hook postrouting priority 0; oifname "eth0" drop; oifname "eth3" drop; }
            chain in { type filter hook input priority 0; drop; }
        }
        """,
    )
    found = ruleset(right)

    def suspects(leaves_by: str) -> list[tuple[str, str, bool]]:
        there = facts(4)._replace(leaves_by=leaves_by)
        return [(one.key.chain, one.verdict, one.certain) for one in found.suspects(there, FORWARDED)]

    assert suspects("eth1") == []
    assert suspects("eth2") == [("forward", "drop", True)]
    assert suspects("eth3") == [("forward", "policy drop", True), ("out", "drop", True)]


def test_every_hook_on_the_way_is_looked_at_in_order(hosts: tuple[Host, Host]) -> None:
    _, right = hosts
    nft(
        right,
        """
        table ip a { chain pre { type filter hook prerouting priority 0; policy drop; }; }
        table ip6 b { chain in { type filter hook input priority 0; policy drop; }; }
        table inet c {
            chain late { type filter hook input priority 10; drop; }
            chain early { type filter hook input priority -10; udp dport 9190 drop; }
            chain out { type filter hook output priority 0; oifname "eth0" ip daddr 239.255.7.1 drop; }
            chain nat { type nat hook prerouting priority -100; udp dport 9190 redirect to :9; }
        }
        table netdev d {
            chain in { type filter hook ingress device "eth0" priority 0; drop; }
            chain other { type filter hook ingress device "lo" priority 0; drop; }
        }
        """,
    )
    found = ruleset(right)
    here = found.suspects(facts(4), INBOUND)
    if not here[0].certain:  # nft before 1.0.7 does not list the device of a chain: it may be either
        assert [(s.key.table, s.key.chain, s.certain) for s in here[:2]] == [
            ("d", "in", False),
            ("d", "other", False),
        ]
        del here[1]
    assert [(s.key.table, s.key.chain, s.verdict) for s in here] == [
        ("d", "in", "drop"),
        ("c", "nat", "redirect"),
        ("a", "pre", "policy drop"),
        ("c", "early", "drop"),
        ("c", "late", "drop"),
    ]
    chains = [s.key.chain for s in found.suspects(facts(6), INBOUND) if s.key.table in "bc"]
    assert chains == ["nat", "early", "in", "late"]
    assert [s.key.chain for s in found.suspects(facts(4), OUTBOUND)] == ["out"]
    assert found.suspects(facts(4)._replace(interface="eth1"), OUTBOUND) == []


def test_what_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    found = firewall.read()
    assert found.unread == "nftables: nft is not installed"
    assert found.suspects(facts(4), INBOUND) == []


LEGACY = """\
*filter
:INPUT DROP [7:200]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
[5:145] -A INPUT -d 239.255.7.1/32 -p udp -m udp --dport 9190 -j DROP
[0:0] -A FORWARD -j DROP
[9:9] -A INPUT -i lo -j ACCEPT
COMMIT
"""


def test_the_older_iptables_is_understood() -> None:
    assert firewall.parse_legacy(LEGACY) == [
        (7, "-P INPUT DROP"),
        (0, "-P FORWARD DROP"),
        (5, "-A INPUT -d 239.255.7.1/32 -p udp -m udp --dport 9190 -j DROP"),
        (0, "-A FORWARD -j DROP"),
    ]


def test_a_comment_of_the_older_iptables_is_no_target() -> None:
    rules = [
        '[3:9] -A INPUT -m comment --comment "a -j DROP" -j ACCEPT',
        '[4:9] -A INPUT -m comment --comment "-j" -j ACCEPT',
        '[5:9] -A INPUT -m comment --comment "unbalanced -j DROP',
        f"[{'9' * 5000}:9] -A INPUT -j DROP",
        '[6:9] -A INPUT -m comment --comment "-j ACCEPT" -j REJECT --reject-with icmp-port-unreachable',
    ]
    assert [packets for packets, _ in firewall.parse_legacy("\n".join(rules))] == [6]


BASE = {"family": "inet", "table": "t", "name": "c0", "hook": "input", "prio": 0, "policy": "accept"}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
DROP = {"drop": None}
DEEP: object = 1
for _ in range(300):
    DEEP = {"elem": {"val": DEEP}}


def the_set(kind: str, elements: object) -> dict[str, object]:
    return {kind: {"family": "inet", "table": "t", "name": "s", "elem": elements}}


def ruled(*expressions: object, chain: str = "c0") -> list[object]:
    where = {"family": "inet", "table": "t", "chain": chain}
    return [{"rule": {**where, "handle": 1 + n, "expr": one}} for n, one in enumerate(expressions)]


def matching(left: object, right: object, op: object = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


NETWORKS = [{"prefix": {"addr": f"10.{n >> 8}.{n & 255}.0", "len": 24}} for n in range(20_000)]
PORTS = [[n, DROP if n & 1 else {"jump": {"target": "c1"}}] for n in range(20_000)]
LOOP = [{"jump": {"target": "c0"}}]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("entries", "found", "complete"),
    [
        (ruled(*[[matching(DPORT, n % 9000), DROP] for n in range(30_000)]), [], True),
        ([the_set("set", NETWORKS), *ruled(*[[matching(DADDR, "@s"), DROP]] * 100)], [], False),
        (
            [
                the_set("map", PORTS),
                *ruled(*[[{"vmap": {"key": {"ct": {"key": "mark"}}, "data": "@s"}}]] * 4),
            ],
            [("drop", False)] * 4,
            True,
        ),
        ([the_set("map", PORTS), *ruled(*[[{"vmap": {"key": DPORT, "data": "@s"}}]] * 100)], [], False),
        (ruled(*[[{"limit": {}}, *LOOP]] * 300, *[LOOP] * 300), [], True),
        (ruled([matching(DADDR, DEEP), DROP]), [("drop", False)], True),
        (
            [
                the_set("set", ["@s", {"set": ["@s"]}]),
                *ruled([matching({"meta": {"key": "iifname"}}, "@s"), DROP]),
            ],
            [("drop", False)],
            True,
        ),
        (ruled([matching(DADDR, 1, ["odd"]), DROP]), [("drop", False)], True),
        (
            ruled([matching({"meta": {"key": "l4proto"}}, {"prefix": {"addr": "::", "len": 900}}), DROP]),
            None,
            True,
        ),
        (
            ruled([matching(DPORT, "9" * 5000), {"counter": {"packets": "many"}}, DROP]),
            [("drop", False)],
            True,
        ),
        (
            ruled([matching(DPORT, 10**400, "<"), {"counter": {"packets": 10**400}}, DROP]),
            [("drop", True)],
            True,
        ),
        (ruled([{"xt": {"type": "target", "name": "REJECT"}}]), [("reject", False)], True),
        (ruled([{"masquerade": None}], [DROP]), [], True),
        (ruled([{"never heard of": [[]]}, DROP], [DROP]), [("drop", False), ("drop", False)], True),
        ([{"table": {"family": "inet", "name": "t", "flags": "dormant"}}, *ruled([DROP])], [], True),
        ([{"table": {"family": "inet", "name": "t", "flags": ["dormant"]}}, *ruled([DROP])], [], True),
    ],
)
def test_a_ruleset_made_to_harm_costs_little_and_blames_no_rule_that_was_not_understood(
    entries: list[object], found: list[tuple[str, bool]] | None, complete: bool
) -> None:
    listing = json.dumps({"nftables": [{"chain": BASE}, *entries]})
    suspects, looked_at_all = firewall.parse(listing).search(facts(4), INBOUND)
    assert looked_at_all is complete
    told = [(suspect.verdict, suspect.certain) for suspect in suspects]
    assert told == found if found is not None else not any(certain for _, certain in told)


@pytest.mark.timeout(120)
def test_many_that_ask_share_the_steps() -> None:
    listing = [{"chain": BASE}, the_set("set", NETWORKS), *ruled(*[[matching(DADDR, "@s"), DROP]] * 4)]
    rules = firewall.parse(json.dumps({"nftables": listing}))
    rules.left[0] = 200_000  # each takes 80,004
    assert [rules.search(facts(4), INBOUND)[1] for _ in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("sys.stdout.write('{' * (9 << 20))", "too much to look through"),
        ("print('[' * 200_000)", "recursion"),
        ("print('{\"nftables\": [' + '9' * 5000 + ']}')", "4300 digits"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe')", "Expecting value"),
        ("sys.exit('no such thing')", "no such thing"),
        ("sys.stderr.write('x' * (1 << 20)); sys.exit(1)", "xxx"),
        ("time.sleep(120)", "timed out"),
    ],
)
def test_a_listing_of_any_size_and_shape_is_read_or_said_why_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, said: str
) -> None:
    program = tmp_path / "nft"
    program.write_text(f"#!{sys.executable}\nimport sys, time\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(program))
    monkeypatch.setattr(firewall, "LISTING_MAX_SECONDS", 3.0 if said == "timed out" else 60.0)
    monkeypatch.setattr(firewall, "_loaded", lambda _: False)
    assert said in firewall.read().unread


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["drop", "udp", "@named", "eth0", "ip"]),
    lambda inner: st.lists(inner)
    | st.dictionaries(
        st.sampled_from(["match", "left", "right", "op", "payload", "meta", "key", "drop", "jump", "target",
                         "set", "prefix", "range", "vmap", "data", "protocol", "field", "counter"]),
        inner,
    ),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_no_expression_is_too_odd(value: object) -> None:
    where = ("inet", "t", "in")
    odd = Ruleset(
        chains={where: {"hook": "input"}},
        rules={
            where: [
                {"handle": 1, "expr": [{"match": value}, {"vmap": value}, {"jump": value}, {"drop": None}]}
            ]
        },
        sets={("inet", "t", "named"): [value]},
    )
    suspects = odd.suspects(facts(4), INBOUND)
    assert all(isinstance(suspect.packets, int | None) for suspect in suspects)


@pytest.mark.timeout(120)  # exponential, it would take years
def test_chains_that_jump_to_the_same_ones_are_walked_once() -> None:
    names = [f"c{number}" for number in range(16)]
    entries: list[object] = [{"chain": {"family": "inet", "table": "t", "name": name}} for name in names[1:]]
    base = {"family": "inet", "table": "t", "name": "c0", "hook": "input", "prio": 0, "policy": "drop"}
    entries.append({"chain": base})
    for name, below in pairwise(names):
        for handle in range(8):
            rule = {"family": "inet", "table": "t", "chain": name, "handle": handle + 1}
            entries.append({"rule": rule | {"expr": [{"jump": {"target": below}}]}})
    drop = {
        "family": "inet",
        "table": "t",
        "chain": "c15",
        "handle": 99,
        "expr": [{"limit": {}}, {"drop": None}],
    }
    entries.append({"rule": drop})
    suspects = firewall.parse(json.dumps({"nftables": entries})).suspects(facts(4), INBOUND)
    found = [(suspect.verdict, suspect.key.handle, suspect.certain) for suspect in suspects]
    assert set(found) == {("drop", 99, False), ("policy drop", 0, False)}


@given(json_values, json_values)
def test_no_listing_is_too_odd(value: object, other: object) -> None:
    chain = {"family": "inet", "table": "t", "name": "in", "hook": "input", "prio": value, "dev": other}
    rule = {"family": "inet", "table": "t", "chain": "in", "handle": value, "expr": other}
    plain = {"family": "inet", "table": "t", "name": "b", "hook": "input", "prio": 5}
    listing = {"nftables": [{"chain": chain}, {"chain": plain}, {"rule": rule}, value]}
    firewall.parse(json.dumps(listing)).suspects(facts(4), INBOUND)
