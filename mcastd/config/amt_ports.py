"""UDP ports that AMT relays of this host listen at, and that tunnels to it come to: one program has each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address

from mcastd.config.amt_relay import AmtRelaySettings
from mcastd.config.inbound import InboundSubscription
from mcastd.config.relay_addresses import format_end
from mcastd.config.types import Location
from mcastd.config.via import AmtSettings
from mcastd.ip import Address


def wanted_twice(
    relays: Mapping[str, AmtRelaySettings], subscriptions: Mapping[str, InboundSubscription]
) -> Iterator[tuple[Location, str]]:
    """Workers that want a port which another has already, each with why."""
    taken: dict[tuple[Address, int], str] = {}
    for name, relay in relays.items():
        for end in relay.listen:
            if end in taken:
                yield (
                    ("amt_relay", name, "listen"),
                    f"amt_relay.{taken[end]} listens at {format_end(end)} already",
                )
            taken.setdefault(end, name)
    for name, subscription in subscriptions.items():
        via = subscription.via
        if not isinstance(via, AmtSettings):
            continue
        version = _version_of(via.relay)
        for (address, port), first in taken.items():
            if (address.version, port) == (version, via.local_port):
                yield (
                    ("inbound", name, "via", "local_port"),
                    f"amt_relay.{first} listens at UDP port {port} already, where the tunnel comes to: set"
                    " another local_port, or have the relay listen at another port",
                )
                break


def _version_of(relay: str | None) -> int:
    """The IP version of the first socket that a tunnel needs."""
    with suppress(ValueError):
        return ip_address(relay or "").version
    return 4
