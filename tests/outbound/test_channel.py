"""The worker over an in-memory link: all goes out, once, in order, whatever the link and the source do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.channel import running
from support.wait import wait_for

from mcastd import clock
from mcastd.codec import as_json
from mcastd.config import OutboundChannel
from mcastd.errors import LinkError, SourceError
from mcastd.net.fake import FakeSender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.channel import Channel
from mcastd.outbound.framing import EVEN_CHUNKS
from mcastd.outbound.legs import Leg, Legs
from mcastd.outbound.outlet import BATCH_DATAGRAMS
from mcastd.outbound.pacing import READ_BYTES, STALL_SECONDS
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import open_source
from mcastd.status import SenderDescription
from mcastd.worker import Context, Signal, Vitals

TEXT = b"".join(b"line %d\n" % number for number in range(1000))
LINES = TEXT.splitlines(keepends=True)


NOW = 1000.0  # monotonic seconds, where time stands still
# For tests that replace the clock or the waits of the channel's own thread.
ALONE = pytest.mark.parametrize("bench", ["alone"], indirect=True)


class Bench:
    """A channel, its link, and the thread that it runs in."""

    def __init__(
        self,
        path: Path,
        link: FakeSender | None = None,
        shared: SharedSender | None = None,
        **settings: Any,
    ) -> None:
        self.link = link or FakeSender()
        if "rate" not in settings:
            settings.setdefault("interval", 0)
        self.config = OutboundChannel(source=path, group="239.255.1.2", port=9190, **settings)
        source = open_source(self.config)
        self.channel = Channel("outbound/news", self.config, self._open, source, shared=shared)
        self.opened = 0

    def _open(self, _: OutboundChannel) -> FakeSender:
        self.opened += 1
        self.link.closed = False
        return self.link

    def run(self) -> None:
        """One run, to its end, in this thread."""
        context = Context().open()
        try:
            self.channel.run(context)
        finally:
            context.close()

    @contextmanager
    def running(self, failing: str = "") -> Iterator[Context]:
        """A run in another thread: told to stop at the end, or failing by itself, with that text."""
        with running(self.channel) as run:
            yield run.context
            wait_for(lambda: run.failures or not failing, f"failing: {failing}")
        assert self.link.closed
        assert failing in str(run.failures) if failing else not run.failures, run.failures

    def wait_sent(self, count: int) -> None:
        wait_for(lambda: len(self.link.sent) >= count, f"{count} datagrams")


@contextmanager
def recording_waits(stop_after: int) -> Iterator[tuple[Context, list[float | None]]]:
    """A context that notes how long each wait may be, and then stops the worker. Time stands still."""
    context, waits = Context().open(), []
    really_wait = context.wait

    def note(seconds: float | None) -> None:
        waits.append(seconds)
        if len(waits) == stop_after:
            context.send(Signal.STOP)

    def wait(timeout: float | None = None) -> dict[int, int]:
        note(timeout)
        return really_wait(timeout)

    def sleep_until(deadline: float) -> bool:
        note(round(deadline - NOW, 6))
        return True

    context.wait = wait  # type: ignore[method-assign]
    context.sleep_until = sleep_until  # type: ignore[method-assign]
    with mock.patch.object(clock, "monotonic", return_value=NOW):
        yield context, waits
    context.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "news.txt"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def shared(no_fd_leak: None) -> Iterator[SharedSender]:
    shared = SharedSender()
    yield shared
    shared.close()


@pytest.fixture(params=["alone", "with others"])
def bench(request: pytest.FixtureRequest, path: Path, shared: SharedSender) -> Iterator[Callable[..., Bench]]:
    """Channels; each test runs with those that send for themselves, and with the shared sender."""
    benches: list[Bench] = []

    def make(source: Path = path, **settings: Any) -> Bench:
        with_others = request.param == "with others"
        benches.append(Bench(source, shared=shared if with_others else None, **settings))
        return benches[-1]

    yield make
    for made in benches:
        made.channel.close()


def test_once_and_finished(bench: Any) -> None:
    it = bench()
    assert repr(it.channel) == "<Channel outbound/news alone, sent 0, late 0>"
    it.run()
    assert it.link.sent == LINES
    counters = it.channel.counters
    assert (counters.sent, counters.sent_bytes, counters.rounds) == (len(LINES), len(TEXT), 1)
    assert it.link.closed


@pytest.mark.parametrize("repeat", [1, 2, 5])
@pytest.mark.parametrize("text", [b"one\n", b"no newline", b"one\ntwo\nend"])
def test_repeat_sends_each_piece_that_often(bench: Any, path: Path, repeat: int, text: bytes) -> None:
    path.write_bytes(text)
    it = bench(repeat=repeat)
    it.run()
    assert it.link.sent == text.splitlines(keepends=True) * repeat
    assert it.channel.counters.rounds == repeat


def test_started_again_after_it_finished_it_sends_all_again(bench: Any, path: Path) -> None:
    it = bench(repeat=2)
    for rounds in (2, 4, 6):
        it.run()
        assert it.link.sent == LINES * rounds
        assert it.channel.counters.rounds == rounds
    it.channel.close()
    it.run()
    assert it.link.sent == LINES * 8


def test_finished_holds_no_memory_and_no_file(bench: Any) -> None:
    it = bench()
    fds = os.listdir("/proc/self/fd")
    it.run()
    assert it.channel._outlet._pending == []
    assert os.listdir("/proc/self/fd") == fds


def test_lines_are_split_for_the_textbook_receiver(bench: Any, path: Path) -> None:
    path.write_bytes(b"x" * 60 + b"\nshort\n")
    it = bench(max_datagram=29)
    it.run()
    assert [len(payload) for payload in it.link.sent] == [29, 29, 3, 6]
    assert it.channel.counters.lines_split == 1


class Moody(FakeSender):
    """Takes what its moods allow, in turn: a number of datagrams, or none and an errno (negative)."""

    def __init__(self, moods: list[int]) -> None:
        super().__init__()
        self.moods = moods

    def send(self, payloads: Any) -> int:
        mood = self.moods.pop(0) if self.moods else len(payloads)
        if mood < 0:
            self.errors.append(-mood)
        return super().send(payloads[: max(0, mood)] if mood >= 0 else payloads)


moods = st.lists(
    st.one_of(
        st.integers(0, BATCH_DATAGRAMS),
        st.sampled_from([-errno.ENETUNREACH, -errno.EPERM, -errno.ENODEV, -errno.EIO]),
    ),
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(moods=moods, repeat=st.integers(1, 3), size=st.integers(1, 200))
def test_nothing_is_lost_or_sent_twice(
    tmp_path_factory: pytest.TempPathFactory, moods: list[int], repeat: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("moody") / "news.txt"
    path.write_bytes(b"".join(LINES[:size]))
    refusals = sum(mood < 0 for mood in moods)
    it = Bench(path, Moody(list(moods)), repeat=repeat)
    finished = False
    failed = 0
    while not finished:
        try:
            it.run()
            finished = True
        except LinkError:
            failed += 1
            assert it.link.closed
    assert it.link.sent == LINES[:size] * repeat
    assert failed == sum(it.channel.counters.refused.values())
    assert failed <= refusals
    assert it.channel.counters.sent == len(it.link.sent)


def test_the_payloads_learn_what_is_done_with(path: Path) -> None:
    """Also what was dropped: it will never be asked for again."""
    gone: list[int] = []

    class Watched(ListPayloads):
        def gone(self, count: int) -> None:
            gone.append(count)

    it = Bench(path, framing="chunk", max_datagram=100, interval=0)
    read = it.channel._source.read
    it.channel._source.read = lambda: Watched(read())  # type: ignore[method-assign]
    it.link.largest = 99  # all but the last one are too long
    it.run()
    assert sum(gone) == -(-len(TEXT) // 100)
    assert it.channel.counters.dropped["too-big"] == sum(gone) - 1


def test_a_read_that_gives_little_does_not_have_the_next_go_in_small_pieces(path: Path) -> None:
    """As a description of files between their symbols."""
    given = [ListPayloads([b"%d" % size] * size) for size in (1, 400, 2, 300)]
    it = Bench(path, interval=0)
    source, sent, send = it.channel._source, [], it.link.send

    def read() -> ListPayloads:
        source.finished = len(given) <= 1
        return given.pop(0) if given else ListPayloads()

    def note(payloads: Payloads) -> int:
        sent.append(len(payloads))
        return send(payloads)

    source.read = read  # type: ignore[method-assign]
    it.link.send = note  # type: ignore[method-assign]
    it.run()
    assert sent == [1, 400, 2, 300]


def test_a_file_that_shrinks_counts_what_went(bench: Any, path: Path) -> None:
    """In chunks: what was not read yet is not sent, and not counted."""
    size = 1000
    path.write_bytes(b"a" * 4000 * size)  # more than is read at once
    it = bench(framing="chunk", max_datagram=size)
    it.link.room = 3
    with it.running():
        it.wait_sent(3)
        os.truncate(path, 2000 * size + 500)
        it.link.room = None
        wait_for(lambda: it.channel.counters.rounds == 1)
    counters = it.channel.counters
    assert (counters.sent, counters.sent_bytes) == (len(it.link.sent), sum(map(len, it.link.sent)))
    assert counters.sent_bytes == 2000 * size + 500


def test_a_full_link_is_tried_again(bench: Any) -> None:
    it = bench()
    it.link.room = 100
    with it.running():
        it.wait_sent(100)
        for _ in range(9):
            it.link.room = 100
            it.wait_sent(len(it.link.sent) + 100)
    assert it.link.sent == LINES


@ALONE
def test_a_full_link_is_left_alone_ever_longer(bench: Any) -> None:
    it = bench()
    it.link.room = 0
    with recording_waits(stop_after=10) as (context, waits):
        it.channel.run(context)
    assert waits[:3] == [0.001, 0.002, 0.004]
    assert waits[-2:] == [0.064, 0.064]


def test_a_link_that_takes_some_is_tried_again_soon(path: Path) -> None:
    it = Bench(path, Moody([0, 0, 5, 0]))
    with recording_waits(stop_after=5) as (context, waits):
        it.channel.run(context)
    assert waits == [0.001, 0.002, 0.001, 0.002, 0.0]
    it.channel.close()


@pytest.mark.parametrize("pace", [{"rate": 50_000_000}, {"interval": 1e-5}], ids=str)
def test_paced_it_sends_all_just_the_same(bench: Any, pace: dict[str, Any]) -> None:
    it = bench(**pace)
    it.run()
    assert it.link.sent == LINES


def test_refusals_are_counted_by_name(bench: Any) -> None:
    it = bench()
    it.link.errors.extend([errno.ENETUNREACH, errno.ENETUNREACH, errno.EPERM])
    for _ in range(3):
        with pytest.raises(LinkError):
            it.run()
    it.run()
    assert it.channel.counters.refused == {"ENETUNREACH": 2, "EPERM": 1}
    assert it.link.sent == LINES
    assert it.opened == 4


def test_what_is_too_big_is_dropped_and_the_rest_goes_on(bench: Any, path: Path) -> None:
    path.write_bytes(b"short\n" + b"x" * 1400 + b"\n" + b"y" * 1400 + b"\nend\n")
    it = bench()
    it.link.largest = 100
    it.run()
    assert it.link.sent == [b"short\n", b"end\n"]
    assert it.channel.counters.dropped == {"too-big": 2}
    assert it.channel.counters.refused == {"EMSGSIZE": 2}
    last = it.channel.vitals().last_datagram
    assert last is not None
    assert last <= clock.monotonic()
    assert it.channel.vitals() == Vitals(
        datagrams=2, payload_bytes=10, dropped=2, refused=2, last_datagram=last
    )


def test_what_goes_nowhere_is_dropped_at_its_pace_and_the_channel_says_so(bench: Any) -> None:
    it = bench(interval=0.001)
    it.link.carrier = False
    with it.running() as context:
        it.wait_sent(5)
        wait_for(lambda: context.degraded)
        assert context.detail.endswith("; fake0 has no carrier: what is sent now is lost")
        assert it.channel.counters.sent == 0
        it.link.carrier = True
        context.send(Signal.NETWORK)
        wait_for(lambda: it.channel.counters.sent > 5)
        wait_for(lambda: not context.degraded)
        assert "carrier" not in context.detail
    counters = it.channel.counters
    assert counters.dropped["no-carrier"] >= 4
    assert counters.sent + counters.dropped["no-carrier"] == len(it.link.sent)
    assert counters.sent_bytes == sum(map(len, it.link.sent[-counters.sent :]))
    assert it.channel.vitals().dropped == counters.dropped["no-carrier"]


def test_a_missing_source_opens_no_link_and_is_not_ready(bench: Any, path: Path) -> None:
    path.unlink()
    it = bench()
    ready: list[bool] = []
    context = Context(lambda: ready.append(True)).open()
    with pytest.raises(SourceError, match="no such file"):
        it.channel.run(context)
    path.write_bytes(b"here\n")
    it.channel.run(context)
    context.close()
    assert it.link.sent == [b"here\n"]
    assert (ready, it.opened) == ([True], 1)


@pytest.mark.parametrize("text", [b"", b"x" * 70_000], ids=["empty", "too long"])
def test_a_source_that_cannot_be_sent_is_never_ready(bench: Any, path: Path, text: bytes) -> None:
    path.write_bytes(text)
    context = Context(lambda: pytest.fail("ready")).open()
    with pytest.raises(SourceError):
        bench(framing="file").channel.run(context)
    context.close()


def test_a_link_that_cannot_be_opened_costs_nothing(bench: Any) -> None:
    it = bench()
    opened = it.channel._open_link

    def refuse(_: OutboundChannel) -> FakeSender:
        raise LinkError("cannot send to 239.255.1.2", "no such interface", errno=errno.ENODEV)

    it.channel._open_link = refuse
    with pytest.raises(LinkError):
        it.run()
    it.channel._open_link = opened
    it.run()
    assert it.link.sent == LINES


def test_the_source_goes_away_between_rounds_and_comes_back(bench: Any, path: Path) -> None:
    it = bench(repeat="forever", interval=0.001)
    path.write_bytes(b"one\ntwo\n")
    with it.running(failing="no such file"):
        it.wait_sent(1)
        path.unlink()
    sent = len(it.link.sent)
    path.write_bytes(b"one\ntwo\n")
    with it.running():
        it.wait_sent(sent + 3)
    assert it.link.sent == ([b"one\n", b"two\n"] * len(it.link.sent))[: len(it.link.sent)]


def states(tmp_path: Path) -> dict[str, dict[str, Any]]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "log").touch()
    return {
        "rate 0": {"rate": 0},
        "a long interval": {"interval": 3600},
        "as fast as it can": {"repeat": "forever"},
        "a FIFO without a writer": {"source": tmp_path / "fifo"},
        "at the end of a followed file": {"source": tmp_path / "log", "follow": True},
        "a slow rate": {"rate": 8},
    }


@pytest.mark.parametrize(
    "state",
    [
        "rate 0",
        "a long interval",
        "as fast as it can",
        "a FIFO without a writer",
        "at the end of a followed file",
        "a slow rate",
    ],
)
def test_it_stops_at_once(bench: Any, tmp_path: Path, state: str) -> None:
    it = bench(**states(tmp_path)[state])
    with it.running() as context:
        if state == "as fast as it can":
            it.wait_sent(5000)
        else:
            wait_for(lambda: context.busy_since is None, "it waits")
    json.dumps(as_json(it.channel.status()))


def test_other_settings_of_the_way_and_the_pace_keep_the_place_in_the_source(bench: Any) -> None:
    """Nothing is sent twice, and nothing left out."""
    it = bench(rate=8 * len(LINES[0]), burst=1e-9)  # about a line a second
    it.channel._outlet.schedule.late = 7  # as after some time at work
    with it.running() as context:
        it.wait_sent(1)
        for n, change in enumerate(({"ttl": 3}, {"dscp": 7}, {"loop": False}, {"interface": "lo"}), 2):
            config = it.config.model_copy(update=change)
            assert it.channel.update(config)
            context.send(Signal.NETWORK)
            wait_for(lambda n=n: it.opened == n, str(change))
        assert it.channel.update(it.config.model_copy(update={"rate": None, "interval": 0.0}))
        context.send(Signal.NETWORK)
        it.wait_sent(len(LINES))
    assert it.link.sent == LINES
    assert it.channel.counters.late >= 7
    for other in ({"port": 9191}, {"framing": "file"}, {"repeat": "forever"}, {"max_datagram": 99}):
        assert not it.channel.update(it.config.model_copy(update=other))


def test_another_rate_has_more_read_at_once(path: Path) -> None:
    """What is read at once is sent at once: of a fast channel it is some bursts."""
    path.write_bytes(bytes(range(250)) * 4000)
    it = Bench(path, framing="chunk", max_datagram=1000, rate=8000)
    read, sizes = it.channel._source.read, list[int]()

    def noting() -> Payloads:
        payloads = read()
        sizes.append(len(payloads))
        return payloads

    with mock.patch.object(it.channel._source, "read", noting), it.running() as context:
        it.wait_sent(1)
        assert it.channel.update(it.config.model_copy(update={"rate": 240_000_000}))
        context.send(Signal.NETWORK)
        it.wait_sent(1000)
    assert sizes[:3] == [READ_BYTES // 1000 // EVEN_CHUNKS * EVEN_CHUNKS, 300, 300]
    assert b"".join(it.link.sent) == path.read_bytes()


def test_it_stops_while_the_link_is_full(bench: Any) -> None:
    it = bench()
    it.link.room = 10
    with it.running():
        it.wait_sent(10)
    assert it.link.sent == LINES[:10]
    it.link.room = None
    it.run()
    assert it.link.sent == LINES


@ALONE
def test_a_busy_channel_shows_that_it_lives(bench: Any) -> None:
    it = bench(repeat="forever")
    with recording_waits(stop_after=100) as (context, waits):
        it.channel.run(context)
    assert waits == [0.0] * 100
    assert len(it.link.sent) <= 100 * BATCH_DATAGRAMS


def test_network_changes_reach_the_link_and_not_the_pace(bench: Any) -> None:
    it = bench(interval=3600)
    with it.running() as context:
        it.wait_sent(1)
        for count in range(1, 20):
            context.send(Signal.NETWORK | Signal.REOPEN)
            wait_for(lambda: it.link.network_changes >= count, "network_changed")  # noqa: B023
        wait_for(lambda: Signal.REOPEN not in context.signals, "no signal left to end each sleep")
    assert it.link.sent == LINES[:1]


def test_a_network_change_that_takes_the_interface_ends_the_run(bench: Any) -> None:
    it = bench(interval=3600)

    def gone() -> None:
        raise LinkError("cannot send to 239.255.1.2", "no such interface", errno=errno.ENODEV)

    it.link.network_changed = gone
    with it.running(failing="no such interface") as context:
        context.send(Signal.NETWORK)
    assert it.channel.counters.refused == {}


def test_a_fifo_is_sent_as_it_is_written(bench: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    it = bench(fifo)
    with it.running():
        for number in range(20):
            fifo.write_bytes(b"%d\n" % number)
            it.wait_sent(number + 1)
    assert it.link.sent == [b"%d\n" % number for number in range(20)]


@pytest.mark.parametrize("fifo", [True, False])
def test_another_group_begins_a_file_anew_and_goes_on_with_a_fifo(
    bench: Any, tmp_path: Path, fifo: bool
) -> None:
    """What was read of a FIFO and not sent yet cannot be had again."""
    source = tmp_path / "source"
    if fifo:
        os.mkfifo(source)
    it = bench(source, interval=0.01)
    opened: list[OutboundChannel] = []
    open_link = it.channel._open_link
    it.channel._open_link = lambda config: (opened.append(config), open_link(config))[1]
    lines = [b"%d\n" % number for number in range(40)]
    if not fifo:
        source.write_bytes(b"".join(lines))
    with it.running() as context:
        if fifo:
            source.write_bytes(b"".join(lines))
        it.wait_sent(5)
        other = it.config.model_copy(update={"group": IPv4Address("239.255.9.8"), "port": 9198})
        assert it.channel.update(other) is fifo
        if fifo:
            context.send(Signal.NETWORK)
            it.wait_sent(40)
            wait_for(lambda: it.channel.books().identity[:2] == ("239.255.9.8", 9198), "the other group")
            assert [(config.port, str(config.group)) for config in opened][1:] == [(9198, "239.255.9.8")]
            assert it.link.sent == lines


def test_a_fifo_is_not_watched_while_nothing_is_to_be_read(bench: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    it = bench(fifo)
    with recording_waits(stop_after=1) as (context, _):
        it.channel.run(context)
        fifo.write_bytes(b"something\n")
        assert context.wait(0) == {}


class Time:
    """Simulated time: it passes while a context waits, and a little more for waking up."""

    def __init__(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.at: dict[float, Callable[[], object]] = {}  # what happens when
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        monkeypatch.setattr(context, "wait", lambda timeout: self.pass_until(self.now + timeout))
        monkeypatch.setattr(context, "sleep_until", self.pass_until)

    def pass_until(self, deadline: float) -> dict[int, int]:
        if deadline > self.now:
            self.now = deadline + 0.0001
        for when in [when for when in self.at if when <= self.now]:
            self.at.pop(when)()
        return {}


class Timed(FakeSender):
    """Notes when each datagram was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def send(self, payloads: Any) -> int:
        sent = super().send(payloads)
        self.times += [clock.monotonic()] * sent
        return sent


@ALONE
def test_a_thousand_at_ten_milliseconds_go_each_in_its_time(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = bench(link=Timed(), interval=0.01)
    context = Context().open()
    time = Time(context, monkeypatch)
    it.channel.run(context)
    context.close()
    start = it.link.times[0]
    assert all(0 <= sent - (start + number * 0.01) < 0.0002 for number, sent in enumerate(it.link.times))
    assert time.now == pytest.approx(start + 999 * 0.01, abs=0.001)
    assert it.channel.counters.late == 0


def test_the_rate_by_a_clock_is_that_of_the_last_second(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench()
    it.run()
    monkeypatch.setattr(it.channel, "_source", mock.Mock(wraps=it.channel._source, rate=417_938.4))
    last = it.channel.vitals().last_datagram
    for passed, rate in ((0.9, 417_938), (1.1, None)):
        monkeypatch.setattr(clock, "monotonic", lambda passed=passed: last + passed)
        assert it.channel._source_rate() == rate


@ALONE
def test_what_a_followed_file_gets_after_a_rest_is_not_burst(
    bench: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"first\n")
    it = bench(link=Timed(), interval=0.01, follow=True)
    context = Context().open()
    time = Time(context, monkeypatch)
    # So that it is read less than STALL_SECONDS after the last deadline: it has begun anew otherwise
    time.at[1000.6] = lambda: path.write_bytes(b"first\n" + TEXT[:70])
    time.at[1005.0] = lambda: context.send(Signal.STOP)
    it.channel.run(context)
    context.close()
    _, *rest = it.link.times
    assert len(rest) == 10
    assert 1000.6 < rest[0] < 1000.01 + STALL_SECONDS
    assert min(later - earlier for earlier, later in pairwise(rest)) > 0.0098


@ALONE
def test_what_a_missing_source_did_not_send_is_not_burst_later(
    bench: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"first\n")
    it = bench(link=Timed(), interval=0.01, repeat=2)
    context = Context().open()
    time = Time(context, monkeypatch)
    send = it.link.send

    def send_once(payloads: Any) -> int:
        path.unlink(missing_ok=True)
        return send(payloads)

    it.link.send = send_once
    with pytest.raises(SourceError):
        it.channel.run(context)
    del it.link.send
    time.now += 0.8
    path.write_bytes(TEXT[:70])
    it.channel.run(context)
    context.close()
    assert len(it.link.times) == 11
    assert min(later - earlier for earlier, later in pairwise(it.link.times)) > 0.0098


def test_a_followed_file_is_sent_as_it_grows(bench: Any, path: Path) -> None:
    it = bench(follow=True)
    with it.running():
        it.wait_sent(1000)
        with path.open("ab") as file:
            file.write(b"more\n")
        it.wait_sent(1001)
        path.rename(path.with_suffix(".1"))
        path.write_bytes(b"rotated\n")
        it.wait_sent(1002)
    assert it.link.sent == [*LINES, b"more\n", b"rotated\n"]


def test_status_says_what_there_is_to_know(bench: Any, path: Path) -> None:
    it = bench(interval=3600, ttl=3)
    it.link.errors.append(errno.ENETUNREACH)
    with pytest.raises(LinkError):
        it.run()
    with it.running() as context:
        it.wait_sent(1)
        wait_for(lambda: it.channel.status().pending == 999, "pending")
        status = as_json(it.channel.status())
        assert context.detail == "to 239.255.1.2 port 9190, every 3600 s"
    assert status == json.loads(json.dumps(status))
    assert status["counters"] == {
        "sent": 1,
        "sent_bytes": 7,
        "refused": {"ENETUNREACH": 1},
        "dropped": {},
        "lines_split": 0,
        "skipped_bytes": 0,
        "rounds": 0,
        "late": 0,
    }
    assert (status["group"], status["port"], status["ttl"]) == ("239.255.1.2", 9190, 3)
    assert (status["source"], status["position"]) == (str(path), len(TEXT))
    assert status["link"] == {
        "interface": "fake0",
        "address": "192.0.2.9",
        "sending": "send",
        "stream": None,
    }
    assert it.channel.status().link is None


class By(FakeSender):
    """By an interface of this name."""

    def __init__(self, interface: str) -> None:
        super().__init__()
        self._interface = interface

    def describe(self) -> SenderDescription:
        return SenderDescription(self._interface, "192.0.2.9")


def with_copies(path: Path, *links: FakeSender, **keys: Any) -> tuple[Channel, list[Leg]]:
    """A channel that sends for ever by these legs."""
    copies = [{"group": f"239.255.2.{number}"} for number, _ in enumerate(links[1:])]
    config = OutboundChannel(
        source=path, group="239.255.1.2", port=9190, interval=0.01, repeat="forever", copies=copies
    )
    opened = dict(enumerate(links))
    legs = [Leg(config, lambda _, number=number: opened[number]) for number in opened]
    return Channel(
        "outbound/news", config, lambda _: Legs(legs), open_source(config), legs=legs, **keys
    ), legs


def test_a_leg_that_is_refused_for_good_is_not_announced_until_something_has_gone(path: Path) -> None:
    """A change of the network opens it again, and the words for its trouble stay the same."""
    said: list[list[str | None]] = []
    announcer = mock.Mock()
    announcer.status.return_value = None
    announcer.announce.side_effect = lambda worker, settings, ways: said.append(
        [way and way.interface for way in ways]
    )
    refused, other = By("eth7"), By("eth8")
    refused.errors.extend([errno.EPERM] * 10_000)
    channel, legs = with_copies(path, refused, other, announcer=announcer)
    with running(channel) as run:
        wait_for(lambda: len(said) == 2, "the refusal")
        for changes in (1, 2):
            run.context.send(Signal.NETWORK)
            wait_for(lambda changes=changes: other.network_changes == changes, "the change")
            more = len(other.sent) + 2
            wait_for(lambda more=more: len(other.sent) >= more, "a datagram after it")
        assert (legs[0].sent, said) == (0, [["eth7", "eth8"], [None, "eth8"]])
        refused.errors.clear()
        run.context.send(Signal.NETWORK)
        wait_for(lambda: len(said) == 3, "the end of the refusal")
    assert said[-1] == ["eth7", "eth8"]


def test_the_troubles_of_legs_and_source_are_told_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf, other = By("eth7"), By("eth8")
    deaf.carrier = False
    channel, _ = with_copies(path, deaf, other)
    monkeypatch.setattr(type(channel._source), "trouble", "half of it cannot be read")
    with capture_logs() as logs, running(channel):
        pass  # it is ready
    warned = [(one["event"], one["reason"]) for one in logs if one["log_level"] == "warning"]
    assert warned == [
        ("leg.failed", "to 239.255.1.2: eth7 has no carrier"),
        ("source.impaired", "half of it cannot be read"),
    ]
