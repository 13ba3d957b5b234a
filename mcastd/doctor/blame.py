"""Whether a rule of this host's firewall takes certain datagrams: it is blamed only if one does, or may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import NamedTuple

from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.privilege import may_list_rules
from mcastd.doctor.quoting import command
from mcastd.doctor.watch import Observation
from mcastd.net.firewall import text_of
from mcastd.net.ruleset import Facts, Ruleset, Suspect

# Rules that are named at most.
RULES_MAX = 3


class Rules(NamedTuple):
    """The rules of a firewall that take certain datagrams, or may."""

    lines: list[str]  # most telling first; without any, what is known instead
    known: bool  # there is one
    fix: str  # a command, if there is one
    hidden: bool = False  # they could not be read for want of a privilege


def taken(
    check: str,
    severity: Severity,
    what: str,
    seen: Sequence[str],
    rules: Rules,
    *,
    where: str = "the sockets",
) -> Iterator[Said]:
    """A finding that blames the firewall only if there is a rule that does it, or may.

    ``where`` is what the datagrams did not reach. If the rules are hidden from this process, ``check`` is
    also said to be incomplete, so that a command with more privileges makes it again.
    """
    evidence = (*seen, *rules.lines)
    if rules.known:
        ways = (Way(command=rules.fix),)
        yield Finding(
            "firewall-drop", severity, f"a firewall of this host {what}", evidence, rules.fix, ways=ways
        )
        return
    inside = f"something on this host, between its interfaces and {where}, {what}"
    yield Finding("dropped-inside", severity, inside, evidence, rules.fix)
    if rules.hidden:
        yield Skipped(check, "the rules of the firewall take root to see (CAP_NET_ADMIN)", privileged=True)


def rules_of(facts: Facts, hooks: Sequence[str], observation: Observation) -> Rules:
    """The rules that drop such datagrams, or may; and a command that lets them pass."""
    rules = observation.after.rules if observation.after is not None else Ruleset(unread="nobody looked")
    suspects, complete = rules.search(facts, hooks)
    found = [(suspect, observation.packets_of(suspect)) for suspect in suspects]
    found = [(suspect, grown) for suspect, grown in found if grown != 0]
    found.sort(key=lambda one: (not one[1], not one[0].certain))
    earlier = observation.before.rules.legacy if observation.before is not None else ()
    before = {rule: packets for packets, rule in earlier}
    legacy = [(rule, packets - before.get(rule, 0)) for packets, rule in rules.legacy]
    # Each begins with -A CHAIN or -P CHAIN
    legacy = [(rule, grown) for rule, grown in legacy if grown > 0 and rule.split()[1].lower() in hooks]
    lines = [_rule(suspect, grown) for suspect, grown in found[:RULES_MAX]]
    lines += [f"iptables {rule}: {grown} packets meanwhile" for rule, grown in legacy]
    if found:
        return Rules(lines, True, _accept(facts, found[0][0]))
    if legacy:
        return Rules(lines, True, _accept_legacy(facts, legacy[0][0]))
    others = (
        f"look for another filter: {command('tc', 'filter', 'show', 'dev', facts.interface, 'ingress')};"
        " bpftool net;"
        " systemctl show -p IPAddressDeny mcastd"
    )
    if rules.unread:
        lines = [f"the rules could not be read: {rules.unread}"]
        return Rules(lines, False, f"nft list ruleset; else {others}", hidden=not may_list_rules())
    if not complete:
        lines = ["there are too many rules and elements of sets to look at each (nft list ruleset)"]
        return Rules(lines, False, f"nft list ruleset; else {others}")
    return Rules(["no rule of nftables or iptables does it (nft list ruleset)"], False, others)


def _rule(suspect: Suspect, grown: int | None) -> str:
    counted = f"; its counter grew by {grown}" if grown else ""
    takes = "drops" if suspect.verdict in ("drop", "reject", "policy drop") else "takes"
    way = f"{takes} such datagrams" if suspect.certain else f"may be what {takes} such datagrams"
    return f"{way}: {text_of(suspect.key)}{counted}"


def _accept(facts: Facts, suspect: Suspect) -> str:
    family, table, chain, _ = suspect.key
    protocol = "ip" if facts.group.version == 4 else "ip6"
    match = (protocol, "daddr", facts.group, "udp", "dport", facts.port, "accept")
    return command("nft", "insert", "rule", family, table, chain, *match)


def _accept_legacy(facts: Facts, rule: str) -> str:
    """``rule`` is as iptables-save has it: ``-A CHAIN ...`` or ``-P CHAIN DROP``."""
    program, chain = "iptables" if facts.group.version == 4 else "ip6tables", rule.split()[1]
    table = " -t raw" if chain == "PREROUTING" else ""
    match = f"-d {facts.group} -p udp --dport {facts.port} -j ACCEPT"
    return f"{program}-legacy{table} -I {quote(chain)} {match}"
