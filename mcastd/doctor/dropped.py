"""Which part of this host dropped what passed its interface and did not reach the socket.

Each part but the firewall tells by a counter of its own, or by what the datagrams look like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.doctor.blame import rules_of, taken
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import command, sysctl
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Observation
from mcastd.ip import Address
from mcastd.net import tables
from mcastd.net.interfaces import reverse_path
from mcastd.net.ruleset import INBOUND, Facts
from mcastd.net.tap import Flow, FlowKey

# Share of the memory for fragments from which on it is full: each that gets whole gives some back.
CROWDED_SHARE = 0.9
# What is proposed is this many times as much, and at least the kernel's default.
RAISED_TIMES, FRAGMENT_MEMORY_BYTES = 4, 4 << 20


@dataclass(frozen=True, slots=True)
class Missing:
    """Datagrams of a subscription that passed the interface and did not reach the socket."""

    subject: Subject[InboundSubscription]
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


def bad_checksums(settings: InboundSubscription | OutboundChannel, observation: Observation) -> int:
    return observation.grown("UdpInCsumErrors" if settings.group.version == 4 else "Udp6InCsumErrors")


def dropped(missing: Missing, evidence: Evidence) -> Iterator[Said]:
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
    elif (wrong := bad_checksums(subject.settings, observation)) and 2 * wrong >= missing.packets:
        counter = "UdpInCsumErrors" if version == 4 else "Udp6InCsumErrors"
        yield missing.finding(
            "bad-checksum",
            "the kernel discards what arrives: its UDP checksum is wrong",
            (f"{counter} grew by {wrong} (/proc/net/snmp{'6' if version == 6 else ''})",),
            "look at the sender and what changes packets on the way; offloading of a virtual network card:"
            " ethtool -K IF tx off, at the sender",
        )
    elif any(flow.fragmented for _, flow in missing.flows) and (full := _crowded(missing, evidence)):
        yield full
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


def _crowded(missing: Missing, evidence: Evidence) -> Finding | None:
    """That the memory is full in which fragments wait for each other on this host: it drops more of them."""
    version, prefix = (4, "ip") if missing.subject.settings.group.version == 4 else (6, "ip6")
    name = f"net/ipv{version}/{prefix}frag_high_thresh"
    failures, suffix = f"{prefix.capitalize()}ReasmFails", "6" if version == 6 else ""
    room, held = int(evidence.sysctl(name) or 0), tables.fragment_memory(version)
    failed = missing.observation.grown(failures)
    if not failed or not room or held < CROWDED_SHARE * room:
        return None
    more = sysctl(name, value=max(RAISED_TIMES * room, FRAGMENT_MEMORY_BYTES))
    return missing.finding(
        "fragments-lost",
        "it arrives in fragments, and this host has no memory left to have them wait for each other",
        (
            f"fragments hold {held} bytes (/proc/net/sockstat{suffix}), of {name.replace('/', '.')} = {room}",
            f"{failures} grew by {failed} (/proc/net/snmp{suffix})",
        ),
        f"{more}; where fragments are lost on the way, each of the others holds its memory for"
        f" {prefix}frag_time: lower that, or send smaller datagrams",
        Way(command=more),
    )


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
    ttl = min(flow.ttls) if len(flow.ttls) == 1 else -1
    facts = Facts(settings.group, settings.port, key.interface, key.source, ttl)
    seen = (
        missing.evidence,
        "rp_filter, wrong checksums and full buffers dropped none of it (/proc/net/netstat, snmp, udp)",
    )
    what = f"drops what arrives on {key.interface}"
    rules = rules_of(facts, INBOUND, missing.observation)
    yield from taken("delivery", missing.severity, what, seen, rules)
