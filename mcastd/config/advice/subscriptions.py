"""What is unwise in the settings of one subscription."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from mcastd.config.addresses import means_several, split_end
from mcastd.config.description import goes_to_group, legs_of
from mcastd.config.gateway import GatewaySettings
from mcastd.config.inbound import GATHERING_BUFFER_MIN_BYTES, InboundSubscription
from mcastd.config.keys import SIGNING_SUFFIX
from mcastd.config.legs import LEGS_MAX
from mcastd.config.network_outputs import TcpServerOutput
from mcastd.config.numbers import format_duration, format_size
from mcastd.config.protocols import FluteInbound, RtpInbound
from mcastd.config.types import Advice
from mcastd.config.words import show
from mcastd.ip import is_source_specific

SELDOM_ENOUGH_SECONDS = 10.0
# What a file is named that begins as a capture does.
CAPTURES = {".pcapng", ".pcap"}


def _without_sources(subscription: InboundSubscription) -> Advice:
    for leg in subscription.by_leg():
        if is_source_specific(leg.group) and not leg.sources:
            yield (
                "legs" if subscription.legs else "sources",
                f"none are named, but {leg.group} is source-specific: routers ignore a join"
                " without (RFC 4604); name the senders",
            )


def _shallow(subscription: InboundSubscription) -> Advice:
    if subscription.receive_buffer < GATHERING_BUFFER_MIN_BYTES and subscription.latency:
        yield (
            "receive_buffer",
            f"below {format_size(GATHERING_BUFFER_MIN_BYTES)} nothing can gather, so each datagram costs"
            " a wake-up; set more, or max_latency = 0",
        )


def restless(settings: InboundSubscription | GatewaySettings) -> Advice:
    every = settings.rejoin_every
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


def _names_signing_keys(subscription: InboundSubscription) -> Advice:
    """Files that are named as the secret half of a pair is, where another key belongs."""
    protocol = subscription.protocol
    if not isinstance(protocol, FluteInbound):
        return
    for place in protocol.verify_keys or ():
        if place.endswith(SIGNING_SUFFIX):
            yield (
                "protocol",
                f"{show(place)} in verify_keys is named as the half of a pair that signs, which the sender"
                f" alone has; name the half that verifies: {show(place + '.pub')}",
            )
    for place in protocol.keys or ():
        if place.endswith(SIGNING_SUFFIX):
            yield (
                "protocol",
                f"{show(place)} in keys is named as a key that signs, and files are opened by a group key;"
                " name that (mcastd keygen makes one)",
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
    ways = legs_of(described, group, port)
    if len(ways) > 1:
        why = "no other one is sent to a group"
        if sum(map(goes_to_group, ways)) > 1:
            why = (
                "a protocol with numbers, without group and port, sources of its own, reorder, fec and a"
                f" tunnel, receives it by up to {LEGS_MAX} that differ, if interface and output suit each"
            )
        yield (
            "sdp",
            f"one stream is described by {len(ways)} ways, of which {group} port {port} is received; {why}",
        )


def _open_output(subscription: InboundSubscription) -> Advice:
    for output in subscription.output:
        if isinstance(output, TcpServerOutput) and not output.readers:
            host, _ = split_end(output.listen)
            if ip_address(host).is_unspecified:
                yield (
                    "output",
                    f"{output.listen} serves anybody who reaches this host, and one alone has its place; name"
                    " the readers, or listen at an address of a network that you trust",
                )


OF_A_SUBSCRIPTION: tuple[Callable[[InboundSubscription], Advice], ...] = (
    _without_sources,
    _shallow,
    restless,
    _takes_unsigned,
    _names_signing_keys,
    _legs_of_one_interface,
    _named_otherwise,
    _one_way,
    _open_output,
)
