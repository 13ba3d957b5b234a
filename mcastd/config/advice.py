"""What is legal in a configuration, and unwise: each with its cause and the way out. Pure; never raises."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from os.path import dirname
from pathlib import Path
from typing import Any

from mcastd.config.addresses import may_meet, means_several, split_end
from mcastd.config.description import legs_of
from mcastd.config.explain import Complaint
from mcastd.config.gateway import GatewaySettings
from mcastd.config.groups import LINK_CONTROL, ethernet_address, is_bounded, is_public
from mcastd.config.inbound import DEFAULT_RECEIVE_BUFFER, GATHERING_BUFFER_MIN_BYTES, InboundSubscription
from mcastd.config.kept_streams import made_too_small
from mcastd.config.link import LinkSettings
from mcastd.config.network_sources import IpSource
from mcastd.config.numbers import format_duration, format_rate, format_size
from mcastd.config.outbound import DEFAULT_BURST, ETHERNET_PAYLOAD, TIMED_FRAMINGS, OutboundChannel
from mcastd.config.output import OutputPath, OutputSettings
from mcastd.config.protocols import FluteInbound, FluteOutbound, RtpInbound, RtpOutbound
from mcastd.config.types import Location, normal
from mcastd.config.whole import Config
from mcastd.config.words import show
from mcastd.ip import Address, is_source_specific, stays_on_link

# A datagram left the site with this TTL in the MBone; 64 the region, 128 the continent (mrouted).
SITE_TTL = 32
# From this TTL on no such threshold was meant to hold.
UNRESTRICTED_TTL = 128
# From this rate on json is a mistake: see the rows "json" and "raw" of `make bench`.
JSON_BITS_PER_SECOND = 500_000_000
# A rate below this was hardly meant: a datagram of 125 bytes takes more than a second.
SLOW_BITS_PER_SECOND = 1000
PRIVATE_TO_THE_UNIT = ("/tmp/", "/var/tmp/")
SELDOM_ENOUGH_SECONDS = 10.0
# What there may be below /dev beside devices.
NO_DEVICES = ("/dev/shm/", "/dev/mqueue/", "/dev/fd/", "/dev/std")
# What a file is named that begins as a capture does.
CAPTURES = {".pcapng", ".pcap"}
# Directories in which everybody may make files.
SHARED = {"/tmp", "/var/tmp", "/dev/shm"}


def advise(config: Config, *, for_unit: bool = False) -> list[Complaint]:
    """Everything unwise in ``config``, at its location in the models, in no order that means anything.

    Workers that are not enabled are left out. ``for_unit``: the packages' systemd unit runs it.
    """
    config = config.of_enabled()
    found: list[Complaint] = []
    for table, checks in OF_ONE_WORKER.items():
        for name, settings in config.of_kind(table).items():
            for check in checks:
                found += (Complaint((table, name, key), why) for key, why in check(settings))
    for compare in (*BETWEEN_WORKERS, _of_kinds, _open_to_all):
        found += compare(config)
    paths = NamedPaths(config)
    for look in (*OF_FILES, _private_paths) if for_unit else OF_FILES:
        found += look(paths)
    return found


Advice = Iterator[tuple[str, str]]
"""The keys of one worker that are unwise, each with why."""

# -- one channel


def _leaves(channel: OutboundChannel) -> bool:
    return channel.ttl > 0 and channel.interface != "lo"


def _reach(channel: OutboundChannel) -> Advice:
    ttl, group = channel.ttl, channel.group
    if ttl > 1 and stays_on_link(group):
        yield (
            "ttl",
            f"{ttl} reaches no further than 1: no router forwards {group}; take a group that is routed",
        )
    elif ttl >= UNRESTRICTED_TTL or (ttl > SITE_TTL and not is_bounded(group)):
        yield (
            "ttl",
            f"{ttl} is far beyond any site: what a loop or a router without a boundary lets out goes as far;"
            " set the number of networks that it has to cross",
        )
    if _leaves(channel) and is_public(group):
        own = "239.0.0.0/8 (RFC 2365)" if group.version == 4 else "ff15::/16 or ff18::/16 (RFC 4291)"
        yield (
            "group",
            f"{group} is for the whole Internet, and not yours unless it was assigned; take one of {own}",
        )


def _reserved(channel: OutboundChannel) -> Advice:
    group = channel.group
    if not _leaves(channel):
        return
    if isinstance(group, IPv4Address) and group in LINK_CONTROL:
        yield (
            "group",
            f"{group} is for protocols of the link itself (RFC 5771), and switches flood it to every port;"
            " take one of 239.255.0.0/16",
        )
    elif isinstance(group, IPv6Address) and not group.packed[1] & 0x10:
        own = f"ff1{group.packed[1] & 0xF:x}::/16"
        yield "group", f"{group} is assigned by IANA, for good (RFC 4291); take one of {own}"
    elif isinstance(group, IPv4Address) and not int(group) & 0x7F_FF_00:
        control = IPv4Address(int(LINK_CONTROL[0]) | int(group) & 0xFF)
        yield (
            "group",
            f"{group} has the same Ethernet address as {control}; switches flood that (RFC 4541);"
            " let the last three bytes not be 0.0.x or 128.0.x",
        )


def _fragments(channel: OutboundChannel) -> Advice:
    most = ETHERNET_PAYLOAD[channel.group.version]
    as_they_are = channel.framing in {"file", "capture"} or channel.source.has_datagrams
    if not as_they_are and channel.max_datagram > most and _leaves(channel):
        yield (
            "max_datagram",
            f"{channel.max_datagram} is more than an Ethernet frame carries: unless the MTU is larger all the"
            f" way, datagrams go in fragments, and one lost is all lost; {most} fits",
        )


def _bursts(channel: OutboundChannel) -> Advice:
    seconds = DEFAULT_BURST if channel.burst is None else channel.burst
    size = int((channel.rate or 0) / 8 * seconds)
    if size > DEFAULT_RECEIVE_BUFFER:
        rate, burst = format_rate(channel.rate or 0), format_duration(seconds)
        yield (
            "burst",
            f"{burst} of {rate} is {size:,} bytes at once: more than switches and receivers hold,"
            f" these {format_size(DEFAULT_RECEIVE_BUFFER)} by default; set less",
        )


def _unpaced(channel: OutboundChannel) -> Advice:
    paced_by_others = channel.follow or channel.source.is_received
    if channel.interval == 0 and not paced_by_others and _leaves(channel):
        yield (
            "interval",
            "0 is as fast as this host can, which no network carries without loss; set rate instead",
        )


def _at_no_time_of_its_own(channel: OutboundChannel) -> Advice:
    if channel.timing is not None or channel.rate is not None or "interval" in channel.model_fields_set:
        return
    if channel.source.is_received:
        return
    for timing, framing in TIMED_FRAMINGS.items():
        if channel.framing == framing and channel.interval is not None:
            every = format_duration(channel.interval)
            yield (
                "framing",
                f'without timing a datagram goes every {every}; timing = "{timing}" sends at the times in the'
                " source, rate at a constant one",
            )


def _open_source(channel: OutboundChannel) -> Advice:
    source = channel.source
    if isinstance(source, IpSource) and not source.senders:
        host, _ = split_end(source.listen)
        if ip_address(host).is_unspecified:
            yield (
                "source",
                f"{source.listen} takes what anybody sends who reaches this host, and it goes to the group;"
                " name the senders, or listen at an address of a network that you trust",
            )


def _burst_of_nothing(channel: OutboundChannel) -> Advice:
    if channel.rate is None and channel.timing is None and channel.burst is not None:
        yield "burst", "does nothing without a rate, of which it is a part; set rate, or leave it out"


def _copies(channel: OutboundChannel) -> Advice:
    own, *copies = channel.by_leg()
    for leg in copies:
        assert isinstance(leg, OutboundChannel)
        for check in (_reach, _reserved):
            yield from (("copies", why) for _, why in check(leg))
        if leg.interface == own.interface and _leaves(leg):
            by = leg.interface or "the same route"
            yield (
                "copies",
                f"{leg.group} leaves by {by}, as the channel does: what fails there fails for both",
            )


def _odd_rtp(channel: OutboundChannel) -> Advice:
    if isinstance(channel.protocol, RtpOutbound) and channel.port % 2:
        yield (
            "port",
            f"{channel.port} is odd: RTP has the even ports, and its reports the odd ones (RFC 3550);"
            f" take {channel.port - 1 or 2}",
        )


def _crawls(channel: OutboundChannel) -> Advice:
    rate = channel.rate
    if rate is not None and 0 < rate < SLOW_BITS_PER_SECOND:
        yield "rate", f'{rate} is so many bits a second; for Mbit write "{rate}Mbit"'


def _sealed_unsigned(channel: OutboundChannel) -> Advice:
    protocol = channel.protocol
    if isinstance(protocol, FluteOutbound) and protocol.key is not None and protocol.sign_key is None:
        yield (
            "protocol",
            "its files are sealed and not signed: each receiver has the key, and could send files as if from"
            " here; set sign_key (mcastd keygen --sign makes one), and verify_keys at the receivers",
        )


OF_A_CHANNEL: tuple[Callable[[OutboundChannel], Advice], ...] = (
    _reach,
    _reserved,
    _fragments,
    _bursts,
    _unpaced,
    _at_no_time_of_its_own,
    _open_source,
    _burst_of_nothing,
    _odd_rtp,
    _copies,
    _crawls,
    _sealed_unsigned,
)

# -- one subscription


def _without_sources(subscription: InboundSubscription) -> Advice:
    for leg in subscription.by_leg():
        if is_source_specific(leg.group) and not leg.sources:
            yield (
                "legs" if subscription.legs else "sources",
                f"none are named, but {leg.group} is source-specific: routers ignore a join"
                " without (RFC 4604); name the senders",
            )


def _shallow(subscription: InboundSubscription) -> Advice:
    if subscription.receive_buffer < GATHERING_BUFFER_MIN_BYTES and subscription.max_latency:
        yield (
            "receive_buffer",
            f"below {format_size(GATHERING_BUFFER_MIN_BYTES)} nothing can gather, so each datagram costs"
            " a wake-up; set more, or max_latency = 0",
        )


def _restless(subscription: InboundSubscription) -> Advice:
    every = subscription.rejoin_every
    if every is not None and every < SELDOM_ENOUGH_SECONDS:
        yield (
            "rejoin_every",
            f"{format_duration(every)} leaves the group all the time, and each join costs a moment without"
            ' data; "2min" is enough',
        )


def _takes_unsigned(subscription: InboundSubscription) -> Advice:
    protocol = subscription.protocol
    if isinstance(protocol, FluteInbound) and protocol.keys and not protocol.verify_keys:
        yield (
            "protocol",
            "files are taken from everybody who has the key, which are all receivers; set verify_keys to the"
            " key that the sender signs with",
        )


def _legs_of_one_interface(subscription: InboundSubscription) -> Advice:
    own, *others = subscription.by_leg()
    interface = own.interface
    if others and not means_several(interface) and all(leg.interface == interface for leg in others):
        yield "legs", f"all come by {interface or 'the same route'}: what fails there fails for all"


def _named_otherwise(subscription: InboundSubscription) -> Advice:
    """Outputs whose names promise to a program what it does not find in them."""
    for output in subscription.output:
        if output.takes_objects or output.format not in {"raw", "lines", "json"}:
            continue
        for path in (written.path for written in output.paths()):
            if path.suffix in CAPTURES:
                yield "output", f'{path} is no capture as {output.format}; set format = "pcapng"'
            elif path.suffix == ".ts" and isinstance(subscription.protocol, RtpInbound):
                yield (
                    "output",
                    f"{path} has the headers of RTP in it, which is no transport stream for a player; set"
                    ' format = "payload"',
                )


def _one_way(subscription: InboundSubscription) -> Advice:
    described, group, port = subscription.sdp, subscription.group, subscription.port
    if described is None or subscription.legs:
        return
    if (ways := len(legs_of(described, group, port))) > 1:
        yield (
            "sdp",
            f"one stream is described by {ways} ways, of which {group} port {port} is received; a protocol"
            " with numbers, and no group and port, receives it by all of them",
        )


OF_A_SUBSCRIPTION: tuple[Callable[[InboundSubscription], Advice], ...] = (
    _without_sources,
    _shallow,
    _restless,
    _takes_unsigned,
    _legs_of_one_interface,
    _named_otherwise,
    _one_way,
)


# -- one link


def _in_clear(link: LinkSettings) -> Advice:
    if link.security == "none":
        yield (
            "security",
            '"none" lets anybody on the way read what goes, and forge what comes: only inside WireGuard or'
            " IPsec; else leave it out, and set key",
        )


# -- one gateway


def _open_to_anybody(gateway: GatewaySettings) -> Advice:
    everywhere = [end for end in gateway.listen if ip_address(split_end(end)[0]).is_unspecified]
    if everywhere and not gateway.allow_clients and gateway.token is None:
        yield (
            "listen",
            f"{everywhere[0]} serves whoever reaches this host by any of its addresses; set allow_clients or"
            " token, or listen at an address of the network that the players are in",
        )


OF_ONE_WORKER: dict[str, tuple[Callable[[Any], Advice], ...]] = {
    "outbound": OF_A_CHANNEL,
    "inbound": OF_A_SUBSCRIPTION,
    "link": (_in_clear,),
    "gateway": (_open_to_anybody,),
}

# -- between workers


def _senders_agree(config: Config) -> Iterator[Complaint]:
    """A channel to the group and port of an earlier one; or to a group that Ethernet takes for that one's."""
    to_port: dict[tuple[Address, int], list[tuple[str, OutboundChannel]]] = {}
    to_ethernet: dict[bytes, list[tuple[str, OutboundChannel]]] = {}
    for name, channel in config.outbound.items():
        group, location = channel.group, ("outbound", name, "group")
        same = to_port.setdefault((group, channel.port), [])
        if first := _first_met(channel, same):
            yield Complaint(
                location,
                f"outbound.{first} sends to {group} port {channel.port} too, and receivers get both mixed;"
                " give one another group",
            )
        alike = to_ethernet.setdefault(ethernet_address(group), [])
        if first := _first_met(channel, [(other, one) for other, one in alike if one.group != group]):
            yield Complaint(
                location,
                f"{group} has the same Ethernet address as the group of outbound.{first}, so that hosts and"
                " switches may take in both for one (RFC 1112); choose another ending",
            )
        same.append((name, channel))
        if all((one.group, one.interface) != (group, channel.interface) for _, one in alike):
            alike.append((name, channel))


def _first_met(channel: OutboundChannel, others: list[tuple[str, OutboundChannel]]) -> str | None:
    return next((name for name, one in others if may_meet(one.interface, channel.interface)), None)


def _local_receivers(config: Config) -> Iterator[Complaint]:
    """What this host sends, and receives itself."""
    channels: dict[tuple[Address, int], list[tuple[str, OutboundChannel]]] = {}
    for sender, channel in config.outbound.items():
        channels.setdefault((channel.group, channel.port), []).append((sender, channel))
    for name, subscription in config.inbound.items():
        heard = (
            (sender, channel)
            for leg in subscription.by_leg()
            for sender, channel in channels.get((leg.group, leg.port), ())
            if may_meet(channel.interface, leg.interface)
        )
        for sender, channel in heard:
            if not channel.loop:
                why = f"false keeps it from inbound.{name} on this host, which receives this group; set true"
                yield Complaint(("outbound", sender, "loop"), why)
            elif channel.rate is not None and channel.rate >= JSON_BITS_PER_SECOND:
                yield from _too_fast_for_json(name, subscription, sender, channel.rate)


def _too_fast_for_json(
    name: str, subscription: InboundSubscription, sender: str, rate: int
) -> Iterator[Complaint]:
    for index, output in enumerate(subscription.output):
        if output.format == "json":
            yield Complaint(
                ("inbound", name, "output", index, "format"),
                f"json at the {format_rate(rate)} of outbound.{sender} takes a multiple of the CPU and more"
                ' room than raw; choose "raw" or "lines"',
            )


def _standbys(config: Config) -> Iterator[Complaint]:
    """Links that stand by for one that is not there, or is switched off."""
    for name, link in config.link.items():
        if (other := link.standby_of) is not None and other not in config.link:
            why = f"there is no [link.{other}] that is enabled: it never rests; name the one that it is for"
            yield Complaint(("link", name, "standby_of"), why)


def _streams_made(config: Config) -> Iterator[Complaint]:
    yield from (Complaint(location, why) for location, why in made_too_small(config.inbound))


BETWEEN_WORKERS: tuple[Callable[[Config], Iterator[Complaint]], ...] = (
    _senders_agree,
    _local_receivers,
    _standbys,
    _streams_made,
)

# -- files


class NamedPaths:
    """The paths that a configuration names, each with its location in the models."""

    def __init__(self, config: Config) -> None:
        self.control_socket: tuple[Location, Path] = (
            ("daemon", "control_socket"),
            config.daemon.control_socket,
        )
        self.sources: list[tuple[Location, Path]] = []  # files and pipes that workers send
        self.written: list[tuple[Location, OutputPath]] = []  # what workers write
        for name, worker in config.workers().items():
            table = tuple(name.split("/"))
            self.sources += [((*table, *key), path) for key, path in worker.reads()]
            self.written += [((*table, *key), written) for key, written in worker.writes()]

    def outputs(self) -> list[tuple[Location, Path]]:
        return [(location, written.path) for location, written in self.written]


def _prepared_by_others(paths: NamedPaths) -> Iterator[Complaint]:
    """Where anybody can put a file or a link before it is made."""
    for location, path in [paths.control_socket, *paths.outputs()]:
        if dirname(path) in SHARED:
            yield Complaint(
                location,
                f"everybody may write in {path.parent}, and put a file or link there first, which the daemon"
                " then refuses to use; take a directory of its own, as /run/mcastd or /var/log/mcastd",
            )
    for location, path in paths.sources:
        if dirname(path) in SHARED:
            yield Complaint(
                location,
                f"everybody may write in {path.parent}, and put a file there, which the daemon then sends;"
                " take a directory that only those may write who decide that",
            )


def _outputs(config: Config) -> Iterator[tuple[Location, OutputSettings]]:
    """Every output, with its location."""
    for name, subscription in config.inbound.items():
        for index, output in enumerate(subscription.output):
            yield ("inbound", name, "output", index), output


def _devices(paths: NamedPaths) -> Iterator[Complaint]:
    """Neither a source nor an output may be one."""
    for location, path in [*paths.outputs(), *paths.sources]:
        if (named := normal(path)).startswith("/dev/") and not named.startswith(NO_DEVICES):
            yield Complaint(location, f"{path} is a device, which is refused; name a file or a FIFO")


def _of_kinds(config: Config) -> Iterator[Complaint]:
    """What each kind of output has to say of its own table."""
    for location, output in _outputs(config):
        yield from (Complaint((*location, key), why) for key, why in output.advice())


def _private_paths(paths: NamedPaths) -> Iterator[Complaint]:
    """What the unit has in a /tmp of its own."""
    for location, path in [paths.control_socket, *paths.sources, *paths.outputs()]:
        if (named := normal(path)).startswith(PRIVATE_TO_THE_UNIT):
            top = "/var/tmp" if named.startswith("/var/tmp/") else "/tmp"
            yield Complaint(
                location,
                f"the systemd unit has a {top} of its own (PrivateTmp): nobody else sees {show(str(path))}"
                " there, and it goes when the daemon stops; take a path elsewhere",
            )


def _open_to_all(config: Config) -> Iterator[Complaint]:
    metrics = config.daemon.metrics
    if metrics is not None and metrics.rpartition(":")[0] in ("0.0.0.0", "[::]"):
        yield Complaint(
            ("daemon", "metrics"),
            f"{metrics} is open to whoever reaches this host; take an address of a network that you trust, or"
            " 127.0.0.1",
        )


def _shared_pipes(paths: NamedPaths) -> Iterator[Complaint]:
    """Channels that read one pipe: each line goes to one of them. A pipe is what a subscription makes one."""
    pipes = {normal(written.path) for _, written in paths.written if written.type == stat.S_IFIFO}
    readers: dict[str, str] = {}
    for location, source in paths.sources if pipes else ():
        path, name = normal(source), str(location[1])
        if path in pipes and (first := readers.setdefault(path, name)) != name:
            yield Complaint(
                location,
                f"outbound.{first} reads this pipe, too: each gets a part; give every one a pipe",
            )


OF_FILES: tuple[Callable[[NamedPaths], Iterator[Complaint]], ...] = (
    _prepared_by_others,
    _devices,
    _shared_pipes,
)
