"""How datagrams to a group leave, and from which address: as the kernel chooses, and where it needs help.

The kernel knows scopes, secondary, deprecated, tentative and temporary addresses (RFC 6724) and the `src` of
routes, so it is asked, whenever something changes: `ip route get GROUP oif INTERFACE` asks the same. But told
an interface, it does not look at the `src` of an IPv4 route; it takes an address of 169.254.0.0/16 for one
like others, unless its scope says otherwise; and for an interface without any it borrows another's.
"""

from __future__ import annotations

from mcastd.ip import Address
from mcastd.net.interfaces import Host, Interface
from mcastd.net.routes import NO_ROUTE, Route


def source_address(host: Host, interface: Interface, group: Address, *, routed: bool) -> Address | None:
    """The address to send to ``group`` from by ``interface``; None if there is none yet.

    ``routed``: the interface is that of the route to the group, not one that was named.
    """
    own = [address for address in interface.addresses if address.version == group.version]
    if interface.loopback:  # the kernel takes a foreign address before 127.0.0.1, whose scope is the host
        return own[0] if own else None
    if group.version == 4:
        configured = host.routes.to(group, by=interface.index, as_added=True)
        if configured.source is not None:
            return configured.source
    source = host.routes.to(group, by=0 if routed and group.version == 4 else interface.index).source
    if source is None:
        return own[0] if own else None
    if group.version == 4 and source.is_link_local:  # RFC 3927 section 2.6.1
        return next((address for address in own if _is_wide(address)), source)
    if routed or source in own or _is_of_loopback(source, host):
        return source
    # Borrowed from another interface, if this has none; else so new that ``host`` does not know it yet
    return own[0] if own else None


def route_out(host: Host, interface: Interface, group: Address, *, routed: bool) -> Route:
    """The kernel's route for datagrams to an IPv4 group; NO_ROUTE if it has no say, as on the loopback.

    Its gateway counts, unless it is a default route, and its MTU. Of IPv6 each change of a route makes
    another edition of the interface; a gateway in its table of local routes, where nobody puts one as a
    rule, still gets the datagrams alone.
    """
    if group.version == 6 or interface.loopback:
        return NO_ROUTE
    return host.routes.to(group, by=0 if routed else interface.index)


def _is_wide(address: Address) -> bool:
    return not (address.is_link_local or address.is_loopback)


def _is_of_loopback(address: Address, host: Host) -> bool:
    """An interface without an address of its own, on a host that has its address on lo, is unnumbered."""
    return any(address in one.addresses for one in host.interfaces.values() if one.loopback)
