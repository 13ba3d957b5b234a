"""What is unwise in the settings of one channel."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from mcastd.config.addresses import split_end
from mcastd.config.groups import LINK_CONTROL, is_bounded, is_public
from mcastd.config.inbound import DEFAULT_RECEIVE_BUFFER
from mcastd.config.keys import SIGNING_SUFFIX
from mcastd.config.network_sources import IpSource
from mcastd.config.numbers import format_duration, format_rate, format_size
from mcastd.config.outbound import DEFAULT_BURST, ETHERNET_PAYLOAD, TIMED_FRAMINGS, OutboundChannel
from mcastd.config.protocols import FluteOutbound, RtpOutbound
from mcastd.config.types import Advice
from mcastd.config.words import show
from mcastd.ip import stays_on_link

# A datagram left the site with this TTL in the MBone; 64 the region, 128 the continent (mrouted).
SITE_TTL = 32
# From this TTL on no such threshold was meant to hold.
UNRESTRICTED_TTL = 128
# A rate below this was hardly meant: a datagram of 125 bytes takes more than a second.
SLOW_BITS_PER_SECOND = 1000


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


def _unwise_source(channel: OutboundChannel) -> Advice:
    yield from (("source", why) for why in channel.source.advice())


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


def _seals_by_signing_key(channel: OutboundChannel) -> Advice:
    key = channel.protocol.key if isinstance(channel.protocol, FluteOutbound) else None
    if key is not None and key.endswith(SIGNING_SUFFIX):
        yield (
            "protocol",
            f"{show(key)} in key is named as a key that signs, which goes into sign_key; files are sealed by"
            " a group key (mcastd keygen makes one)",
        )


OF_A_CHANNEL: tuple[Callable[[OutboundChannel], Advice], ...] = (
    _reach,
    _reserved,
    _fragments,
    _bursts,
    _unpaced,
    _at_no_time_of_its_own,
    _open_source,
    _unwise_source,
    _burst_of_nothing,
    _odd_rtp,
    _copies,
    _crawls,
    _sealed_unsigned,
    _seals_by_signing_key,
)
