"""Makes links, and what they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from mcastd.config import Config, LinkSettings
from mcastd.config.addresses import may_meet
from mcastd.inbound.subscription import source_filter
from mcastd.ip import Address, SourceFilter, stays_on_link
from mcastd.link.worker import LinkWorker
from mcastd.makers.parts import Parts
from mcastd.net.interfaces import Host
from mcastd.net.joins import Joins
from mcastd.net.membership import Memberships
from mcastd.tunnel.link.interface_network import GivenStreams, InterfaceNetwork
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import NetworkCounts


def open_links(memberships: Memberships, host: Callable[[], Host]) -> Links:
    """What has links between sites."""
    counts = defaultdict[str, NetworkCounts](NetworkCounts)
    given = GivenStreams()

    def name_of(setting: str) -> str:
        meant = (one.name for one in host().interfaces.values() if one.is_meant_by(setting))
        return next(meant, setting)

    return Links(lambda name: InterfaceNetwork(name, Joins(memberships), host, counts[name], given), name_of)


def make(name: str, settings: LinkSettings, parts: Parts) -> LinkWorker:
    links = parts.links() if parts.links else open_links(parts.memberships or Memberships(), parts.host)
    return LinkWorker(
        name, settings, links, lambda interface: _subscribed(parts.config(), interface), parts.host
    )


def _subscribed(config: Config, interface: str) -> Iterator[tuple[Address, SourceFilter]]:
    """What subscriptions receive by an interface, or may do."""
    for subscription in config.inbound.values():
        if not subscription.enabled or subscription.is_tunnelled:
            continue
        for leg in subscription.by_leg():
            if may_meet(leg.interface, interface) and not stays_on_link(leg.group):
                yield leg.group, source_filter(leg)
