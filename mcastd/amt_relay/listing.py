"""What the status has of a relay's gateways and memberships."""

from __future__ import annotations

from itertools import islice

from mcastd.amt_relay.gateways import Gateways
from mcastd.amt_relay.upstream import Upstream
from mcastd.status import JoinStatus, ServedGatewayStatus

# Of each list, and groups of each gateway.
LISTED_MAX = 100
WANTED_MAX = 8


def gateways_of(gateways: Gateways, now: float) -> tuple[ServedGatewayStatus, ...]:
    """Some of those that are served. For any thread."""
    found = []
    for end, served in islice(gateways.served.items(), LISTED_MAX):
        tunnel = gateways.relay.tunnels.get(end)
        groups = {} if tunnel is None else tunnel.groups.copy()  # one step: its thread goes on
        found.append(
            ServedGatewayStatus(
                address=str(end[0]),
                port=end[1],
                groups=len(groups),
                wanted=tuple(f"{group} {one.filter}" for group, one in islice(groups.items(), WANTED_MAX)),
                seconds=0.0 if tunnel is None else now - tunnel.since,
                mtu=served.mtu,
                sent=served.sent,
                missed=dict(served.missed),
                path_mtu=served.path_mtu,
            )
        )
    return tuple(found)


def joins_of(upstream: Upstream) -> tuple[JoinStatus, ...]:
    """What is joined, and what could not be. For any thread."""
    names, joined, refused = upstream.names, upstream.joined, upstream.refused
    found = [
        JoinStatus(
            interface=names.get(ifindex, str(ifindex)), group=str(group), wanted=str(one), refused=None
        )
        for (ifindex, group), one in islice(joined.items(), LISTED_MAX)
    ]
    found += [
        JoinStatus(
            interface=names.get(ifindex, str(ifindex)), group=str(group), wanted="", refused=error.trouble
        )
        for (ifindex, group), error in islice(refused.items(), LISTED_MAX)
    ]
    return tuple(found)
