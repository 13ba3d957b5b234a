"""Which rules of a ruleset may take a datagram to a group: a walk through its chains, as the kernel does it.

A rule is followed as far as its expressions are understood; where one is not, the rule *may* match, and is
said to. The rules are nft(8)'s, as libnftables-json(5) describes them; firewall.py reads them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mcastd.ip import Address

# So deep jumps may be nested in the kernel: NFT_JUMP_STACK_SIZE.
JUMPS_MAX = 16
# A step is a look at one rule, or at one element of a set. These bound the steps for one datagram (tenths of
# a second), and for all datagrams that one ruleset is asked about (a few seconds).
STEPS_MAX = 100_000
STEPS_IN_ALL_MAX = 1_000_000
INBOUND, OUTBOUND = ("ingress", "prerouting", "input"), ("output", "postrouting", "egress")
# Of what the kernel routes on, once it has a route for it.
FORWARDED = ("forward", "postrouting", "egress")
_REDIRECTS = ("dnat", "redirect", "tproxy", "queue", "fwd")
_ENDS = ("accept", "snat", "masquerade")  # the chain, without taking the datagram
_TAKES = ("drop", "reject", *_REDIRECTS)
_VERDICTS = (*_ENDS, "return", "jump", "goto", *_TAKES)
_HARMLESS = ("counter", "log", "comment", "notrack", "flow", "last")
_OTHERS = ("tcp", "icmp", "icmpv6", "igmp", "sctp", "dccp", "arp")  # protocols that are not UDP
_FAMILIES = {4: ("ip", "inet", "netdev"), 6: ("ip6", "inet", "netdev")}
_NUMBERS = {
    "udp": 17,
    "tcp": 6,
    "icmp": 1,
    "igmp": 2,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ip": 0x800,
    "ip6": 0x86DD,
}

Json = dict[str, Any]
# Whether a rule matches; None: not understood, so that it may.
Ternary = bool | None


class Facts(NamedTuple):
    """What is known of the datagrams that went missing."""

    group: Address
    port: int
    interface: str  # by which they come; by which they leave, if this host sends them
    source: Address | None = None  # None: not known, as is a ttl of -1
    ttl: int = -1
    leaves_by: str = ""  # the interface by which they leave, of what the kernel routes on

    def device(self, hook: str) -> str:
        """The interface by which they pass at a hook."""
        return self.leaves_by if self.leaves_by and hook in OUTBOUND else self.interface


ChainKey = tuple[str, str, str]  # family, table and name


class RuleKey(NamedTuple):
    family: str
    table: str
    chain: str
    handle: int  # 0: the policy of the chain


@dataclass(frozen=True, slots=True)
class Suspect:
    """A rule, or a chain's policy, that takes such datagrams."""

    key: RuleKey
    verdict: str  # drop, reject, policy drop, redirect, ...
    hook: str
    certain: bool  # all of it, and of what comes before it, was understood
    packets: int | None  # that its counter has; None: it has no counter


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The rules at one moment; empty, with the reason, if they could not be read."""

    chains: dict[ChainKey, Json] = field(default_factory=dict)  # by family, table and name
    rules: dict[ChainKey, list[Json]] = field(default_factory=dict)
    sets: dict[ChainKey, list[Any]] = field(default_factory=dict)
    legacy: tuple[tuple[int, str], ...] = ()  # (packets, rule) of iptables-legacy that drop, in its words
    unread: str = ""  # why something could not be read
    left: list[int] = field(
        default_factory=lambda: [STEPS_IN_ALL_MAX], compare=False
    )  # [steps left]: it shrinks

    def suspects(self, facts: Facts, hooks: Sequence[str]) -> list[Suspect]:
        """What takes such datagrams at one of the hooks, in the order in which they meet it."""
        return self.search(facts, hooks)[0]

    def search(self, facts: Facts, hooks: Sequence[str]) -> tuple[list[Suspect], bool]:
        """The suspects, and whether all rules were looked at: there may be too many (STEPS_MAX)."""
        found: list[Suspect] = []
        steps, changed = min(STEPS_MAX, self.left[0]), False
        self.left[0] -= steps
        bases = [
            (key, chain)
            for key, chain in self.chains.items()
            if chain.get("hook") in hooks and key[0] in _FAMILIES[facts.group.version]
        ]
        for key, chain in sorted(bases, key=lambda one: (hooks.index(one[1]["hook"]), one[1].get("prio", 0))):
            devices = chain.get("dev")
            named = devices if isinstance(devices, list) else [devices]
            if devices is not None and not any(_is_named(facts.device(chain["hook"]), one) for one in named):
                continue
            walk = _Walk(self, facts, chain["hook"], steps, changed)
            if devices is None and chain["hook"] in ("ingress", "egress"):  # nft before 1.0.7 does not say
                walk.certain = False
            walk.follow(key)
            steps, changed = walk.steps, walk.changed
            found += walk.suspects
            if steps <= 0:
                return found, False
            if not walk.over and chain.get("policy") == "drop":
                found.append(Suspect(RuleKey(*key, 0), "policy drop", chain["hook"], walk.certain, None))
        self.left[0] += steps
        return found, True


class _Walk:
    """A datagram's way through one base chain and those that it jumps to."""

    def __init__(
        self, ruleset: Ruleset, facts: Facts, hook: str, steps: int = STEPS_MAX, changed: bool = False
    ) -> None:
        self.steps = steps  # that are left
        self.changed = changed  # a rule may have written into the datagram: no field of it is known any more
        self._ruleset = ruleset
        self._facts = facts
        self._hook = hook
        self.suspects: list[Suspect] = []
        self.certain = True  # that the datagram gets to where we are
        self.over = False  # the datagram has certainly got its verdict
        # What a walk through a chain led to: (chain, depth, certain before it) -> (certain, over) after it
        self._outcomes: dict[tuple[ChainKey, int, bool], tuple[bool, bool]] = {}

    def follow(self, chain: ChainKey, depth: int = 0) -> None:
        """Go through a chain. If several chains jump to it, the outcome of the first walk serves for all."""
        way = (chain, depth, self.certain and not self.changed)
        if way in self._outcomes:
            self.certain, self.over = self._outcomes[way]
            return
        for rule in self._ruleset.rules.get(chain, ()) if depth < JUMPS_MAX else ():
            self.steps -= 1
            if self.steps <= 0 or self._rule(chain, rule, depth) or self.over:
                break
        self._outcomes[way] = self.certain, self.over

    def _rule(self, chain: ChainKey, rule: Json, depth: int) -> bool:
        """Apply one rule. Returns True if it certainly ends the walk through the chain."""
        matches: Ternary = True
        packets = packets_of(rule)
        for statement in rule.get("expr", ()):
            for kind, value in statement.items():
                if kind == "match":
                    matches = _both(matches, self._matches(chain, value))
                elif kind in _VERDICTS:
                    return self._verdict(chain, rule, kind, value, (matches, packets, depth))
                elif kind == "vmap":
                    return self._map(chain, rule, value, (matches, packets, depth))
                elif kind == "xt" and isinstance(value, dict) and value.get("name") in _XT_TAKES:
                    return self._verdict(chain, rule, "reject", None, (_both(matches, None), packets, depth))
                elif kind == "mangle" and not _writes_outside(value):
                    self.changed = True
                elif kind != "mangle" and kind not in _HARMLESS:
                    matches = _both(matches, None)  # a limit, say, or a set that is full: sometimes
                if matches is False:
                    return False
        return False

    def _verdict(
        self,
        chain: ChainKey,
        rule: Json,
        kind: str,
        value: Any,
        state: tuple[Ternary, int | None, int],
    ) -> bool:
        matches, packets, depth = state
        if matches is False or self.steps <= 0:  # what was not looked at is not blamed
            return False
        self.certain = self.certain and matches is True
        if kind in ("jump", "goto"):
            target = value.get("target") if isinstance(value, dict) else ""
            self.follow((*chain[:2], str(target)), depth + 1)
        elif kind in _TAKES:
            key = RuleKey(*chain, rule.get("handle", 0))
            self.suspects.append(Suspect(key, kind, self._hook, self.certain, packets))
        if matches is None:  # the datagram may go on to the next rule as well
            self.over = False
            return False
        if kind not in ("jump", "goto", "return"):
            self.over = True
        return kind != "jump"

    def _map(self, chain: ChainKey, rule: Json, value: Any, state: tuple[Ternary, int | None, int]) -> bool:
        """A verdict map: the verdict of the element that matches, or that of each which may."""
        if not isinstance(value, dict):
            self.certain = False
            return False
        elements = value.get("data", {})
        elements = elements.get("set") if isinstance(elements, dict) else self._set(chain, elements)
        mine = self._value(value.get("key"))
        if mine is _NEVER:
            return False
        for answer, kind, inner in self._entries(mine, elements):
            here = (_both(state[0], answer), state[1], state[2])
            if kind != "continue" and self._verdict(chain, rule, kind, inner, here):
                return True
        return False

    def _entries(self, mine: Any, elements: Any) -> list[tuple[Ternary, str, Any]]:
        """The verdicts of a map for a value: that of its element, or each that there may be, once."""
        if not isinstance(elements, list):
            self.certain = False  # whatever it does
            return []
        may: dict[tuple[str, str], tuple[Ternary, str, Any]] = {}
        for element in elements:
            if not isinstance(element, list) or len(element) != 2 or not isinstance(element[1], dict):
                continue
            self.steps -= 1
            answer = None if mine is None or self.steps <= 0 else self._is(mine, element[0])
            found = [(answer, kind, inner) for kind, inner in element[1].items()]
            if answer is True:
                return found
            if answer is None:
                may |= {(kind, str(inner)): one for one in found for _, kind, inner in [one]}
            if self.steps <= 0:
                break
        return list(may.values())

    def _matches(self, chain: ChainKey, match: Any) -> Ternary:
        if not isinstance(match, dict):
            return None
        value = self._value(match.get("left"))
        if value is _NEVER:  # a field that such a datagram does not have
            return False
        if value is None:
            return None
        return self._compare(chain, value, match.get("right"), match.get("op", "=="))

    def _value(self, left: Any) -> Any:
        """What the left side of a match has for our datagram; None: not known, _NEVER: no such field."""
        match left:
            case {"payload": {"protocol": str(protocol), "field": str(name)}}:
                return self._payload(protocol, name)
            case {"meta": {"key": str(key)}}:
                return self._meta(key)
            case {"fib": {"result": "type", "flags": ["daddr"]}}:
                return "multicast"
        return None

    def _payload(self, protocol: str, name: str) -> Any:
        facts = self._facts
        if self.changed and protocol not in _OTHERS:
            return None
        if protocol in ("ip", "ip6"):
            ttl = facts.ttl if facts.ttl >= 0 else None
            fields = {"daddr": facts.group, "saddr": facts.source, "protocol": 17, "nexthdr": 17}
            fields |= {"ttl": ttl, "hoplimit": ttl, "version": facts.group.version}
            return fields.get(name) if (protocol == "ip") is (facts.group.version == 4) else _NEVER
        if protocol in ("udp", "th"):
            return facts.port if name == "dport" else None
        return _NEVER if protocol in _OTHERS else None

    def _meta(self, key: str) -> Any:
        facts, hook = self._facts, self._hook
        four, comes, goes = facts.group.version == 4, facts.interface, facts.leaves_by or facts.interface
        arrives = {"iifname": comes, "iif": comes, "pkttype": "multicast"} if hook not in OUTBOUND else {}
        leaves = {"oifname": goes, "oif": goes} if hook not in INBOUND else {}
        known = {"l4proto": 17, "nfproto": "ipv4" if four else "ipv6", "protocol": 0x800 if four else 0x86DD}
        return (known | arrives | leaves).get(key)

    def _compare(self, chain: ChainKey, value: Any, right: Any, op: str) -> Ternary:
        if op in ("==", "in", "!="):
            inside = self._inside(chain, value, right)
            return inside if op != "!=" or inside is None else not inside
        number, limit = _number(value), _number(right)
        if number is None or limit is None or not isinstance(op, str):
            return None
        return {"<": number < limit, ">": number > limit, "<=": number <= limit, ">=": number >= limit}.get(
            op
        )

    def _inside(self, chain: ChainKey, value: Any, right: Any) -> Ternary:
        match right:
            case str() if right.startswith("@"):
                return self._among(value, self._set(chain, right))
            case {"set": elements}:
                return self._among(value, elements)
        return self._is(value, right)

    def _among(self, value: Any, elements: Any) -> Ternary:
        """Return True if a value is in a set without nested sets; None if that is not known."""
        if not isinstance(elements, list):
            return None
        answer: Ternary = False
        for element in elements:
            self.steps -= 1
            one = self._is(value, element) if self.steps > 0 else None
            if one is True or self.steps <= 0:
                return one
            answer = answer if one is False else None
        return answer

    def _is(self, value: Any, right: Any) -> Ternary:
        answer: Ternary = None
        match right:
            case {"elem": {"val": inner}} if not (isinstance(inner, dict) and "elem" in inner):
                answer = self._is(value, inner)
            case {"prefix": {"addr": str(address), "len": int(length)}} if isinstance(value, Address):
                shift = value.max_prefixlen - length
                first = _number(address)
                if first is not None and 0 <= shift <= value.max_prefixlen:
                    answer = int(value) >> shift == first >> shift and (":" in address) is (
                        value.version == 6
                    )
            case {"range": [low, high]}:
                bounds = _number(low), _number(value), _number(high)
                if None not in bounds:
                    answer = bounds == tuple(sorted(bounds, key=lambda bound: bound or 0))
            case str() if isinstance(value, str):
                answer = None if "\\" in right else _is_named(value, right)
            case str() | int():
                number, other = _number(value), _number(right)
                answer = None if number is None or other is None else number == other
        return answer

    def _set(self, chain: ChainKey, name: Any) -> list[Any] | None:
        """The elements of a named set or map, ``@name``; None if they are not to be had."""
        return self._ruleset.sets.get((*chain[:2], str(name)[1:]))


_NEVER = object()
_XT_TAKES = ("REJECT", "DROP", "NFQUEUE", "TPROXY", "DNAT", "REDIRECT")  # targets of iptables-nft


def _is_named(interface: str, name: object) -> bool:
    """Return True if ``name``, which may end in an asterisk, means the interface."""
    if not isinstance(name, str):
        return False
    return interface.startswith(name[:-1]) if name.endswith("*") else interface == name


def _writes_outside(mangle: Any) -> bool:
    """Return True if a mangle statement changes only what is kept beside the packet, as its mark."""
    key = mangle.get("key") if isinstance(mangle, dict) else None
    return isinstance(key, dict) and ("meta" in key or "ct" in key)


def packets_of(rule: Json) -> int | None:
    """What a rule's own counter has; None if it has none."""
    for statement in rule.get("expr", ()):
        counter = statement.get("counter")
        if isinstance(counter, dict):
            return whole(counter.get("packets"))
    return None


def _both(one: Ternary, other: Ternary) -> Ternary:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if not isinstance(value, str):
        return int(value) if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address) else None
    if value in _NUMBERS:
        return _NUMBERS[value]
    try:
        return int(value) if value.isdecimal() else int(ipaddress.ip_address(value))
    except ValueError:
        return None


def whole(value: Any) -> int:
    """A number that nft gives, 0 if it is none."""
    return value if isinstance(value, int) else 0
