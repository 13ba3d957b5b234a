"""The output that somebody watches: all is counted, what is not shown is told, and nothing waits for it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest
from support.wait import wait_for

from mcastd.adhoc import sink
from mcastd.adhoc.sink import PIPE_QUEUE_BYTES, TERMINAL_QUEUE_BYTES, Listener, Printer
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import Lines
from mcastd.net.link import ListBatch, Origin

ALICE, BOB = Origin("192.0.2.1", 5000, 1, 1), Origin("192.0.2.2", 5000, 1, 1)
SECOND = 1_000_000_000


def batch(*payloads: bytes, origins: list[Origin] | None = None, time: int = SECOND) -> ListBatch:
    buffers = [memoryview(bytearray(payload)) for payload in payloads]
    return ListBatch(buffers, origins or [ALICE] * len(payloads), [time] * len(payloads))


def printer(
    write: Callable[[bytes], None], *, for_eyes: bool = False, on_error: Callable[[], None] = lambda: None
) -> Printer:
    lines = Lines(StreamFacts(str, str))
    return Printer(write, lines, lambda count: b"(%d not shown)\n" % count, on_error, for_eyes=for_eyes)


class SlowOutput:
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.written = b""

    def write(self, data: bytes) -> None:
        self.entered.set()
        assert self.go.wait(60)
        self.written += data


def test_all_is_written_in_order() -> None:
    written: list[bytes] = []
    output = printer(written.append)
    for number in range(100):
        output.offer(batch(b"%d" % number, b"x"), 2)
    output.close()
    assert b"".join(written).split() == [word for n in range(100) for word in (b"%d" % n, b"x")]
    assert (output.shown, output.skipped) == (200, 0)
    assert output.ended


def test_buffers_may_be_used_again_at_once() -> None:
    slow = SlowOutput()
    output = printer(slow.write)
    given = batch(b"first")
    output.offer(given, 1)
    assert slow.entered.wait(60)
    second = batch(b"again")
    output.offer(second, 1)
    for payload in (*given.payloads, *second.payloads):
        payload[:] = b"#####"  # type: ignore[index]
    slow.go.set()
    output.close()
    assert slow.written == b"first\nagain\n"


def test_a_slow_output_holds_nobody_up_and_what_it_missed_is_told_in_its_place() -> None:
    slow = SlowOutput()
    output = printer(slow.write, for_eyes=True)
    output.offer(batch(b"begin"), 1)
    assert slow.entered.wait(60)
    sent = 1
    for _ in range(2 * TERMINAL_QUEUE_BYTES // 1000):
        output.offer(batch(b"x" * 1000), 1)
        sent += 1
    assert 0 < output.skipped < sent
    slow.go.set()
    wait_for(lambda: output.shown + output.skipped == sent, "what waited is shown")
    skipped = output.skipped
    output.offer(batch(b"end"), 1)
    output.close()
    assert output.shown + skipped == sent + 1
    assert slow.written.endswith(b"(%d not shown)\nend\n" % skipped)


def test_one_datagram_larger_than_all_room_is_shown() -> None:
    written: list[bytes] = []
    output = printer(written.append, for_eyes=True)
    output.offer(batch(b"x" * (TERMINAL_QUEUE_BYTES + 1)), 1)
    output.close()
    assert len(written[0]) == TERMINAL_QUEUE_BYTES + 2
    assert PIPE_QUEUE_BYTES > TERMINAL_QUEUE_BYTES


def test_an_output_that_fails_is_given_up_and_said() -> None:
    said = threading.Event()

    def fail(_data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space")

    output = printer(fail, on_error=said.set)
    output.offer(batch(b"x"), 1)
    assert said.wait(60)
    output.offer(batch(b"y"), 1)
    output.close()
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC
    assert (output.shown, output.ended) == (0, False)


@pytest.mark.parametrize("for_eyes", [True, False])
def test_an_output_that_hangs_does_not_hold_up_the_end_for_ever(
    for_eyes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "PIPE_FLUSH_SECONDS", 0.1)
    slow = SlowOutput()
    output = printer(slow.write, for_eyes=for_eyes)
    output.offer(batch(b"x"), 1)
    assert slow.entered.wait(60)
    output.close()
    assert not output.ended
    slow.go.set()


def test_no_more_than_the_limit_counts() -> None:
    reached: list[int] = []
    listener = Listener(3, lambda: reached.append(listener.tally.received))
    listener.write(batch(b"12", b"34"))
    assert not listener.full
    listener.write(batch(b"56", b"78"))
    listener.write(batch(b"90"))
    assert listener.full
    assert reached == [3]
    assert (listener.tally.received, listener.tally.received_bytes) == (3, 6)
    assert listener.sources.top(9) == ({ALICE.source: 3}, 0)


def test_sources_and_time_are_counted() -> None:
    listener = Listener(None, lambda: None)
    listener.write(batch(b"1", time=SECOND))
    listener.write(batch(b"2", b"3", origins=[ALICE, BOB], time=3 * SECOND))
    assert listener.sources.top(9) == ({ALICE.source: 2, BOB.source: 1}, 0)
    assert listener.tally.seconds == 2.0
