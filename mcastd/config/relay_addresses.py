"""Addresses of an AMT relay in the configuration. See types.py for what all parsers have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcastd.config.addresses import end_of, is_unicast, parse_address
from mcastd.config.words import show
from mcastd.ip import Address
from mcastd.protocols import amt


def _any_address(value: object) -> Address | None:
    try:
        return parse_address(value)
    except ValueError:
        return None


def _listened(value: object) -> tuple[Address, int]:
    """An address of this host, with a port or without."""
    text = value if isinstance(value, str) else ""
    parts = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:([0-9]{1,5})|([0-9.]+):([0-9]{1,5})", text)
    host, port = (parts[1] or parts[3], int(parts[2] or parts[4])) if parts else (text, amt.PORT)
    address = _any_address(host.removeprefix("[").removesuffix("]"))
    if address is None or not 0 < port <= 65_535:
        raise ValueError(
            'must be an address like "198.51.100.1", or with a port like "[2001:db8::1]:4268",'
            f" not {show(value)}"
        )
    _check_relay_address(address)
    return address, port


def _check_relay_address(address: Address) -> None:
    if address.is_unspecified:
        raise ValueError(f"{address} is any address: name those that gateways ask at")
    if not is_unicast(address) or (address.version == 6 and address.is_link_local):
        raise ValueError(f"{address} is no address that a relay can have")


def parse_relay_listen(value: object) -> tuple[tuple[Address, int], ...]:
    """Where a relay listens: one address or several, each once."""
    several = value if isinstance(value, list | tuple) else [value]
    found = tuple(one if isinstance(one, tuple) else _listened(one) for one in several)
    if not found:
        raise ValueError("must have at least one address")
    for one in found:
        if found.count(one) > 1:
            raise ValueError(f"{format_end(one)} is named twice")
    return found


def format_end(end: tuple[Address, int]) -> str:
    """An address and port as ``listen`` has them: without the port of AMT."""
    address, port = end
    return str(address) if port == amt.PORT else end_of(address, port)


def format_listen(ends: Sequence[tuple[Address, int]]) -> str | list[str]:
    found = list(map(format_end, ends))
    return found[0] if len(found) == 1 else found


def parse_relay_addresses(value: object) -> tuple[Address, ...]:
    """Addresses of a relay: one of each IP version at most."""
    several = value if isinstance(value, list | tuple) else [value]
    found: list[Address] = []
    for one in several:
        address = _any_address(one)
        if address is None:
            raise ValueError(f'must be an address like "198.51.100.1", not {show(one)}')
        _check_relay_address(address)
        if any(other.version == address.version for other in found):
            raise ValueError(f"{address} is the second of IPv{address.version}: gateways are told one")
        found.append(address)
    return tuple(found)


def format_relay_addresses(addresses: Sequence[Address]) -> str | list[str]:
    found = list(map(str, addresses))
    return found[0] if len(found) == 1 else found
