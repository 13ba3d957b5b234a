"""The outputs of a subscription together: what a change and the end cost them."""

from __future__ import annotations

from collections.abc import Callable

from mcastd import log
from mcastd.config import OutputSettings, UdpOutput
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.sinks import Sink
from mcastd.inbound.sinks.account import Account
from mcastd.net.link import Batch


class Hung(Sink):
    """It has one datagram, which nobody takes."""

    may_queue = True

    def __init__(self, settings: OutputSettings, did: Callable[..., None]) -> None:
        super().__init__(Account(settings, log.get_logger()))
        self.counters.queued = 1
        self._did = did

    def write(self, batch: Batch) -> None:
        raise AssertionError

    def take_over(self, before: Sink) -> bool:
        assert isinstance(before, Hung)
        self._did("take over")
        self.counters.queued, before.counters.queued = 1, 0
        return True

    def flush(self) -> None:
        self._did("flush")

    def linger(self, until: float) -> None:
        self._did("linger", until)

    def close(self, *, for_good: bool = False) -> None:
        self._did("close", for_good)


def make(did: list[tuple[object, ...]], *wanted: OutputSettings) -> Outputs:
    return Outputs(lambda settings: Hung(settings, lambda *what: did.append(what)), wanted, log.get_logger())


ONE, TWO = UdpOutput(to="192.0.2.1:5"), UdpOutput(to="192.0.2.2:5")


def test_all_have_the_time_of_one_at_the_end() -> None:
    did: list[tuple[object, ...]] = []
    make(did, ONE, TWO).close()
    assert [what[0] for what in did] == ["flush", "flush", "linger", "linger", "close", "close"]
    assert did[2] == did[3], "until the same moment"


def test_what_one_holds_goes_to_the_next_of_its_label() -> None:
    did: list[tuple[object, ...]] = []
    outputs = make(did, ONE, TWO)
    outputs.change([ONE.model_copy(update={"queue": 4096})], received=2)
    assert did == [("take over",), ("flush",), did[2], ("close", False), ("close", True)]
    assert did[2][0] == "linger", "of the one that has no successor"
