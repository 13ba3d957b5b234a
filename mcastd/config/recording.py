"""Recordings that are sent again, in the configuration.

See types.py for what all parsers have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcastd.config.addresses import parse_address
from mcastd.config.numbers import whole_number
from mcastd.config.words import show
from mcastd.ip import Address

SPEED_MIN, SPEED_MAX = 0.001, 1000

_parse_port = whole_number(1, 65_535)


@dataclass(frozen=True, slots=True)
class StreamSelection:
    """Which stream of a recording is wanted, by where it went to."""

    group: Address | None = None  # multicast or not; None: any
    port: int | None = None  # None: any

    @property
    def address(self) -> bytes | None:
        """The group in 4 or 16 bytes."""
        return None if self.group is None else self.group.packed


def parse_selection(value: object) -> StreamSelection:
    """A table with a group, a port, or both."""
    if isinstance(value, StreamSelection):
        return value
    if not isinstance(value, dict) or not value or not value.keys() <= {"group", "port"}:
        raise ValueError(
            'must be a table of group and port, as { group = "239.255.1.2", port = 9190 },'
            f" not {show(value)}"
        )
    group, port = value.get("group"), value.get("port")
    return StreamSelection(
        None if group is None else parse_address(group), None if port is None else _parse_port(port)
    )


def format_selection(selection: StreamSelection) -> dict[str, object]:
    """As TOML has it."""
    said = {"group": None if selection.group is None else str(selection.group), "port": selection.port}
    return {key: value for key, value in said.items() if value is not None}


def parse_speed(value: object) -> float:
    """How many times as fast as it was recorded."""
    if isinstance(value, int | float) and not isinstance(value, bool) and SPEED_MIN <= value <= SPEED_MAX:
        return float(value)
    raise ValueError(f"must be a number from {SPEED_MIN:g} to {SPEED_MAX}, not {show(value)}")
