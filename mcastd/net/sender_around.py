"""A Sender around another one, as a protocol is that adds to the datagrams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcastd.net.link import DatagramFlow, Sender
from mcastd.net.payloads import Payloads
from mcastd.status import SenderDescription


class SenderAround:
    """A Sender that hands all on to another one: a protocol overrides what it does otherwise."""

    def __init__(self, link: Sender) -> None:
        self._link = link

    def send(self, payloads: Payloads) -> int:
        return self._link.send(payloads)

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        """Nothing: what a protocol adds to datagrams is not in the buffers."""
        return None

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        """Never called: nothing is prepared."""

    def skip(self, count: int) -> None:
        self._link.skip(count)

    @property
    def deadline(self) -> float:
        return self._link.deadline

    def tick(self, now: float) -> None:
        self._link.tick(now)

    @property
    def held(self) -> int:
        return self._link.held

    def network_changed(self) -> None:
        self._link.network_changed()

    def describe(self) -> SenderDescription:
        return self._link.describe()

    def flows(self) -> Sequence[DatagramFlow]:
        return self._link.flows()

    @property
    def carrier(self) -> bool:
        return self._link.carrier

    @property
    def sending(self) -> str:
        return self._link.sending

    def close(self) -> None:
        self._link.close()
