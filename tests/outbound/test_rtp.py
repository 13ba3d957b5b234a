"""RTP around a channel's datagrams: numbers without a gap, times as they were due, a stream for a worker."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from support.channel import running
from support.wait import wait_for

from mcastd import clock
from mcastd.config import OutboundChannel, RtpOutbound
from mcastd.errors import LinkError
from mcastd.makers import Parts, build
from mcastd.net.fake import FakeSender
from mcastd.net.link import LastBurst
from mcastd.net.payloads import Chunks, ListPayloads
from mcastd.outbound.channel import Channel
from mcastd.outbound.rtp import STREAMS_KEPT_MAX, RtpSender, RtpStream, RtpStreams
from mcastd.outbound.shared import SharedSender
from mcastd.protocols.rtp import HEADER_BYTES, RtpPacket, read_packet

LINES = [b"line %d\n" % number for number in range(9)]
HZ = 90_000


class Due:
    """When datagrams are due, as the test wants it: a quarter of a second apart."""

    def __init__(self) -> None:
        self.next = 100.0

    def __call__(self, now: float, sizes: Sequence[int]) -> list[float]:
        return [self.next + number / 4 for number in range(len(sizes))]


def stream(sequence: int = 65_534) -> RtpStream:
    one = RtpStream()
    one.ssrc, one.sequence, one.offset = 0x1234ABCD, sequence, (1 << 32) - 100 * HZ - 3
    return one


def packets(link: FakeSender) -> list[RtpPacket]:
    read = [read_packet(packet) for packet in link.sent]
    assert all(read)
    return [packet for packet in read if packet is not None]


def bodies(link: FakeSender) -> list[bytes]:
    return [packet[HEADER_BYTES:] for packet in link.sent]


def test_each_field_is_in_its_place_and_wraps() -> None:
    link = FakeSender()
    sender = RtpSender(link, RtpOutbound(payload_type=96), stream(), Due())
    assert sender.send(ListPayloads(LINES[:3])) == 3
    assert bodies(link) == LINES[:3]
    assert packets(link) == [
        RtpPacket(False, 96, 65_534, (1 << 32) - 3, 0x1234ABCD, 12, 19),
        RtpPacket(False, 96, 65_535, HZ // 4 - 3, 0x1234ABCD, 12, 19),
        RtpPacket(False, 96, 0, HZ // 2 - 3, 0x1234ABCD, 12, 19),
    ]


def test_it_says_what_receivers_know_the_stream_by() -> None:
    link = FakeSender()
    assert RtpSender(link, RtpOutbound(), stream(), Due()).describe().stream == "0x1234ABCD"
    described = RtpSender(link, RtpOutbound(ssrc=7), stream(), Due()).describe()
    assert (described.stream, described.interface, link.describe().stream) == ("0x00000007", "fake0", None)


def test_what_was_not_sent_is_not_numbered() -> None:
    link = FakeSender()
    sender = RtpSender(link, RtpOutbound(), stream(), Due())
    link.room = 2
    assert sender.send(ListPayloads(LINES[:5])) == 2
    for number in (errno.EAGAIN, errno.EMSGSIZE):
        link.errors.append(number)
        with pytest.raises(LinkError):
            sender.send(ListPayloads(LINES[2:5]))
    link.room = None
    assert sender.send(ListPayloads(LINES[2:5])) == 3
    assert bodies(link) == LINES[:5]
    assert [packet.sequence for packet in packets(link)] == [65_534, 65_535, 0, 1, 2]


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_prepared_is_as_what_is_sent(count: int) -> None:
    data = bytes(range(1, 51))
    link, due = FakeSender(), Due()
    sender = RtpSender(link, RtpOutbound(ssrc=7), stream(), due)
    send = sender.prepare(10, count)
    assert send is not None
    buffers = [*Chunks(memoryview(data), 10, 5).buffers(0, 5, count)]
    send(buffers[0])
    link.errors.append(errno.EAGAIN)
    with pytest.raises(OSError, match="unavailable") as refused:
        send(buffers[1])
    sender.note_refusal(refused.value, 10, count)
    for buffer in buffers[1:]:
        send(buffer)
    due.next += 5 / 4
    sender.send(ListPayloads([b"more"]))
    assert b"".join(bodies(link)) == data + b"more"
    assert [packet.sequence for packet in packets(link)] == [65_534, 65_535, 0, 1, 2, 3]
    times = [packet.timestamp for packet in packets(link)]
    assert {(later - time) % (1 << 32) for time, later in pairwise(times)} == {HZ // 4}
    assert {packet.ssrc for packet in packets(link)} == {7}


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_burst_of_what_is_prepared_counts(count: int) -> None:
    class Ending(FakeSender):
        def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object]:
            send = super().prepare(size, count)
            assert send is not None

            def send_and_end(data: bytes | memoryview) -> None:
                send(data)
                raise LastBurst

            return send_and_end

    link = Ending()
    sender = RtpSender(link, RtpOutbound(ssrc=7), stream(), Due())
    send = sender.prepare(10, count)
    assert send is not None
    with pytest.raises(LastBurst):
        send(bytes(10 * count))
    sender.send(ListPayloads([b"more"]))
    assert [packet.sequence for packet in packets(link)] == [*range(65_534, 65_536), 0, 1][: count + 1]


def test_nothing_is_prepared_where_the_link_cannot() -> None:
    link = FakeSender()
    link.prepare = lambda size, count: None  # type: ignore[method-assign]
    assert RtpSender(link, RtpOutbound(), stream(), Due()).prepare(10, 3) is None


def channel(
    path: Path, link: FakeSender, streams: RtpStreams, **settings: object
) -> tuple[Channel, SharedSender]:
    path.write_bytes(b"".join(LINES))
    shared = SharedSender()
    keys = {"source": path, "group": "239.192.1.1", "port": 5004, "protocol": "rtp", **settings}
    parts = Parts(open_sender=lambda *_: link, streams=streams, sender=shared)
    worker = build("outbound/tv", OutboundChannel.model_validate(keys), parts)
    assert isinstance(worker, Channel)
    return worker, shared


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("pace", [{"interval": 0.02}, {"rate": 8 * 7 * 50}, {"interval": 0}])
def test_timestamps_are_when_datagrams_were_due(
    tmp_path: Path, pace: dict[str, object], is_shared: bool
) -> None:
    link = FakeSender()
    worker, shared = channel(tmp_path / "lines", link, RtpStreams(), **pace)
    if not is_shared:
        worker._shared = None
    before = clock.monotonic()
    with running(worker):
        wait_for(lambda: len(link.sent) == len(LINES), "all sent")
    shared.close()
    assert bodies(link) == LINES
    found = packets(link)
    assert {(other.sequence - one.sequence) % 65_536 for one, other in pairwise(found)} == {1}
    steps = {(other.timestamp - one.timestamp) % (1 << 32) for one, other in pairwise(found)}
    assert steps <= ({1799, 1800, 1801} if pace != {"interval": 0} else {0})
    assert (clock.monotonic() - before) * HZ > (found[-1].timestamp - found[0].timestamp) % (1 << 32)


def test_a_worker_that_is_made_anew_goes_on_with_its_stream(tmp_path: Path) -> None:
    link, streams = FakeSender(), RtpStreams()
    for number in (1, 2):
        worker, shared = channel(tmp_path / "lines", link, streams, interval=0, ttl=number)
        with running(worker):
            wait_for(lambda number=number: len(link.sent) == number * len(LINES), "all sent")
        shared.close()
    found = packets(link)
    assert len({packet.ssrc for packet in found}) == 1
    assert {(other.sequence - one.sequence) % 65_536 for one, other in pairwise(found)} == {1}
    assert streams.of("outbound/other").ssrc != found[0].ssrc


def test_the_streams_of_workers_that_are_gone_long_ago_are_forgotten() -> None:
    streams = RtpStreams()
    ended, running = streams.of("outbound/ended").ssrc, streams.of("outbound/running")
    for number in range(STREAMS_KEPT_MAX - 2):
        streams.of(f"outbound/{number}")
    assert streams.of("outbound/ended").ssrc == ended
    for number in range(STREAMS_KEPT_MAX):
        streams.of(f"outbound/other-{number}")
    assert streams.of("outbound/ended").ssrc != ended
    assert streams.of("outbound/running") is running, "of one that there still is, nothing is forgotten"


def test_what_a_datagram_may_have_includes_the_header(tmp_path: Path) -> None:
    link = FakeSender()
    worker, shared = channel(
        tmp_path / "lines", link, RtpStreams(), framing="chunk", max_datagram=22, interval=0
    )
    with running(worker):
        wait_for(lambda: sum(map(len, bodies(link))) == len(b"".join(LINES)), "all sent")
    shared.close()
    assert {len(packet) for packet in link.sent[:-1]} == {22}
