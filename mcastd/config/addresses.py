"""Addresses and interfaces in the configuration. See types.py for what all parsers have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from mcastd.config.words import show
from mcastd.ip import Address, Interfaces, Prefix, is_pattern, stays_on_link

# Bytes of an alternative name, with the final NUL, linux/if.h; a first name has up to 16.
ALTIFNAMSIZ = 128
BROADCAST = IPv4Address("255.255.255.255")


def _address(value: object) -> Address | None:
    if not isinstance(value, str | IPv4Address | IPv6Address):
        return None
    try:
        address = ip_address(value)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f'{show(str(value))} has a zone; name the interface by the key "interface" instead')
    return address


def parse_group(value: object) -> Address:
    """A multicast address, RFC 5771 (IPv4) or RFC 4291 section 2.7 (IPv6)."""
    address = _address(value)
    if address is None:
        hint = ""
        if isinstance(value, list | tuple):
            hint = "; one group each: make a table for every one"
        elif isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f.:]+/[0-9]+", value):
            hint = "; a prefix cannot be joined: name one group, and make a table for every one"
        elif isinstance(value, str) and (parts := re.search(r"([0-9]+(?:\.[0-9]+){3}):[0-9]+$", value)):
            hint = f'; the address alone, "{parts[1]}": the port has a key of its own'
        elif isinstance(value, str) and (bare := re.search(r"[0-9]+(\.[0-9]+){3}$", value)):
            hint = f'; the address alone, "{bare[0].lstrip("0")}"'
        raise ValueError(
            f'must be a multicast address like "239.255.1.2" or "ff15::1", not {show(value)}{hint}'
        )
    if not address.is_multicast:
        raise ValueError(f"{address} is not a multicast address (IPv4: 224.0.0.0/4, IPv6: ff00::/8)")
    return address


def _prefix(value: object) -> Prefix | None:
    """An address counts as the prefix that has it alone."""
    try:
        if not isinstance(value, str | IPv4Network | IPv6Network):
            return None
        return ip_network(value)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ValueError(
                f"{show(value)} has bits beyond its length: {ip_network(str(value), strict=False)}?"
            ) from None
        return None


def parse_group_prefix(value: object) -> Prefix:
    """A group, or all groups of a prefix."""
    prefix = _prefix(value)
    if prefix is None:
        raise ValueError(
            f'must be a group, or a prefix of groups like "239.1.0.0/16" or "ff15::/16", not {show(value)}'
        )
    if not prefix.is_multicast:
        raise ValueError(f"{prefix} has other addresses than groups (IPv4: 224.0.0.0/4, IPv6: ff00::/8)")
    if stays_on_link(prefix.network_address) and stays_on_link(prefix.broadcast_address):
        raise ValueError(f"{prefix} stays on its link: no router forwards that")
    return prefix


def parse_source_prefix(value: object) -> Prefix:
    """An address that datagrams come from, or all addresses of a prefix."""
    prefix = _prefix(value)
    if prefix is None:
        raise ValueError(
            f'must be an address, or a prefix like "192.0.2.0/24" or "2001:db8::/32", not {show(value)}'
        )
    if prefix.is_multicast:
        raise ValueError(f"{prefix} is multicast: nothing is ever sent from it")
    return prefix


def format_prefix(prefix: Prefix) -> str:
    return str(prefix.network_address if prefix.prefixlen == prefix.max_prefixlen else prefix)


def parse_address(value: object) -> Address:
    """An address that datagrams went to, multicast or not."""
    if (address := _address(value)) is None:
        raise ValueError(f'must be an address like "239.255.1.2" or "ff15::1", not {show(value)}')
    return address


def parse_source_address(value: object) -> Address:
    """A unicast address that datagrams come from."""
    address = _address(value)
    if address is None:
        raise ValueError(f'must be an address like "192.0.2.10" or "2001:db8::10", not {show(value)}')
    if not is_unicast(address):
        raise ValueError(f"{address} is not a unicast address: nothing is ever sent from it")
    return address


def is_unicast(address: Address) -> bool:
    """Return True if a host can have ``address``."""
    return not (address.is_multicast or address.is_unspecified or address == IPv4Address("255.255.255.255"))


def parse_interface(value: object) -> str:
    """One interface: by a name, also an alternative one, or by a local unicast address."""
    text = value if isinstance(value, str) else ""
    if why := _misread(text):
        raise ValueError(f"{show(text)} {why}")
    if ":" in text or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text):
        address = _address(text)
        if address is None or not is_unicast(address):
            raise ValueError(f"{show(text)} is not an address that an interface can have")
        return str(address)
    if not 0 < len(os.fsencode(text)) < ALTIFNAMSIZ or re.search(r"[\s/\0]", text) or text in {".", ".."}:
        longest = ALTIFNAMSIZ - 1
        raise ValueError(
            f"must be an interface's name (at most {longest} bytes) or its address, not {show(value)}"
        )
    return text


def _misread(text: str) -> str:
    """Why a setting that other programs take for an interface is none here, and what to write; "" if fine."""
    if text in {"any", "*", "0.0.0.0", "::"}:
        return 'is no interface: leave it out for the route to the group; a subscription may say "all"'
    if len(names := re.findall(r"[^,\s]+", text)) > 1:
        return f"is no interface's name; a subscription may say {list_of(names)}"
    if text.startswith("!"):
        return 'leaves one out, which cannot be said: name those that are meant, or a pattern like "eth[!3]"'
    address, zone, name = text.partition("%")
    if zone and name and ":" in address:
        return f"has a zone: write {show(name)} alone"
    if label := re.fullmatch(r"([^@]+)@[^@]+|([^:/]*[g-zG-Z][^:/]*):[^:/]+", text):
        shown = f"is how ip(8) shows it, with the interface below: write {show(label[1])}"
        return (
            shown
            if label[1]
            else f"is the label of an address: write {show(label[2])}, or the address itself"
        )
    network = re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]+", text)
    return "is a network: write the name of the interface, or its address" if network else ""


def list_of(names: Sequence[str]) -> str:
    """``["eth0", "eth1"]``."""
    return f"[{', '.join(map(show, names))}]"


def parse_interfaces(value: object) -> Interfaces:
    """One interface or several: names, addresses, patterns of names like ``"wg*"``, and ``"all"``."""
    several = value if isinstance(value, list | tuple) else [value]
    found = tuple(parse_interface(each) for each in several)
    if not found:
        raise ValueError("must have at least one interface; leave it out for the route to the group")
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"{show(each)} is named twice")
    return found if len(found) > 1 else found[0]


def format_interfaces(interfaces: Interfaces | list[str]) -> str | list[str]:
    """As TOML has them. A table is serialized once by itself, and again in that of its worker (kinds.py)."""
    return interfaces if isinstance(interfaces, str) else list(interfaces)


def parse_one_interface(value: object) -> str:
    """An interface that is one: no list, no pattern and not ``"all"``."""
    several = isinstance(value, list | tuple)
    if several or value == "all" or (isinstance(value, str) and is_pattern(value) and not _misread(value)):
        what = "a list" if several else show(value)
        raise ValueError(f"{what} is for inbound subscriptions; a channel sends on one interface")
    return parse_interface(value)


def interfaces_in(interface: Interfaces | None) -> tuple[str, ...]:
    """The elements of a parsed ``interface``; none if it was left out."""
    if interface is None:
        return ()
    return interface if isinstance(interface, tuple) else (interface,)


@lru_cache(maxsize=4096)
def interface_address(interface: str | None) -> Address | None:
    """The address in a parsed ``interface``, None if it is a name."""
    return _address(interface)


def means_several(interface: Interfaces | None) -> bool:
    """Return True if a parsed ``interface`` may mean several at once."""
    return isinstance(interface, tuple) or (
        interface is not None and (interface == "all" or is_pattern(interface))
    )


def label_of(interface: Interfaces | None) -> str:
    """The label of a parsed ``interface`` in metrics, until a worker knows the name of the interface.

    Empty if the setting is an address, or left out. A list or pattern is its own label.
    """
    if isinstance(interface, tuple):
        return ",".join(interface)
    return interface if interface is not None and interface_address(interface) is None else ""


def parse_metrics(value: object) -> str:
    """Where to serve metrics: ``HOST:PORT``, an IPv6 address in brackets."""
    if isinstance(value, str) and (
        parts := re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})", value)
    ):
        host, port = parts.groups()
        brackets_right = not host.startswith("[") or isinstance(_address(host[1:-1]), IPv6Address)
        if brackets_right and 0 < int(port) <= 65_535:
            return value
    raise ValueError(f'must be an address and port like "127.0.0.1:9465" or "[::1]:9465", not {show(value)}')


def parse_relay(value: object) -> str:
    """Where an AMT relay is asked for: a unicast address, or a name that DNS has."""
    if not isinstance(value, str):
        raise ValueError(f"must be an address or a name, not {show(value)}")  # noqa: TRY004
    address = _address(value)
    if address is not None:
        if address.is_multicast or address.is_unspecified:
            raise ValueError(f"{address} is no address that a relay can have")
        return str(address)
    if not _is_host_name(value):
        raise ValueError(f'must be an address or a name like "amt.example.net", not {show(value)}')
    return value


def parse_host_name(value: object) -> str:
    """A name by which a host is asked for."""
    if not isinstance(value, str) or _address(value) is not None or not _is_host_name(value):
        raise ValueError(f'must be a name like "tv.example.net", not {show(value)}')
    return value.lower().rstrip(".")


def _is_host_name(value: str) -> bool:
    label = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    is_name = re.fullmatch(rf"(?=.{{1,254}}$){label}(?:\.{label})*\.?", value)
    return is_name is not None and re.fullmatch(r"[0-9.]+", value) is None


def split_end(value: str) -> tuple[str, int]:
    """The host of ``HOST:PORT``, without brackets, and the port. Raises ValueError for any other form."""
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= 65_535:
        raise ValueError
    if host.startswith("[") and host.endswith("]"):
        return str(IPv6Address(host[1:-1])), int(port)
    if _address(host) is None and not _is_host_name(host):
        raise ValueError
    if ":" in host:  # an address of IPv6 without brackets, which may as well end in what looks like a port
        raise ValueError
    return host, int(port)


def end_of(address: Address, port: int) -> str:
    """An address and a port, as :func:`split_end` takes them."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_end(value: object) -> str:
    """Another host and a port of it: ``HOST:PORT``, an IPv6 address in brackets."""
    try:
        host, port = split_end(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(
            'must be an address or a name, and a port, like "192.0.2.7:5004", "[2001:db8::7]:5004" or'
            f' "tv.example.net:5004", not {show(value)}'
        ) from None
    try:
        address = ip_address(host)
    except ValueError:  # a name
        return str(value)
    if address.is_multicast or address.is_unspecified or address == BROADCAST:
        way_out = 'a group has kind = "group"' if address.is_multicast else "name the host"
        raise ValueError(f"{address} is no address of a host: {way_out}")
    if isinstance(address, IPv6Address):
        _check_zone(address, port)
    return str(value)


def _check_zone(address: IPv6Address, port: int) -> None:
    """Raises ValueError for a link-local address without its interface, and for another one with it."""
    if address.is_link_local and address.scope_id is None:
        raise ValueError(f'{address} is link-local: name its interface, too, as in "[{address}%eth0]:{port}"')
    if address.scope_id is not None and not address.is_link_local:
        raise ValueError(f"{address} has a zone, and is not link-local: leave that out")


def parse_listen(value: object) -> str:
    """An address of this host, or all of them, and a port."""
    try:
        host, _ = split_end(value if isinstance(value, str) else "")
        address = _address(host)
    except ValueError:
        address = None
    if address is None or address.is_multicast:
        raise ValueError(
            'must be an address of this host and a port, like "127.0.0.1:9000" or "[::]:9000",'
            f" not {show(value)}"
        )
    return str(value)


def require_family(prefixes: Iterable[Prefix], listen: str) -> None:
    """Raises ValueError if one is of another version of IP than a ``HOST:PORT`` that they are to reach."""
    version = ip_address(split_end(listen)[0]).version
    for prefix in prefixes:
        if prefix.version != version:
            raise ValueError(f"{prefix} is IPv{prefix.version}, but listen is IPv{version}")


def may_meet(one: Interfaces | None, other: Interfaces | None) -> bool:
    """Return True if two settings of ``interface`` can mean the same interface."""
    if one is None or other is None:
        return True
    return any(
        "all" in (this, that) or fnmatchcase(this, that) or fnmatchcase(that, this)
        for this in interfaces_in(one)
        for that in interfaces_in(other)
    )
