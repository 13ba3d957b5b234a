"""Channels that would send for ever what they sent: subscriptions receive it, and write it to their source.

Pure. What a host adds (two names of one file, two addresses of one interface) is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mcastd.config.types import Location, may_meet, normal

if TYPE_CHECKING:
    from mcastd.config.model import InboundSubscription, OutboundChannel


def loops(
    outbound: Mapping[str, OutboundChannel], inbound: Mapping[str, InboundSubscription]
) -> Iterator[tuple[Location, str]]:
    """The sources of channels whose datagrams come back to them, also by others, and how."""
    sent_from: dict[str, list[str]] = defaultdict(list)  # channels by the path of their source
    for name, channel in outbound.items():
        sent_from[normal(channel.source)].append(name)
    receivers: dict[tuple[object, int], list[str]] = defaultdict(list)
    for name, subscription in inbound.items():
        if any(normal(output.path) in sent_from for output in subscription.output):
            receivers[subscription.group, subscription.port].append(name)
    by_way_of: dict[
        str, dict[str, str]
    ] = {  # of each channel: the channels that follow, by which subscription
        name: {
            follower: receiver
            for receiver in receivers.get((channel.group, channel.port), ())
            if _hears(inbound[receiver], channel)
            for output in inbound[receiver].output
            for follower in sent_from.get(normal(output.path), ())
        }
        for name, channel in outbound.items()
        if receivers
    }
    for name in _in_circles(by_way_of):
        first = next(iter(by_way_of[name].values()))
        yield (
            ("outbound", name, "source"),
            f"what it sends comes back to it for ever: inbound.{first} receives its group, and writes"
            f" {_told(inbound[first], outbound, by_way_of[name])}; send to another group, or write elsewhere",
        )


def _told(
    receiver: InboundSubscription, outbound: Mapping[str, OutboundChannel], followers: Mapping[str, str]
) -> str:
    sources = {normal(outbound[follower].source) for follower in followers}
    paths = [str(output.path) for output in receiver.output if normal(output.path) in sources]
    return " and ".join(paths)


def _hears(subscription: InboundSubscription, channel: OutboundChannel) -> bool:
    """Whether it receives the channel on this host, as far as can be told: a filter may keep it out."""
    filtered = subscription.sources or subscription.exclude_sources
    return channel.loop and not filtered and may_meet(channel.interface, subscription.interface)


def _in_circles(follow: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The nodes of a graph that lie on a circle, or between two of them."""
    left = {name: set(followers) for name, followers in follow.items() if followers}
    while ends := [name for name, followers in left.items() if not followers & left.keys()]:
        for name in ends:
            del left[name]
    while True:
        led_to = set().union(*left.values()) if left else set()
        if not (begins := left.keys() - led_to):
            return list(left)
        for name in begins:
            del left[name]
