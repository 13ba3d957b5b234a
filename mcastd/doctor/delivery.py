"""From the wire to the socket and from the socket to the wire: what passed here, and did not arrive there.

A datagram that AF_PACKET saw on an interface where the group is joined, and that the socket did not get, was
dropped by this host. Which part of it did is told by what else the kernel counted meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import NamedTuple

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.config.types import Address
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.interfaces import setting_with
from mcastd.doctor.quoting import command, sysctl
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import SETTLE, Observation
from mcastd.net.firewall import INBOUND, OUTBOUND, Facts, Ruleset, Suspect, text_of
from mcastd.net.interfaces import Interface, reverse_path
from mcastd.net.tap import Flow, FlowKey

BROKEN, WARNING, HINT = Severity.BROKEN, Severity.WARNING, Severity.HINT
FEWEST = 3  # datagrams that must have been sent before none on the wire means something
SHARE = 0.1  # of the bytes on the wire that must be missing before a part is missed
MANY = 10  # packets that it takes to speak of a part
RULES = 3  # of the firewall that are named at most


class Arrivals(NamedTuple):
    """What was seen of a subscription's group, coming in."""

    wanted: list[tuple[FlowKey, Flow]]  # as it should be received
    excluded: list[tuple[FlowKey, Flow]]  # from senders that the source filter keeps out
    tagged: list[tuple[FlowKey, Flow]]
    other_port: list[tuple[FlowKey, Flow]]
    elsewhere: list[tuple[FlowKey, Flow]]  # on another interface


@dataclass(frozen=True, slots=True)
class Missing:
    """Datagrams of a subscription that passed the interface and did not reach the socket."""

    subject: Subject
    observation: Observation
    flows: list[tuple[FlowKey, Flow]]
    severity: Severity
    evidence: str  # what was seen where, and what the socket got

    @property
    def packets(self) -> int:
        return sum(flow.packets for _, flow in self.flows)

    @property
    def interface(self) -> str:
        return self.flows[0][0].interface

    def finding(self, cause: str, what: str, evidence: Sequence[str], fix: str, *ways: Way) -> Finding:
        return Finding(cause, self.severity, what, (self.evidence, *evidence), fix, ways=ways)


def watched(check: str, evidence: Evidence) -> Observation | Skipped:
    """What was seen on the wire, or why nothing was."""
    if evidence.observation is None:
        return Skipped(check, "nothing was watched: --watch 10s")
    if evidence.observation.traffic is None:
        return Skipped(check, evidence.observation.blind, privileged=True)
    return evidence.observation


def incomplete(check: str) -> Skipped:
    """What is said where something was not seen that may have passed in a flood of others."""
    return Skipped(check, "more passed than could be looked at")


def unwatched(check: str, evidence: Evidence) -> Skipped | None:
    """Why the wire was not seen; None if it was."""
    seen = watched(check, evidence)
    return seen if isinstance(seen, Skipped) else None


def delivery(subject: Subject, evidence: Evidence) -> Iterator[Said]:
    """Whether a subscription's socket gets what comes by its interfaces, and whether that is wanted."""
    settings = subject.settings
    if not isinstance(settings, InboundSubscription):
        return
    joined = [one["interface"] for one in subject.status.get("memberships", ()) if one["actual"]]
    if not joined:
        return
    yield from _probed(subject, evidence, joined)
    skipped = unwatched("delivery", evidence)
    observation = evidence.observation
    if skipped or observation is None or observation.traffic is None:
        if skipped:
            yield skipped
        return
    arrivals = _arrivals(settings, joined, evidence)
    received = _grown(subject, "received")
    if received == 0 and arrivals.wanted:
        read_by = observation.traffic.ended - SETTLE
        flows = [(key, flow) for key, flow in arrivals.wanted if flow.first <= read_by]
        if flows and not _waiting(settings, observation):
            told = _seen_text(flows), f"and the socket received 0 (status) in {observation.seconds:.3g} s"
            yield from _dropped(Missing(subject, observation, flows, BROKEN, ", ".join(told)), evidence)
    elif received == 0:
        yield from _astray(subject, arrivals, joined, complete=observation.is_complete)
    elif missing := _part(subject, arrivals.wanted, observation):
        yield from _dropped(missing, evidence)


def _arrivals(settings: InboundSubscription, joined: Sequence[str], evidence: Evidence) -> Arrivals:
    arrivals = Arrivals([], [], [], [], [])
    host = evidence.host
    ports = {interface.name for interface in host.interfaces.values() if host.taken_by(interface)}
    for key, flow in evidence.observation.flows() if evidence.observation else ():
        if key.outgoing or key.group != settings.group or not key.port:
            continue
        here, port = key.interface in joined, key.port == settings.port
        if here and port and key.vlan:
            arrivals.tagged.append((key, flow))
        elif key.vlan:
            continue
        elif here and port:
            by_source = _passes(settings, key.source)
            (arrivals.wanted if by_source else arrivals.excluded).append((key, flow))
        elif here:
            arrivals.other_port.append((key, flow))
        elif port and key.interface not in ports:  # what a port of a bridge gets, the bridge gets
            arrivals.elsewhere.append((key, flow))
    return arrivals


def _passes(settings: InboundSubscription, source: Address) -> bool:
    return source in settings.sources if settings.sources else source not in settings.exclude_sources


def _part(subject: Subject, wanted: list[tuple[FlowKey, Flow]], observation: Observation) -> Missing | None:
    """What is missing of what came, by the bytes: these are the same however packets were coalesced."""
    counters = subject.status["counters"]
    if "overflow" not in counters or not subject.earlier or _grown(subject, "overflow"):
        return None  # no daemon's counters; or the buffer overflowed, which another check tells
    seen = sum(flow.size for _, flow in wanted)
    packets = sum(flow.packets for _, flow in wanted)
    received = _grown(subject, "received_bytes")
    if packets < MANY or seen - received <= SHARE * seen or _waiting(subject.settings, observation):
        return None
    top = subject.status["by_source"]["top"], subject.earlier.get("by_source", {}).get("top", {})
    silent = [(k, f) for k, f in wanted if top[0].get(str(k.source), 0) == top[1].get(str(k.source), 0)]
    evidence = (
        f"{_seen_text(silent or wanted)}; of {seen} bytes in all the socket received {received} (status)"
    )
    return Missing(subject, observation, silent or wanted, WARNING, evidence)


def _waiting(settings: InboundSubscription | OutboundChannel, observation: Observation) -> bool:
    """Whether something waits in a socket's buffer or did not fit: then nobody reads it fast enough."""
    if observation.before is None or observation.after is None:
        return False
    before = {sock.inode: sock.drops for sock in observation.before.sockets}
    return any(
        sock.queued or (sock.drops > before.get(sock.inode, 0) and not _bad_checksums(settings, observation))
        for sock in observation.after.sockets
        if (sock.address, sock.port) == (settings.group, settings.port)
    )


def _bad_checksums(settings: InboundSubscription | OutboundChannel, observation: Observation) -> int:
    return observation.grown("UdpInCsumErrors" if settings.group.version == 4 else "Udp6InCsumErrors")


def _dropped(missing: Missing, evidence: Evidence) -> Iterator[Said]:
    """Which part of this host took them: each tells by a counter of its own, but for the firewall."""
    observation, subject = missing.observation, missing.subject
    version = subject.settings.group.version
    by_mac = sum(flow.not_ours for _, flow in missing.flows)
    if by_mac and by_mac == missing.packets:
        yield missing.finding(
            "wrong-mac",
            "what arrives is addressed to another host's MAC address, so the kernel discards it",
            (f"{by_mac} of {missing.packets} packets are PACKET_OTHERHOST (AF_PACKET)",),
            "look for what rewrites it on the way: a bridge, an access point, a sender with a static entry",
        )
    elif (filtered := observation.grown("TcpExtIPReversePathFilter")) and (
        why := _reverse(missing, evidence)
    ):
        route = command("ip", "route", "replace", f"{why[0]}/32", "dev", missing.interface)
        off = sysctl(*(f"net/ipv4/conf/{name}/rp_filter" for name in (missing.interface, "all")))
        yield missing.finding(
            "rp-filter",
            f"the kernel's reverse path filter drops what arrives on {missing.interface}: {why[1]}",
            (f"TcpExtIPReversePathFilter grew by {filtered} (/proc/net/netstat)", why[1]),
            f"if {why[0]} is there indeed, and no sender's invention: {route}, or: {off}",
            Way(command=route),
            Way(command=off),
        )
    elif martian := _martian(missing.flows[0][0].source, evidence):
        yield missing.finding(
            "martian-source",
            f"the kernel discards what arrives on {missing.interface}: {martian}",
            (f"IP source {missing.flows[0][0].source} (AF_PACKET)",),
            "give the sender an address of its own",
        )
    elif (wrong := _bad_checksums(subject.settings, observation)) and 2 * wrong >= missing.packets:
        counter = "UdpInCsumErrors" if version == 4 else "Udp6InCsumErrors"
        yield missing.finding(
            "bad-checksum",
            "the kernel discards what arrives: its UDP checksum is wrong",
            (f"{counter} grew by {wrong} (/proc/net/snmp{'6' if version == 6 else ''})",),
            "look at the sender and what changes packets on the way; offloading of a virtual network card:"
            " ethtool -K IF tx off, at the sender",
        )
    elif any(flow.fragmented for _, flow in missing.flows) and (failed := _reassembly(version, observation)):
        yield missing.finding(
            "fragments-lost",
            "it arrives in fragments, not all of which come: the rest is discarded",
            (failed,),
            "send no more than the path's MTU less 28 bytes (IPv6: 48) in a datagram: max_datagram",
        )
    else:
        yield from _filtered(missing)


def _reverse(missing: Missing, evidence: Evidence) -> tuple[Address, str] | None:
    """The first source that the reverse path filter does not accept, and why."""
    by_name = {interface.name: interface for interface in evidence.host.interfaces.values()}
    for key, _ in missing.flows:
        interface = by_name.get(key.interface)
        if interface is not None and (why := reverse_path(key.source, interface)):
            return key.source, why
    return None


def _reassembly(version: int, observation: Observation) -> str:
    prefix, path = ("Ip", "snmp") if version == 4 else ("Ip6", "snmp6")
    asked = observation.grown(f"{prefix}ReasmReqds")
    whole = observation.grown(f"{prefix}ReasmOKs")
    if not asked or whole:
        return ""
    failed = observation.grown(f"{prefix}ReasmFails")
    return f"{prefix}ReasmReqds grew by {asked}, ReasmOKs by 0, ReasmFails by {failed} (/proc/net/{path})"


def _martian(source: Address, evidence: Evidence) -> str:
    """Why the kernel discards whatever comes from an address; "" if it does not."""
    for interface in evidence.host.interfaces.values():
        if source.version == 4 and source in interface.addresses:
            return f"{source} is this host's own address, on {interface.name}"
    if source.is_loopback or source.is_multicast or (source.version == 4 and not source.packed[0]):
        return f"{source} is no address that another host can have"
    return ""


def _filtered(missing: Missing) -> Iterator[Said]:
    settings = missing.subject.settings
    key, flow = missing.flows[0]
    ttl = flow.min_ttl if flow.min_ttl == flow.max_ttl else -1
    facts = Facts(settings.group, settings.port, key.interface, key.source, ttl)
    seen = (
        missing.evidence,
        "rp_filter, wrong checksums and full buffers dropped none of it (/proc/net/netstat, snmp, udp)",
    )
    what = f"drops what arrives on {key.interface}"
    yield _taken(missing.severity, what, seen, _rules(facts, INBOUND, missing.observation))


class Rules(NamedTuple):
    """The rules of a firewall that take certain datagrams, or may."""

    lines: list[str]  # most telling first; without any, what is known instead
    known: bool  # there is one
    fix: str  # a command, if there is one


def _taken(severity: Severity, what: str, seen: Sequence[str], rules: Rules) -> Finding:
    """A finding that blames the firewall only if there is a rule that does it, or may."""
    evidence = (*seen, *rules.lines)
    if rules.known:
        ways = (Way(command=rules.fix),)
        return Finding(
            "firewall-drop", severity, f"a firewall of this host {what}", evidence, rules.fix, ways=ways
        )
    where = f"something on this host, between its interfaces and the sockets, {what}"
    return Finding("dropped-inside", severity, where, evidence, rules.fix)


def _rules(facts: Facts, hooks: Sequence[str], observation: Observation) -> Rules:
    """The rules that drop such datagrams, or may; and a command that lets them pass."""
    rules = observation.after.rules if observation.after is not None else Ruleset(unread="nobody looked")
    found = [(suspect, observation.packets_of(suspect)) for suspect in rules.suspects(facts, hooks)]
    found = [(suspect, grown) for suspect, grown in found if grown != 0]
    found.sort(key=lambda one: (not one[1], not one[0].certain))
    earlier = observation.before.rules.legacy if observation.before is not None else ()
    before = {rule: packets for packets, rule in earlier}
    legacy = [(rule, packets - before.get(rule, 0)) for packets, rule in rules.legacy]
    legacy = [(rule, grown) for rule, grown in legacy if grown > 0]
    lines = [_rule(suspect, grown) for suspect, grown in found[:RULES]]
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
        return Rules(
            [f"the rules could not be read: {rules.unread}"], False, f"nft list ruleset; else {others}"
        )
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


def _astray(subject: Subject, arrivals: Arrivals, joined: Sequence[str], *, complete: bool) -> Iterator[Said]:
    """Nothing that is wanted comes: but something like it does."""
    settings = subject.settings
    group, port, here = settings.group, settings.port, ", ".join(joined)
    if arrivals.excluded:
        source = arrivals.excluded[0][0].source
        which = "sources" if getattr(settings, "sources", ()) else "exclude_sources"
        yield Finding(
            "source-excluded",
            WARNING,
            f"what arrives comes from {source} alone, which is kept out by {which}"
            if len({key.source for key, _ in arrivals.excluded}) == 1
            else f"all that arrives comes from senders that are kept out by {which}",
            (_seen_text(arrivals.excluded), f"{which} ({subject.table})"),
            f"change {which} in {subject.table}, if that sender is meant",
        )
    elif arrivals.tagged:
        tag = arrivals.tagged[0][0].vlan
        vlan = ("type", "vlan", "id", tag)
        yield Finding(
            "vlan-tagged",
            BROKEN,
            f"the group arrives on {here} in VLAN {tag}, which is not the interface itself",
            (_seen_text(arrivals.tagged),),
            command("ip", "link", "add", "link", joined[0], "name", f"{joined[0]}.{tag}", *vlan)
            + ", and name that one",
        )
    elif arrivals.elsewhere:
        elsewhere = arrivals.elsewhere[0][0].interface
        yield Finding(
            "wrong-interface",
            BROKEN,
            f"the group arrives on {elsewhere}, but it is received on {here}",
            (_seen_text(arrivals.elsewhere), f"joined on {here} (status); received = 0 meanwhile"),
            f"{setting_with(settings.interface, elsewhere)} in {subject.table}",
            ways=(Way(table=subject.table, lines=(setting_with(settings.interface, elsewhere),)),),
        )
    elif arrivals.other_port:
        other = arrivals.other_port[0][0].port
        yield Finding(
            "wrong-port",
            WARNING,
            f"the group arrives with port {other}, and nothing with port {port}",
            (_seen_text(arrivals.other_port), f"port = {port} ({subject.table})"),
            f"port = {other} in {subject.table}, if that is what is meant",
            ways=(Way(table=subject.table, lines=(f"port = {other}",)),),
        )
    elif not complete:
        yield incomplete("delivery")
    else:
        yield Finding(
            "nothing-arrives",
            HINT,
            f"no datagram to {group} port {port} arrives on {here}: this host has nothing to drop",
            (f"no packet to {group} on {here} while watching (AF_PACKET)",),
            "see whether the sender sends, with which ttl, and whether routers and switches hand it on",
        )


def _probed(subject: Subject, evidence: Evidence, joined: Sequence[str]) -> Iterator[Said]:
    """Whether what this host itself sent to the group came back to the socket."""
    observation = evidence.observation
    problem = observation.probes.get(subject.name) if observation else None
    if observation is None or problem is None:
        return
    if problem:
        yield Skipped("probe", problem)
    elif _grown(subject, "received") == 0:
        settings = subject.settings
        facts = Facts(settings.group, settings.port, joined[0])  # looped: it comes in where it would go out
        seen = f"a probe was sent by {', '.join(joined)} with ttl 0; received grew by 0 (status)"
        what = "drops what this host itself sends to the group"
        yield _taken(BROKEN, what, (seen,), _rules(facts, (*OUTBOUND, *INBOUND), observation))


def departure(subject: Subject, evidence: Evidence) -> Iterator[Said]:
    """Whether what a channel sends leaves its interface."""
    settings = subject.settings
    if not isinstance(settings, OutboundChannel) or settings.ttl == 0:
        return
    ways = evidence.ways(subject)
    if not ways or not subject.status.get("counters"):
        return
    refused = _grown_in(subject, "refused", "EPERM")
    ended_by_it = subject.errno == "EPERM" and bool(
        subject.status["counters"].get("refused", {}).get("EPERM")
    )
    facts = Facts(settings.group, settings.port, ways[0].name, ttl=settings.ttl)
    skipped = unwatched("departure", evidence)
    observation = evidence.observation
    if refused or ended_by_it:
        seen = f"refused: EPERM {refused} times while watching (status); {subject.detail}"
        what = f"refuses what it sends on {ways[0].name}"
        yield _taken(BROKEN, what, (seen,), _rules(facts, OUTBOUND, observation or Observation(0.0)))
    elif skipped is None and observation is not None:
        yield from _silent(subject, ways[0], facts, observation)
    if skipped:
        yield skipped


def _silent(subject: Subject, way: Interface, facts: Facts, observation: Observation) -> Iterator[Said]:
    sent = _grown(subject, "sent")
    seen = observation.everything()
    left = sum(
        flow.packets
        for traffic in seen
        for key, flow in traffic.flows.items()
        if key.outgoing and (key.group, key.port) == (facts.group, facts.port)
    )
    # With IP_RECVERR the kernel says ENOBUFS for what a queue, or an nftables chain at egress, drops
    refused = _grown_in(subject, "refused", "ENOBUFS")
    if sent + refused >= FEWEST and not left and observation.is_complete and subject.earlier:
        counted = f"sent grew by {sent}, refused by ENOBUFS {refused} times (status)"
        counted += f"; none of it was seen on {way.name} (AF_PACKET)"
        what = f"drops what it sends before it leaves {way.name}"
        yield _taken(BROKEN, what, (counted,), _rules(facts, OUTBOUND, observation))


def _grown(subject: Subject, counter: str) -> int:
    """By how much a counter of the worker has grown while it was watched."""
    now = subject.status["counters"].get(counter, 0)
    return int(now) - int(subject.earlier.get("counters", {}).get(counter, 0))


def _grown_in(subject: Subject, counter: str, key: str) -> int:
    now = subject.status["counters"].get(counter, {}).get(key, 0)
    return int(now) - int(subject.earlier.get("counters", {}).get(counter, {}).get(key, 0))


def _seen_text(flows: Sequence[tuple[FlowKey, Flow]]) -> str:
    """``12 packets from 192.0.2.1 to 239.1.1.1 port 9190 on eth0 (AF_PACKET)``."""
    packets = sum(flow.packets for _, flow in flows)
    key, _ = flows[0]
    sources = sorted({str(key.source) for key, _ in flows})
    more = f" and {len(sources) - 1} others" if len(sources) > 1 else ""
    tag = f", VLAN {key.vlan}" if key.vlan else ""
    return (
        f"{packets} packets from {sources[0]}{more} to {key.group} port {key.port} on {key.interface}{tag}"
        " (AF_PACKET)"
    )
