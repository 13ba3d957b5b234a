"""What a link is to be: data, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.ip import Address, Prefix
from mcastd.protocols.link_control import GroupWant
from mcastd.tunnel.link.step import EndSettings

# What IP and UDP have before a message, and sizes of packets that many paths take: tunnels, and Ethernet.
_HEADERS_BYTES = {4: 28, 6: 48}
LIKELY_MTUS = (1420, 1500)


class LinkPlan(NamedTuple):
    """One link, as it is to be."""

    key: bytes
    connect: tuple[str, int] | None = None  # name or address of the peer, and its port
    listen: tuple[Address, int] | None = None  # an address of this host, or that of all, and a port
    send: tuple[Prefix, ...] = ()  # groups that the peer may have
    want: tuple[GroupWant, ...] = ()  # of the peer, beside what members want
    members: bool = False  # want what members on the network here do
    interface: str = ""  # the network here; "": none, it is for transit alone
    transit: bool = False
    standby_of: str = ""  # rest while this link is up, which leads to the same site
    rate: int | None = None  # bits of payload a second at most
    repair_seconds: float = 0.0
    keepalive_seconds: float = 25.0
    mtu: int | None = None  # of the path, at most; None: what is found
    plain: bool = False  # records are in clear; the key is PLAIN_KEY

    def __repr__(self) -> str:
        """Without the key, so that no log or traceback has it."""
        return f"<LinkPlan {self.connect or self.listen}>"


def way_of(plan: LinkPlan) -> tuple[object, ...]:
    """The way to the peer: a link goes over to another plan without a break if that has the same one."""
    return plan.connect, plan.listen, plan.plain


def version_of(plan: LinkPlan) -> int:
    """The IP version that a link goes by; of a name, which may mean either, that of most."""
    if plan.listen is not None:
        return plan.listen[0].version
    with suppress(ValueError):
        return ip_address(plan.connect[0] if plan.connect else "").version
    return 4


def likely_bytes(plan: LinkPlan, version: int) -> tuple[int, ...]:
    """Sizes of messages that the path may well have, by an IP version."""
    mtus: Sequence[int] = LIKELY_MTUS if plan.mtu is None else (plan.mtu,)
    return tuple(mtu - _HEADERS_BYTES[version] for mtu in mtus)


def settings_of(plan: LinkPlan, version: int | None = None) -> EndSettings:
    """How this end is to behave; ``version`` is that of IP, if it is known where the peer is."""
    return EndSettings(
        connects=plan.connect is not None,
        repair_seconds=plan.repair_seconds,
        keepalive_seconds=plan.keepalive_seconds,
        likely_bytes=likely_bytes(plan, version or version_of(plan)),
        plain=plan.plain,
    )
