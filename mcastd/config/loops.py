"""Channels that would send for ever what they have sent: a subscription writes it to their source.

Pure. What a host adds (two addresses of one interface) is not known here. That two paths lead to one file
is known once they are open: opened.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mcastd.config.addresses import may_meet
from mcastd.config.types import normal

if TYPE_CHECKING:
    from mcastd.config.inbound import InboundSubscription
    from mcastd.config.outbound import OutboundChannel


class Loop(NamedTuple):
    """A channel whose datagrams come back to it, also by others."""

    channel: str
    source: Path
    subscription: str  # receives what the channel sends
    writes: tuple[Path, ...]  # its outputs that are the source of this channel, or of others that follow

    def __str__(self) -> str:
        written = " and ".join(map(str, self.writes))
        return (
            f"what it sends comes back to it for ever: inbound.{self.subscription} receives its group, and"
            f" writes {written}"
        )


def loops(
    outbound: Mapping[str, OutboundChannel],
    inbound: Mapping[str, InboundSubscription],
    file: Callable[[Path], object] = normal,
) -> Iterator[Loop]:
    """The channels whose datagrams come back to them. ``file`` is the same for paths of the same file."""
    read = {name: path for name, channel in outbound.items() if (path := channel.source.file) is not None}
    sent_from: dict[object, list[str]] = defaultdict(list)  # channels by the file that they read
    for name, path in read.items():
        sent_from[file(path)].append(name)
    receivers: dict[tuple[object, int], list[str]] = defaultdict(list)
    for name, subscription in inbound.items():
        if any(file(path) in sent_from for path in written_by(subscription)):
            receivers[subscription.group, subscription.port].append(name)
    # By channel: the channels that send on what it sends, each with the subscription between them
    by_way_of: dict[str, dict[str, str]] = {
        name: {
            follower: receiver
            for receiver in receivers.get((channel.group, channel.port), ())
            if _hears(inbound[receiver], channel)
            for path in written_by(inbound[receiver])
            for follower in sent_from.get(file(path), ())
        }
        for name, channel in outbound.items()
        if receivers
    }
    for name in _in_circles(by_way_of):
        first = next(iter(by_way_of[name].values()))
        sources = {file(read[follower]) for follower in by_way_of[name]}
        paths = [path for path in written_by(inbound[first]) if file(path) in sources]
        yield Loop(name, read[name], first, tuple(paths))


def written_by(subscription: InboundSubscription) -> list[Path]:
    """The paths that its outputs write."""
    return [written.path for output in subscription.output for written in output.paths()]


def _hears(subscription: InboundSubscription, channel: OutboundChannel) -> bool:
    """Return True if a subscription surely receives a channel on this host, without a filter of sources."""
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
