"""The network here, as links see it: what is taken from it, and given to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mcastd.ip import Address, SourceFilter
from mcastd.protocols.link_control import GroupWant
from mcastd.status import QuerierStatus
from mcastd.tunnel.link.step import CarriedRun

# Reasons for which the network here does not take a datagram.
NO_INTERFACE = "no-interface"
QUEUE_FULL = "full"
REFUSED = "refused"


class TakenDatagrams(NamedTuple):
    """Datagrams of one sender to one group and port, in order, as they came."""

    source: tuple[Address, int]  # with the port
    group: tuple[Address, int]
    ttl: int  # TTL or hop limit left
    payloads: Sequence[bytes]


class GivenDatagrams(NamedTuple):
    """What became of datagrams that were given to the network here."""

    taken: int  # the first ones
    reason: str = ""  # why it did not take the rest
    trouble: str = ""  # the same in words


@dataclass(slots=True)
class NetworkCounts:
    """What was not taken from a network here. It outlives the links that are for it."""

    dropped: Counter[str] = field(default_factory=Counter)  # packets that came, by reason
    overflow: int = 0  # packets that the kernel dropped at full receive buffers


class LocalNetwork(Protocol):
    """One interface with what is on it. For one thread, but for what is for any."""

    @property
    def counts(self) -> NetworkCounts:
        """For any thread."""

    @property
    def troubles(self) -> Sequence[str]:
        """What cannot be had, and why, in words. For any thread."""

    def joined(self) -> Mapping[Address, SourceFilter]:
        """The groups that are joined for peers. For any thread."""

    def taken(self) -> Sequence[GroupWant]:
        """What is taken for peers by now, of what :meth:`follow` says. For any thread."""

    def queriers(self) -> Sequence[QuerierStatus]:
        """Who asks the members here, if they are asked. For any thread."""

    def filenos(self) -> list[int]:
        """To wait on: readable when there is something for :meth:`take`."""

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due, in monotonic seconds; ``inf``: never."""

    def tick(self, now: float) -> bool:
        """Do what is due. Returns True if something else is :meth:`wanted` now."""

    def network_changed(self, now: float) -> None:
        """Interfaces or addresses of this host are others: compare what is there with what should be."""

    def ask_members(self, wanted: bool, now: float) -> None:
        """Have the members on this network asked what they want, or no more."""

    def wanted(self) -> Sequence[GroupWant]:
        """What the members on this network want, if they are asked."""

    def follow(self, wants: Iterable[GroupWant], now: float) -> None:
        """Take what these say from now on, and nothing else: somebody far away wants it."""

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        """What has come, without what :meth:`give` has sent."""

    def give(self, run: CarriedRun, now: float) -> GivenDatagrams:
        """Send datagrams as from their sender."""

    def close(self) -> None:
        """Take and give nothing any more."""
