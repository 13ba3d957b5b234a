"""The network here, as links see it: what is taken from it, and given to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mcastd.ip import Address
from mcastd.protocols.link_control import GroupWant
from mcastd.tunnel.link.step import CarriedRun


class TakenDatagrams(NamedTuple):
    """Datagrams of one sender to one group and port, in order, as they came."""

    source: tuple[Address, int]  # with the port
    group: tuple[Address, int]
    ttl: int  # TTL or hop limit left
    payloads: Sequence[bytes]


class LocalNetwork(Protocol):
    """One interface with what is on it. For one thread."""

    def filenos(self) -> list[int]:
        """To wait on: readable when there is something for :meth:`take`."""

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due, in monotonic seconds; ``inf``: never."""

    def tick(self, now: float) -> bool:
        """Do what is due. Returns True if something else is :meth:`wanted` now."""

    def ask_members(self, wanted: bool, now: float) -> None:
        """Have the members on this network asked what they want, or no more."""

    def wanted(self) -> Sequence[GroupWant]:
        """What the members on this network want, if they are asked."""

    def follow(self, wants: Iterable[GroupWant], now: float) -> None:
        """Take what these say from now on, and nothing else: somebody far away wants it."""

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        """What has come, without what :meth:`give` has sent."""

    def give(self, run: CarriedRun, now: float) -> str:
        """Send datagrams as from their sender. Returns why that was not possible; "" if it was."""

    def close(self) -> None:
        """Take and give nothing any more."""
