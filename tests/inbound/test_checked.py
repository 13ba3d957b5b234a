"""payload = "ts": what comes is checked, goes on unchanged, and is told in status, books and state."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.audited import Audited
from support.subscription import Run, file_output
from support.transport import Multiplex
from support.wait import wait_for

from mcastd.codec import from_json
from mcastd.config import InboundProtocol, InboundSubscription, RawInbound, RtpInbound
from mcastd.counters import TransportCheck
from mcastd.inbound.checked import CheckedSequencer
from mcastd.inbound.legs import LegsSequencer
from mcastd.inbound.matching import MatchingSequencer
from mcastd.inbound.merging import MergingSequencer
from mcastd.inbound.protocols import make_protocol
from mcastd.net.legs import LegBatch
from mcastd.net.link import Batch, ListBatch, Metadata
from mcastd.status import SubscriptionStatus
from mcastd.worker import Books, Signal, TransportBooks, WorkerIdentity

GROUP, SENDER = "239.255.1.2", "192.0.2.7"
SSRC = 0x01020304


def in_rtp(datagrams: Sequence[bytes], first: int = 65_530) -> list[bytes]:
    heads = [
        struct.pack(">BBHII", 0x80, 33, (first + number) % 65_536, number, SSRC)
        for number in range(len(datagrams))
    ]
    return [head + datagram for head, datagram in zip(heads, datagrams, strict=True)]


class Checking:
    """The protocol of a subscription that has its payload checked, under audit."""

    def __init__(self, protocol: InboundProtocol) -> None:
        dropped: Counter[str] = Counter()
        config = InboundSubscription(group=GROUP, port=9190, output="/x", protocol=protocol, payload="ts")
        made = make_protocol(config, dropped, "inbound/tv")
        assert isinstance(made, CheckedSequencer)
        self.sequencer, self.dropped = made, dropped
        self.audited = Audited(made, dropped)

    def feed(self, *datagrams: bytes) -> list[Batch]:
        return self.audited.feed(ListBatch(datagrams, addresses=[SENDER] * len(datagrams)))

    @property
    def errors(self) -> dict[str, int]:
        return {check: count for check, count in self.sequencer.analysis.counters.errors.items() if count}


def test_each_measure_has_its_own_place_in_status_and_books() -> None:
    sequencer = CheckedSequencer("raw", None, now=lambda: 50.0)
    analysis = sequencer.analysis
    clocks, delivery = analysis.clocks, analysis.delivery
    analysis.heard, analysis.loss_rate = 50.0, 1.5
    clocks.bit_rate, clocks.jitter, clocks.most_jitter = 2e6, 0.003, 0.004
    delivery.bit_rate, delivery.delay_factor, delivery.most_delay_factor = 5e6, 0.006, 0.007
    ts = sequencer.describe(from_json(SubscriptionStatus, {})).ts
    assert ts is not None
    assert (ts.rate, ts.clock_rate, ts.loss_rate) == (5_000_000, 2_000_000, 1.5)
    measured = ts.clock_jitter_ms, ts.most_clock_jitter_ms, ts.delay_factor_ms, ts.most_delay_factor_ms
    assert measured == (3.0, 4.0, 6.0, 7.0)
    books = sequencer.enter(Books(WorkerIdentity(GROUP, 9190, "eth0"), None, None))
    assert books.ts == TransportBooks(analysis.counters, 5e6, 0.003, 0.006)


@pytest.mark.parametrize(
    ("protocol", "merge", "kind"),
    [(RtpInbound(jitter=False), "sequence", MergingSequencer), (RawInbound(), "payload", MatchingSequencer)],
)
def test_what_legs_make_one_is_checked_as_one(
    protocol: InboundProtocol, merge: str, kind: type[LegsSequencer]
) -> None:
    legs = [{"group": GROUP, "port": 9190}, {"group": "239.255.1.3", "port": 9191}]
    config = InboundSubscription.model_validate(
        {"legs": legs, "merge": merge, "output": "/x", "protocol": protocol, "payload": "ts"}
    )
    assert config.needs_metadata
    dropped: Counter[str] = Counter()
    made = make_protocol(config, dropped, "inbound/tv")
    assert isinstance(made, CheckedSequencer)
    merging = made._protocol
    assert isinstance(merging, kind)
    merging._now = lambda: 100.0  # however long this machine takes, it is at once
    if isinstance(merging, MergingSequencer):
        for place in merging._places.values():
            place.order._now = lambda: 100.0
    made.hold_back(config.hold_back)
    audited = Audited(made, dropped)
    datagrams = [*Multiplex().datagrams(60)]
    came = datagrams if merge == "payload" else in_rtp(datagrams)
    lost = ({7, 20, 21}, {9, 33})  # by each leg
    for begin in range(0, 60, 5):
        for leg, sender in enumerate(("192.0.2.7", "192.0.2.8")):
            some = [came[number] for number in range(begin, begin + 5) if number not in lost[leg]]
            # Copies are told by the kernel's times, however long this test takes
            times = [10**18] * len(some) if merge == "payload" else ()
            audited.feed(LegBatch(ListBatch(some, times=times, addresses=[sender] * len(some)), leg))
    audited.expire(math.inf)
    assert made.analysis.counters.packets == 420
    if merge == "sequence":  # else the order is that of arrival
        assert not made.analysis.counters.errors.total()


def test_a_batch_goes_on_as_it_is() -> None:
    checking = Checking(RawInbound())
    batch = ListBatch([*Multiplex().datagrams(20), b"text"], addresses=[SENDER] * 21)
    assert checking.audited.feed(batch) == [batch], "the same, whatever is in it"
    assert checking.errors == {TransportCheck.DATAGRAM: 1}
    assert checking.sequencer.analysis.counters.packets == 140
    assert (checking.sequencer.deadline, checking.sequencer.held) == (math.inf, 0)
    assert checking.sequencer.reasons == ()


def test_of_rtp_it_is_what_goes_on_that_is_checked() -> None:
    datagrams = in_rtp([*Multiplex().datagrams(40)])
    came = [*datagrams[:10], datagrams[12], datagrams[11], datagrams[10], datagrams[10], *datagrams[13:]]
    plain = Checking(RtpInbound())
    given = [one for batch in plain.feed(*came) for one in batch.payloads]
    assert len(given) == 40, "each once"
    assert plain.errors[TransportCheck.CONTINUITY] > 0
    ordered = Checking(RtpInbound())
    ordered.sequencer.hold_back(1.0)
    held = ordered.feed(*came[:11])
    assert ordered.sequencer.held == 1
    assert ordered.sequencer.deadline < math.inf
    rest = ordered.feed(*came[11:])
    assert [bytes(one) for batch in (*held, *rest) for one in batch.payloads] == datagrams
    assert (ordered.errors, ordered.dropped) == ({}, {"duplicate": 1})
    assert ordered.sequencer.analysis.counters.packets == 280


def test_what_is_held_to_the_end_is_checked_when_it_goes_on() -> None:
    checking = Checking(RtpInbound())
    datagrams = in_rtp([*Multiplex().datagrams(12)])
    checking.sequencer.hold_back(5.0)
    checking.feed(*datagrams[:5], *datagrams[6:])
    assert checking.sequencer.analysis.counters.packets == 35
    checking.audited.expire(math.inf)
    assert checking.sequencer.analysis.counters.packets == 77
    assert checking.errors[TransportCheck.CONTINUITY] >= 1


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=400), st.integers(0, 39)), max_size=30),
    st.sampled_from([RawInbound(), RtpInbound()]),
)
def test_whatever_comes_is_accounted_for(parts: list[bytes | int], protocol: InboundProtocol) -> None:
    good = in_rtp([*Multiplex().datagrams(40)])
    checking = Checking(protocol)
    for begin in range(0, len(parts), 4):
        some = [good[one] if isinstance(one, int) else one for one in parts[begin : begin + 4]]
        checking.feed(*some)
    checking.audited.expire(math.inf)
    assert checking.audited.fed == checking.audited.given + checking.dropped.total()


def look(run: Run) -> SubscriptionStatus:
    return run.worker.status()


def test_a_subscription_whose_stream_is_none_is_degraded_until_one_comes(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    path, mux = tmp_path / "tv.ts", Multiplex()
    run = make_run(file_output(path), payload="ts")
    link = run.start()
    assert link.metadata is Metadata.ALL, "arrivals are the kernel's"
    noise = in_rtp([*Multiplex().datagrams(3)])
    link.deliver(*noise)
    wait_for(lambda: run.context.degraded, "degraded")
    assert "no transport stream" in run.context.detail
    assert 'protocol = "rtp"' in run.context.detail
    good = [*mux.datagrams(10)]
    link.deliver(*good)
    wait_for(lambda: not run.context.degraded, "well again")
    wait_for(lambda: run.worker.books().ts.counters.packets == 70)  # type: ignore[union-attr]
    ts = look(run).ts
    assert ts is not None
    assert (ts.trouble, ts.counters.errors["Datagram_error"]) == (None, 3)
    assert ts.last_error_ages.keys() >= {"Datagram_error", "TS_sync_loss"}
    assert {one.pid for one in ts.pids} >= {0, mux.VIDEO}
    assert [(one.number, one.map_pid) for one in ts.programs] == [(mux.PROGRAM, mux.MAP)]
    run.stop()
    assert path.read_bytes() == b"".join([*noise, *good]), "what is wrong is written, too"


def test_it_is_checked_from_a_reload_on_and_not_after_another(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "tv.ts"))
    link, mux = run.start(), Multiplex()
    assert look(run).ts is None
    assert run.worker.books().ts is None
    for payload in ("ts", None):
        config = InboundSubscription(
            group=GROUP, port=9190, output=file_output(tmp_path / "tv.ts"), payload=payload
        )
        changes = link.network_changes
        assert run.worker.update(config)
        run.context.send(Signal.NETWORK)
        wait_for(lambda: link.network_changes > changes, "taken over")  # noqa: B023
        link.deliver(*mux.datagrams(20))
        run.received(20 if payload else 40)
        ts = look(run).ts
        assert (ts is not None) == (payload is not None)
        if ts is not None:
            assert ts.counters.packets == 140
            assert ts.programs[0].pids == (mux.VIDEO, mux.AUDIO)
            assert {one.pid: one.type for one in ts.pids}[mux.VIDEO] == 0x1B
    assert not link.metadata


@pytest.mark.parametrize("protocol", ["moldudp64", {"kind": "sequence", "offset": 0, "size": 2}])
def test_where_nobody_knows_where_the_payload_is_it_is_refused(protocol: object) -> None:
    with pytest.raises(ValidationError, match='set protocol to "raw" or "rtp"'):
        InboundSubscription.model_validate(
            {"group": "239.1.1.1", "port": 1, "output": "/x", "protocol": protocol, "payload": "ts"}
        )


def test_it_knows_transport_streams_alone() -> None:
    with pytest.raises(ValidationError, match="ts"):
        InboundSubscription(group="239.1.1.1", port=1, output="/x", payload="mp4")
