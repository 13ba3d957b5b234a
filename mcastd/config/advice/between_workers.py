"""What is unwise in workers beside each other, each of which is well by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mcastd.config.addresses import may_meet
from mcastd.config.engine_sources import NatsSource
from mcastd.config.explain import Complaint
from mcastd.config.groups import ethernet_address
from mcastd.config.inbound import InboundSubscription
from mcastd.config.kept_streams import made_too_small
from mcastd.config.numbers import format_rate
from mcastd.config.outbound import OutboundChannel
from mcastd.config.whole import Config
from mcastd.ip import Address

# From this rate on json is a mistake: see the rows "json" and "raw" of `make bench`.
JSON_BITS_PER_SECOND = 500_000_000


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


def _consumers_of_own(config: Config) -> Iterator[Complaint]:
    """Channels by a consumer that others have made, of a stream that gets what they send."""
    for name, channel in config.outbound.items():
        source = channel.source
        if not isinstance(source, NatsSource) or source.consumer is None or source.create:
            continue
        all_of_it = source.end._replace(name=">")
        for receiver, subscription in config.inbound.items():
            if not _hears(subscription, channel):
                continue
            for _, end in subscription.reaches():
                if end.leads_to(all_of_it):
                    yield Complaint(
                        ("outbound", name, "source"),
                        f"inbound.{receiver} hands what this sends over to {source.stream}, as {end.name}: if"
                        f" the consumer {source.consumer} gives that, it comes back, and is dropped; have it"
                        " filter, or give one of them another stream",
                    )


def _hears(subscription: InboundSubscription, channel: OutboundChannel) -> bool:
    return any(
        (leg.group, leg.port) == (sent.group, sent.port) and leg.hears(sent)
        for leg in subscription.by_leg()
        for sent in channel.by_leg()
    )


def _streams_made(config: Config) -> Iterator[Complaint]:
    yield from (Complaint(location, why) for location, why in made_too_small(config.inbound))


BETWEEN_WORKERS: tuple[Callable[[Config], Iterator[Complaint]], ...] = (
    _senders_agree,
    _local_receivers,
    _standbys,
    _streams_made,
    _consumers_of_own,
)
