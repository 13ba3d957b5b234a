"""Which rules of this host's firewall may take a datagram to a group: nftables, as nft(8) lists it.

iptables' rules are among them, where it is iptables-nft; those of the older kind are read by
iptables-legacy-save. A rule is followed as far as its expressions are understood; where one is not, the rule
*may* match, and is said to. See libnftables-json(5), nft(8).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mcastd.errors import reason_of
from mcastd.net._abi import Address
from mcastd.net.tables import NET

PATIENCE = 5.0  # seconds that a program may take to list its rules
DEPTH = 16  # of jumps: NFT_JUMP_STACK_SIZE
INBOUND, OUTBOUND = ("ingress", "prerouting", "input"), ("output", "postrouting", "egress")
_HOOKS = (*INBOUND, *OUTBOUND)
_REDIRECTS = ("dnat", "redirect", "tproxy", "queue")
_TAKES = ("drop", "reject", *_REDIRECTS)
_VERDICTS = ("accept", "return", "jump", "goto", *_TAKES)
_HARMLESS = ("counter", "log", "comment", "mangle", "notrack", "masquerade", "snat", "meter", "set", "flow")
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
Maybe = bool | None  # None: not understood


class Facts(NamedTuple):
    """What is known of the datagrams that went missing."""

    group: Address
    port: int
    interface: str
    source: Address | None = None  # None: not known, as is a ttl of -1
    ttl: int = -1


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

    def suspects(self, facts: Facts, hooks: Sequence[str]) -> list[Suspect]:
        """What takes such datagrams at one of the hooks, in the order in which they meet it."""
        found: list[Suspect] = []
        bases = [
            (key, chain)
            for key, chain in self.chains.items()
            if chain.get("hook") in hooks and key[0] in _FAMILIES[facts.group.version]
        ]
        for key, chain in sorted(bases, key=lambda one: (hooks.index(one[1]["hook"]), one[1].get("prio", 0))):
            devices = chain.get("dev")
            named = devices if isinstance(devices, list) else [devices]
            if devices is not None and facts.interface not in named:
                continue
            walk = _Walk(self, facts, chain["hook"])
            if devices is None and chain["hook"] in ("ingress", "egress"):  # nft before 1.0.7 does not say
                walk.certain = False
            walk.follow(key)
            found += walk.suspects
            if not walk.over and chain.get("policy") == "drop":
                found.append(Suspect(RuleKey(*key, 0), "policy drop", chain["hook"], walk.certain, None))
        return found


class _Walk:
    """A datagram's way through one base chain and those that it jumps to."""

    def __init__(self, ruleset: Ruleset, facts: Facts, hook: str) -> None:
        self._ruleset = ruleset
        self._facts = facts
        self._hook = hook
        self.suspects: list[Suspect] = []
        self.certain = True  # that the datagram gets to where we are
        self.over = False  # it certainly got its verdict
        # By chain, depth, and `certain` before it: `certain` and `over` after it
        self._outcomes: dict[tuple[ChainKey, int, bool], tuple[bool, bool]] = {}

    def follow(self, chain: ChainKey, depth: int = 0) -> None:
        """Go through a chain; a second time, only take what came of it: chains may jump to the same ones."""
        way = (chain, depth, self.certain)
        if way in self._outcomes:
            self.certain, self.over = self._outcomes[way]
            return
        for rule in self._ruleset.rules.get(chain, ()) if depth < DEPTH else ():
            if self._rule(chain, rule, depth) or self.over:
                break
        self._outcomes[way] = self.certain, self.over

    def _rule(self, chain: ChainKey, rule: Json, depth: int) -> bool:
        """Apply one rule; whether it certainly returns from the chain."""
        matches: Maybe = True
        packets: int | None = None
        for statement in rule.get("expr", ()):
            for kind, value in statement.items():
                if kind == "match":
                    matches = _both(matches, self._matches(chain, value))
                elif kind == "counter":
                    packets = value.get("packets") if isinstance(value, dict) else None
                elif kind in _VERDICTS:
                    return self._verdict(chain, rule, kind, value, (matches, packets, depth))
                elif kind == "vmap":
                    return self._map(chain, rule, value, (matches, packets, depth))
                elif kind not in _HARMLESS:
                    matches = _both(matches, None)  # a limit, say: sometimes
                if matches is False:
                    return False
        return False

    def _verdict(
        self,
        chain: ChainKey,
        rule: Json,
        kind: str,
        value: Any,
        state: tuple[Maybe, int | None, int],
    ) -> bool:
        matches, packets, depth = state
        if matches is False:
            return False
        self.certain = self.certain and matches is True
        if kind in ("jump", "goto"):
            target = value.get("target") if isinstance(value, dict) else ""
            self.follow((*chain[:2], str(target)), depth + 1)
        elif kind in _TAKES:
            key = RuleKey(*chain, rule.get("handle", 0))
            self.suspects.append(Suspect(key, kind, self._hook, self.certain, packets))
        if matches is None:  # it may as well go on to the next rule
            self.over = False
            return False
        if kind not in ("jump", "goto", "return"):
            self.over = True
        return kind != "jump"

    def _map(self, chain: ChainKey, rule: Json, value: Any, state: tuple[Maybe, int | None, int]) -> bool:
        """A verdict map: the verdict of the element that matches, or that of each which may."""
        if not isinstance(value, dict):
            return False
        elements = value.get("data", {})
        elements = elements.get("set", []) if isinstance(elements, dict) else self._set(chain, elements)
        for element in elements if isinstance(elements, list) else ():
            if not isinstance(element, list) or len(element) != 2 or not isinstance(element[1], dict):
                continue
            match = self._matches(chain, {"op": "==", "left": value.get("key"), "right": element[0]})
            for kind, inner in element[1].items():
                here = (_both(state[0], match), state[1], state[2])
                if kind != "continue" and self._verdict(chain, rule, kind, inner, here):
                    return True
        return False

    def _matches(self, chain: ChainKey, match: Any) -> Maybe:
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
        if protocol in ("ip", "ip6"):
            ttl = facts.ttl if facts.ttl >= 0 else None
            fields = {"daddr": facts.group, "saddr": facts.source, "protocol": 17, "nexthdr": 17}
            fields |= {"ttl": ttl, "hoplimit": ttl, "version": facts.group.version}
            return fields.get(name) if (protocol == "ip") is (facts.group.version == 4) else _NEVER
        if protocol in ("udp", "th"):
            return facts.port if name == "dport" else None
        return _NEVER if protocol in _OTHERS else None

    def _meta(self, key: str) -> Any:
        four, inbound = self._facts.group.version == 4, self._hook in INBOUND
        arrives = {"iifname": self._facts.interface, "iif": self._facts.interface, "pkttype": "multicast"}
        leaves = {"oifname": self._facts.interface, "oif": self._facts.interface}
        known = {"l4proto": 17, "nfproto": "ipv4" if four else "ipv6", "protocol": 0x800 if four else 0x86DD}
        return (known | (arrives if inbound else leaves)).get(key)

    def _compare(self, chain: ChainKey, value: Any, right: Any, op: str) -> Maybe:
        if op in ("==", "in", "!="):
            inside = self._inside(chain, value, right)
            return inside if op != "!=" or inside is None else not inside
        number, limit = _number(value), _number(right)
        if number is None or limit is None:
            return None
        return {"<": number < limit, ">": number > limit, "<=": number <= limit, ">=": number >= limit}.get(
            op
        )

    def _inside(self, chain: ChainKey, value: Any, right: Any) -> Maybe:
        answer: Maybe = None
        match right:
            case str() if right.startswith("@"):
                elements = self._set(chain, right)
                answer = None if elements is None else self._inside(chain, value, {"set": elements})
            case {"set": [*elements]}:
                answers = [self._inside(chain, value, element) for element in elements]
                answer = True if True in answers else None if None in answers else False
            case {"elem": {"val": inner}}:
                answer = self._inside(chain, value, inner)
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                with contextlib.suppress(ValueError, TypeError):
                    answer = value in ipaddress.ip_network(f"{address}/{length}", strict=False)
            case {"range": [low, high]}:
                bounds = _number(low), _number(value), _number(high)
                if None not in bounds:
                    answer = bounds == tuple(sorted(bounds, key=lambda bound: bound or 0))
            case str() if isinstance(value, str):
                answer = value.startswith(right[:-1]) if right.endswith("*") else value == right
            case str() | int():
                number, other = _number(value), _number(right)
                answer = None if number is None or other is None else number == other
        return answer

    def _set(self, chain: ChainKey, name: Any) -> list[Any] | None:
        """The elements of a named set or map, ``@name``; None if they are not to be had."""
        return self._ruleset.sets.get((*chain[:2], str(name)[1:]))


_NEVER = object()


def _both(one: Maybe, other: Maybe) -> Maybe:
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


def _whole(value: Any) -> int:
    """A number that nft gives, 0 if it is none."""
    return value if isinstance(value, int) else 0


def parse(text: str) -> Ruleset:
    """The output of `nft -j list ruleset`. Raises ValueError if it is not that."""
    listing = json.loads(text)
    ruleset = Ruleset()
    entries = listing.get("nftables") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no ruleset")  # noqa: TRY004 - it is the text that is wrong
    for entry in entries:
        for kind, value in entry.items() if isinstance(entry, dict) else ():
            if not isinstance(value, dict):
                continue
            where = (
                str(value.get("family")),
                str(value.get("table")),
                str(value.get("chain", value.get("name"))),
            )
            if kind == "chain":
                ruleset.chains[where] = value | {"prio": _whole(value.get("prio"))}
            elif kind == "rule":
                expressions = value.get("expr")
                known = expressions if isinstance(expressions, list) else []
                rule = {
                    "handle": _whole(value.get("handle")),
                    "expr": [one for one in known if isinstance(one, dict)],
                }
                ruleset.rules.setdefault(where, []).append(value | rule)
            elif kind in ("set", "map"):
                ruleset.sets[where] = value.get("elem", [])
    return ruleset


def parse_legacy(
    text: str, hooks: Sequence[str] = ("INPUT", "PREROUTING", "OUTPUT")
) -> list[tuple[int, str]]:
    """The rules of `iptables-legacy-save -c` that drop or reject, and policies that do: (packets, rule)."""
    found = []
    for line in text.splitlines():
        if rule := re.match(r"\[(\d+):\d+\] (-A (\S+) .*-j (?:DROP|REJECT)\b.*)", line):
            if rule[3] in hooks:
                found.append((int(rule[1]), rule[2]))
        elif (policy := re.match(r":(\S+) DROP \[(\d+):", line)) and policy[1] in hooks:
            found.append((int(policy[2]), f"-P {policy[1]} DROP"))
    return found


def read(version: int = 4) -> Ruleset:
    """The rules as they are now. It takes CAP_NET_ADMIN; what could not be read is said in ``unread``."""
    unread: list[str] = []
    ruleset = Ruleset()
    try:
        ruleset = parse(_run("nft", "-j", "list", "ruleset"))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        unread.append(f"nftables: {_reason(error)}")
    legacy: list[tuple[int, str]] = []
    names, program = ("ip_tables_names", "iptables") if version == 4 else ("ip6_tables_names", "ip6tables")
    if _loaded(names):
        try:
            legacy = parse_legacy(_run(f"{program}-legacy-save", "-c"))
        except (OSError, subprocess.SubprocessError) as error:
            unread.append(f"{program}-legacy: {_reason(error)}")
    return replace(ruleset, legacy=tuple(legacy), unread="; ".join(unread))


def _loaded(names: str) -> bool:
    try:
        return bool(Path(NET, names).read_text().strip())
    except OSError:
        return False


def text_of(key: RuleKey) -> str:
    """A rule in nft's words, and where it is; the words of its place alone if it cannot be had."""
    family, table, chain, handle = key
    place = f"{family} {table} {chain}"
    if not handle:
        return f"policy of chain {place}"
    try:
        listing = _run("nft", "-a", "list", "chain", family, table, chain)
    except (OSError, subprocess.SubprocessError):
        return f"rule {handle} in {place}"
    for line in listing.splitlines():
        rule, _, found = line.rpartition("# handle ")
        if found.strip() == str(handle):
            return f"{rule.strip()} (chain {place}, handle {handle})"
    return f"rule {handle} in {place}"


def _run(program: str, *arguments: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    command = [path, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return (str(error.stderr).strip().splitlines() or ["failed"])[0]
    return reason_of(error)
