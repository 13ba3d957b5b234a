"""Where the ends of a link are, in the configuration. See types.py for what all parsers have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from mcastd.config.addresses import (
    end_of,
    format_prefix,
    is_unicast,
    parse_address,
    parse_group_prefix,
    parse_interface,
    split_end,
)
from mcastd.config.words import show
from mcastd.ip import Address, Prefix, is_pattern
from mcastd.protocols.link_messages import PORT

LISTEN = '"0.0.0.0", "[::]:9466" or "198.51.100.1:9467"'
CONNECT = '"hub.example.net", "198.51.100.1:9467" or "[2001:db8::1]:9466"'


def _split(value: object) -> tuple[str, int]:
    """Host and port, which is that of links if there is none. Raises ValueError."""
    text = value if isinstance(value, str) else ""
    bare = text.removeprefix("[").removesuffix("]") if re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", text) else text
    if ":" not in bare or (bare.count(":") > 1 and _is_address(bare)):
        return split_end(f"[{bare}]:{PORT}" if ":" in bare else f"{bare}:{PORT}")
    return split_end(text)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_link_listen(value: object) -> tuple[Address, int]:
    """An address of this host, or that of all, with a port or without."""
    if isinstance(value, tuple):
        return value
    try:
        host, port = _split(value)
        address = parse_address(host)
    except ValueError:
        raise ValueError(
            f"must be an address of this host, with a port or without, like {LISTEN}, not {show(value)}"
        ) from None
    if not (address.is_unspecified or is_unicast(address)) or (
        address.version == 6 and address.is_link_local
    ):
        raise ValueError(f"{address} is no address that a peer can send to")
    return address, port


def format_link_listen(end: tuple[Address, int] | None) -> str | None:
    """As the configuration has it: without the port of links."""
    return None if end is None else format_link_end(str(end[0]), end[1])


def parse_link_connect(value: object) -> tuple[str, int]:
    """The peer: a name or an address, with a port or without."""
    if isinstance(value, tuple):
        return value
    try:
        host, port = _split(value)
    except ValueError:
        raise ValueError(
            f"must be a name or an address, with a port or without, like {CONNECT}, not {show(value)}"
        ) from None
    if _is_address(host):
        address = ip_address(host)
        if not is_unicast(address) or (address.version == 6 and address.is_link_local):
            raise ValueError(f"{address} is no address that a peer can have")
    return host, port


def format_link_connect(end: tuple[str, int] | None) -> str | None:
    return None if end is None else format_link_end(*end)


def format_link_end(host: str, port: int) -> str:
    """A host, and a port if it is another one than that of links."""
    if port == PORT:
        return host
    return end_of(ip_address(host), port) if _is_address(host) else f"{host}:{port}"


def parse_link_interface(value: object) -> str:
    """An interface that is one."""
    if isinstance(value, list | tuple) or value == "all" or (isinstance(value, str) and is_pattern(value)):
        what = show(value) if isinstance(value, str) else "a list"
        raise ValueError(f"{what} may be several, and a link is for one: make a link for each")
    return parse_interface(value)


# -- what is wanted

# What members on the network here want, and what subscriptions of the daemon do.
MEMBERS, CONFIG = "members", "config"


def parse_link_wants(value: object) -> tuple[Prefix | str, ...]:
    """Groups and prefixes, and the words that stand for what others want."""
    several = value if isinstance(value, list | tuple) else [value]
    found = tuple(map(_wanted, several))
    for one in found:
        if found.count(one) > 1:
            raise ValueError(f"{_written(one)} is named twice")
    return found


def _wanted(value: object) -> Prefix | str:
    if value in (MEMBERS, CONFIG):
        return str(value)
    if not _is_prefix(value):
        raise ValueError(
            f'must be a group, a prefix of groups like "239.1.0.0/16", "{MEMBERS}" or "{CONFIG}", or an array'
            f" of these, not {show(value)}"
        )
    return parse_group_prefix(value)


def _is_prefix(value: object) -> bool:
    if not isinstance(value, str | IPv4Network | IPv6Network):
        return False
    try:
        ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def format_link_wants(wants: Sequence[Prefix | str]) -> str | list[str]:
    found = list(map(_written, wants))
    return found[0] if len(found) == 1 else found


def _written(want: Prefix | str) -> str:
    return want if isinstance(want, str) else format_prefix(want)
