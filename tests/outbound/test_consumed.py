"""Sources that take from an engine: what is acknowledged, what comes again, what is given up. No server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence

import pytest
from structlog.testing import capture_logs
from support.wait import wait_for

from mcastd import clock
from mcastd.engines.consumer import AGAIN, MALFORMED, TOO_LONG, Consumer, TakenMessage
from mcastd.engines.provenance import Provenance
from mcastd.errors import SinkError, SourceError
from mcastd.net.link import DatagramFlow
from mcastd.outbound.sources import consumed, returned
from mcastd.outbound.sources.consumed import ConsumedSource
from mcastd.outbound.sources.received import CIRCLE
from mcastd.outbound.sources.source import NAP_MAX_SECONDS

REASONS = TOO_LONG, AGAIN, MALFORMED


class Memory(Consumer):
    """A server that gives what it is told to, and notes what it is told."""

    server = "memory://1"

    def __init__(self) -> None:
        self.fd = os.open("/dev/null", os.O_RDONLY)
        self.away: Exception | None = None  # of connect()
        self.broken: Exception | None = None  # of all else
        self.batches: list[Sequence[TakenMessage]] = []
        self.asked: list[int] = []
        self.acknowledged: list[bytes] = []
        self.given_back: list[bytes] = []
        self.ticks = 0
        self.closed = False
        self.wait: Callable[[], object] = lambda: None  # in connect()
        self.holds = False

    def connect(self) -> None:
        self.wait()
        if self.away is not None:
            raise self.away

    def fileno(self) -> int:
        return self.fd

    @property
    def is_full(self) -> bool:
        return self.holds

    def flush(self) -> None:
        if self.broken is not None:
            raise self.broken

    def ask(self, count: int) -> None:
        self.asked.append(count)

    def receive(self) -> Sequence[TakenMessage] | None:
        return self.batches.pop(0) if self.batches else None

    def tick(self, now: float) -> None:
        self.ticks += 1

    def acknowledge(self, messages: Sequence[TakenMessage]) -> None:
        self.acknowledged += [one.name for one in messages]

    def give_back(self, messages: Sequence[TakenMessage]) -> None:
        self.given_back += [one.name for one in messages]

    def close(self) -> None:
        if not self.closed:
            os.close(self.fd)
        self.closed = True


def messages(*numbers: int, again: bool = False) -> list[TakenMessage]:
    return [
        TakenMessage(b"%d" % number, b"payload %d" % number, b"id %d" % number, may_be_again=again)
        for number in numbers
    ]


class Lab:
    """A source, and the connections that it makes."""

    def __init__(self) -> None:
        self.next = Memory()
        self.made: list[Memory] = []
        self.source = ConsumedSource("memory", self._make, REASONS, "outbound/tv")

    def _make(self) -> Memory:
        self.made.append(self.next)
        self.next = Memory()
        return self.made[-1]

    @property
    def server(self) -> Memory:
        """The one that is connected, or the next one."""
        return self.made[-1] if self.made and not self.made[-1].closed else self.next

    def read(self) -> list[bytes]:
        return list(map(bytes, self.source.read()))

    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self.source.dropped.items() if count}


@pytest.fixture
def lab(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(consumed, "CONNECT_WAIT_SECONDS", 30)  # a busy machine may start a thread late
    found = Lab()
    yield found
    found.source.restart()
    found.next.close()


def test_a_message_is_acknowledged_once_its_datagram_has_gone(lab: Lab) -> None:
    lab.server.batches = [messages(1, 2, 3)]
    payloads = lab.source.read()
    server = lab.server
    assert list(payloads) == [b"payload 1", b"payload 2", b"payload 3"]
    assert lab.source.connected == "memory://1"
    assert lab.source.fileno() == server.fd
    payloads.gone(2)
    assert server.acknowledged == []
    payloads.gone(1)
    assert lab.read() == []
    assert server.acknowledged == [b"1", b"2", b"3"]
    assert server.ticks == 1
    assert lab.source.nap == NAP_MAX_SECONDS
    seen = lab.source.reception()
    assert (seen.received, seen.received_bytes, seen.connected) == (3, 27, "memory://1")


def test_at_the_end_what_has_not_gone_is_given_back(lab: Lab) -> None:
    lab.server.batches = [messages(1, 2, 3), messages(4)]
    payloads = lab.source.read()
    server = lab.server
    payloads.gone(1)
    lab.source.restart()
    assert server.acknowledged == [b"1"]
    assert server.given_back == [b"2", b"3", b"4"]
    assert server.closed
    assert lab.source.connected == ""
    assert lab.source.fileno() is None


def test_what_was_sent_and_comes_again_is_acknowledged_again_and_not_sent(lab: Lab) -> None:
    lab.server.batches = [messages(1, 2)]
    lab.source.read().gone(2)
    lab.server.broken = ConnectionResetError(104, "gone")
    with pytest.raises(SourceError, match="cannot take messages from memory://1: gone; trying again"):
        lab.source.read()
    assert lab.made[-1].acknowledged == []
    lab.next.batches = [messages(1, 2, 3, again=True)]
    assert lab.read() == [b"payload 3"]
    assert lab.dropped() == {AGAIN: 2}
    lab.source._note_gone(1)
    assert lab.read() == []
    assert lab.server.acknowledged == [b"1", b"2", b"3"]
    assert lab.source.reception().received == 5


def breaks(*_: object) -> None:
    raise ConnectionResetError(104, "it has gone")


@pytest.mark.parametrize("method", ["flush", "ask", "receive", "acknowledge", "tick"])
def test_wherever_the_connection_breaks_nothing_goes_twice_or_is_lost(lab: Lab, method: str) -> None:
    lab.server.batches = [messages(1, 2)]
    lab.source.read().gone(2)
    server = lab.server
    setattr(server, method, breaks)
    with pytest.raises(SourceError, match="cannot take messages from memory://1: it has gone; trying again"):
        lab.source.read()
    assert server.closed
    assert lab.source.state == "not connected"
    lab.next.batches = [messages(1, 2, 3, again=True)]
    assert lab.read() == [b"payload 3"]
    lab.source._note_gone(1)


@pytest.mark.parametrize("method", ["flush", "receive", "acknowledge", "give_back"])
def test_at_the_end_a_connection_that_breaks_is_closed(lab: Lab, method: str) -> None:
    lab.server.batches = [messages(1, 2)]
    lab.source.read().gone(1)
    server = lab.server
    setattr(server, method, breaks)
    lab.source.restart()
    assert server.closed
    assert lab.source.state == "not opened"


def test_of_those_that_were_sent_the_last_ones_are_known(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumed, "REMEMBERED_MESSAGES", 2)
    lab.server.batches = [messages(1, 2, 3)]
    lab.source.read().gone(3)
    lab.server.batches = [messages(1, 2, 3, again=True)]
    assert lab.read() == [b"payload 1"]
    assert lab.dropped() == {AGAIN: 2}


def test_what_the_server_gives_anew_is_sent_anew(lab: Lab) -> None:
    """As by a consumer that was deleted, and made again to begin with the first message."""
    for batch in ([TakenMessage(b"tv.news", b"same")] * 2, messages(1, 2)):
        for _ in range(3):
            lab.server.batches = [batch]
            payloads = lab.source.read()
            assert len(payloads) == 2
            payloads.gone(2)
    assert lab.dropped() == {}


def test_what_is_no_datagram_is_given_up_named_and_acknowledged(lab: Lab) -> None:
    with capture_logs() as logs:
        lab.server.batches = [
            [
                TakenMessage(b"1", b"", b"1", TOO_LONG, 1_100_000),
                TakenMessage(b"2", bytes(65_508), b"2"),
                TakenMessage(b"3\x1b", b"", b"3", MALFORMED),
                TakenMessage(b"4", bytes(65_507), b"4"),
            ]
        ]
        assert [len(one) for one in lab.source.read()] == [65_507]
    assert lab.dropped() == {TOO_LONG: 2, MALFORMED: 1}
    named = [
        (log["reason"], log["message"], log["size"]) for log in logs if log["event"] == "message.dropped"
    ]
    assert named == [(TOO_LONG, "1", 1_100_000), (MALFORMED, "3\\x1b", 0)]
    lab.source._note_gone(1)
    assert lab.read() == []
    assert lab.server.acknowledged == [b"1", b"2", b"3\x1b", b"4"]
    lab.server.broken = ConnectionResetError(errno.ECONNRESET, "")
    with pytest.raises(SourceError):
        lab.read()
    lab.server.batches = [[TakenMessage(b"5", bytes(65_508), b"5")]]
    with capture_logs() as logs:
        assert lab.read() == []
    assert [log["message"] for log in logs if log["event"] == "message.dropped"] == ["5"], "anew"


def test_where_all_are_given_up_that_is_told_before_more_are_asked_for(lab: Lab) -> None:
    """A group of Redis would give the same ones again."""
    lab.server.batches = [[TakenMessage(b"1", b"", b"1", MALFORMED)]]
    assert lab.read() == []
    assert lab.server.acknowledged == [b"1"]


def test_no_more_are_asked_for_than_go_within_a_second(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    number = 0

    def round_of(count: int, seconds: float) -> int:
        nonlocal number
        lab.server.batches = [messages(*range(number, number + count))]
        number += count
        lab.source.read().gone(count)
        now[0] += seconds
        assert lab.read() == []
        return lab.server.asked[-1]

    assert [round_of(count, 0.001) for count in (1, 2, 4, 8)] == [2, 4, 8, 16]
    assert round_of(1, 0.001) == 16, "few come: no more are asked for"
    assert round_of(16, 4.0) == 4
    assert round_of(4, 60.0) == 1
    for _ in range(12):
        count = lab.server.asked[-1]
        round_of(count, 0.001)
    assert lab.server.asked[-1] == consumed.BATCH_MAX_MESSAGES


def test_a_server_that_refuses_is_an_error_before_there_is_a_datagram(lab: Lab) -> None:
    lab.next.away = SinkError(
        "cannot take messages from x", "it has no stream TV", "make it", reason="refused"
    )
    with pytest.raises(SourceError) as error:
        lab.source.read()
    assert str(error.value) == "cannot take messages from x: it has no stream TV; make it; trying again"
    assert lab.source.state == "not connected"
    lab.next.batches = [messages(1)]
    assert lab.read() == [b"payload 1"]


def test_one_that_takes_its_time_keeps_nobody_waiting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumed, "CONNECT_WAIT_SECONDS", 0.01)
    left, right = os.pipe()
    lab.next.wait = lambda: os.read(left, 1)
    lab.next.batches = [messages(1)]
    assert lab.read() == []
    assert (lab.source.state, lab.source.preparing) == ("connecting", "connecting to memory")
    assert lab.source.fileno() is None
    assert lab.source.nap == consumed.LOOK_SECONDS
    assert lab.read() == []
    os.write(right, b"x")
    found: list[bytes] = []
    wait_for(lambda: found.extend(lab.read()) or found, "its message")
    assert found == [b"payload 1"]
    assert lab.source.preparing == ""
    os.close(left)
    os.close(right)


def test_one_that_is_there_too_late_is_closed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumed, "CONNECT_WAIT_SECONDS", 0.01)
    left, right = os.pipe()
    lab.next.wait = lambda: os.read(left, 1)
    assert lab.read() == []
    lab.source.restart()
    os.write(right, b"x")
    wait_for(lambda: lab.made and lab.made[0].closed, "it is closed")
    os.close(left)
    os.close(right)


def test_what_it_does_not_take_is_tried_again_soon(lab: Lab) -> None:
    lab.next.holds = True
    assert lab.read() == []
    assert lab.source.nap == consumed.LOOK_SECONDS


def test_news_are_looked_for_once_its_deadline_is_past(lab: Lab) -> None:
    assert lab.source.has_news()
    assert lab.read() == []
    lab.server.deadline = clock.monotonic() + 1000
    assert not lab.source.has_news()
    lab.server.deadline = 0.0
    assert lab.source.has_news()


OURS = DatagramFlow("10.9.0.2", 40_001, "239.1.1.1", 5004)
BACK = "b/inbound/back"


def handed(number: int, flow: DatagramFlow, writer: str = BACK) -> TakenMessage:
    (message,) = messages(number)
    return message._replace(made_of=Provenance(flow, writer))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: found[0])
    return found


def test_what_the_channel_has_sent_itself_goes_no_further(lab: Lab, now: list[float]) -> None:
    lab.source.sends_by(lambda: [OURS])
    others = [
        OURS._replace(source="10.9.0.3"),
        OURS._replace(source_port=40_002),  # another one of the same address, as of another site
        OURS._replace(group="239.1.1.2"),
        OURS._replace(port=5005),
    ]
    given = [handed(number, flow) for number, flow in enumerate([*others[:2], OURS, *others[2:]])]
    lab.server.batches = [given]
    with capture_logs() as logs:
        assert lab.read() == [one.payload for one in given if one.made_of and one.made_of.flow != OURS]
    assert lab.dropped() == {CIRCLE: 1}
    assert [log["reason"] for log in logs if log["event"] == "message.dropped"] == [CIRCLE]
    assert lab.source.returned_by == f"{BACK} (of 10.9.0.2)"
    assert lab.source.trouble.startswith(f"{BACK} (of 10.9.0.2) sends back what is sent")
    lab.source._note_gone(4)
    assert lab.read() == []
    assert sorted(lab.server.acknowledged) == [one.name for one in given], "that one is done with, too"
    now[0] += 61
    assert lab.source.returned_by == lab.source.trouble == ""


def test_what_is_older_than_its_socket_is_of_another_one_that_had_its_port(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a recording that is sent again, months later. Clocks may differ by a bit."""
    began = 1_795_000_000 * 10**9
    monkeypatch.setattr(returned.time, "time_ns", lambda: began)
    lab.source.sends_by(lambda: [OURS])
    ages = {0: 400, 1: 301, 2: 299, 3: -5}  # seconds
    given = [handed(number, OURS)._replace(made_at=began - age * 10**9) for number, age in ages.items()]
    lab.server.batches = [given]
    assert lab.read() == [b"payload 0", b"payload 1"]
    assert lab.dropped() == {CIRCLE: 2}


def test_a_clock_that_is_set_back_hides_no_circle(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([2_000_000_000, 1_795_000_000])
    monkeypatch.setattr(returned.time, "time_ns", lambda: next(clocks) * 10**9)
    lab.source.sends_by(lambda: [OURS])
    lab.server.batches = [messages(1)]
    assert lab.read() == [b"payload 1"]
    lab.server.batches = [[handed(1, OURS)._replace(made_at=1_795_000_001 * 10**9), *messages(2)]]
    assert lab.read() == [b"payload 2"]


def test_what_it_has_sent_before_its_socket_was_another_is_known(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returned, "REMEMBERED_FLOWS", 2)
    for port in (1, 2, 3):
        lab.source.sends_by(lambda port=port: [OURS._replace(source_port=port)])  # type: ignore[misc]
        lab.server.batches = [messages(port)]
        assert lab.read() == [b"payload %d" % port]
    lab.server.batches = [[handed(port, OURS._replace(source_port=port)) for port in (1, 2, 3)]]
    assert lab.read() == [b"payload 1"], "the last ones are remembered"
    assert lab.dropped() == {CIRCLE: 2}


def test_by_a_longer_way_it_is_found_by_what_it_does(lab: Lab, now: list[float]) -> None:
    """As by a second engine: the last socket on the way is of another host."""
    last = DatagramFlow("10.9.0.3", 40_007, "239.4.4.4", 5004)
    going: list[TakenMessage] = []  # what was sent on comes back soon
    went = 0
    for number in range(100):
        now[0] += 0.01
        lab.server.batches = [[*going, *messages(number)]]
        sent = lab.read()
        lab.source._note_gone(len(sent))
        went += len(sent)
        going = [handed(int(payload.split()[1]), last) for payload in sent]
    assert lab.source.returned_by == f"{BACK} (of 10.9.0.3)"
    dropped = lab.dropped()[CIRCLE]
    lab.server.batches = [[*going, *messages(100)]]
    assert lab.read() == [b"payload 100"], "each once"
    lab.source._note_gone(1)
    assert lab.dropped()[CIRCLE] == dropped + len(going)
    assert went < 500
