"""Messages as they are sent: what their lengths say is what is there."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from mcastd.engines.engine import HandedOver, KeptStream
from mcastd.engines.kafka_records import KafkaEncoder, KafkaRecord
from mcastd.engines.kafka_records import number_of as kafka_number_of
from mcastd.engines.nats import NatsEncoder, inbox_of, number_of, payload_bytes
from mcastd.engines.redis import RedisEncoder, id_of, last_of
from mcastd.net.link import Origin
from mcastd.protocols.resp import RespReader

STREAM = KeptStream("239.255.9.7", 9190, "a%dhost/inbound/t%v")
ORIGINS = [Origin("192.0.2.1", 5000, 1, 8), Origin("2001:db8::1", 1, 2, -1)]
ROWS = st.lists(
    st.tuples(
        st.binary(max_size=40),
        st.sampled_from(ORIGINS),
        st.sampled_from([0, 5, 1_795_769_488_289_176_234]),
    ),
    max_size=12,
)
FIRST = st.sampled_from([1, 98, 1_795_769_488_289_176_234])


def handed(rows: list[tuple[bytes, Origin, int]]) -> HandedOver:
    payloads, origins, times = ([row[at] for row in rows] for at in range(3))
    return HandedOver(payloads, origins, times, sum(map(len, payloads)))


@given(rows=ROWS, first=FIRST)
def test_nats(rows: list[tuple[bytes, Origin, int]], first: int) -> None:
    numbers = [*range(first, first + len(rows))]
    messages = NatsEncoder("mcast.100%d", STREAM).encode(handed(rows), STREAM, numbers)
    assert [number for number, _ in messages] == numbers
    for (number, message), (payload, origin, time) in zip(messages, rows, strict=True):
        line, _, rest = message.partition(b"\r\n")
        word, subject, reply, head_size, size = line.split(b" ")
        assert (word, subject) == (b"HPUB", b"mcast.100%d")
        assert reply == f"{inbox_of('mcast.100%d', STREAM)}.{number}".encode()
        assert payload_bytes(message) == int(size)
        head, end = rest[: int(head_size)], rest[int(head_size) :]
        assert end == payload + b"\r\n"
        assert int(size) == int(head_size) + len(payload)
        assert head.endswith(b"\r\n\r\n")
        version, *fields = head.decode().split("\r\n")[:-2]
        assert version == "NATS/1.0"
        assert dict(field.split(":", 1) for field in fields) == {
            "Nats-Msg-Id": f"{STREAM.writer}/mcast.100%d/{number}",
            "Mcast-Group": STREAM.group,
            "Mcast-Port": "9190",
            "Mcast-Sender": origin.source,
            "Mcast-Sender-Port": str(origin.port),
            "Mcast-TTL": str(origin.ttl),
            "Mcast-Time": str(time),
        }
        told = {"hdrs": base64.b64encode(head).decode()}
        assert number_of(told, f"{STREAM.writer}/mcast.100%d") == number
        # Another output of the same subscription has its own ids, as a stream knows each once
        assert number_of(told, f"{STREAM.writer}/another") == 0


@given(rows=ROWS, first=FIRST, max_length=st.none() | st.just(1000))
def test_redis(rows: list[tuple[bytes, Origin, int]], first: int, max_length: int | None) -> None:
    numbers = [*range(first, first + len(rows))]
    messages = RedisEncoder("k:100%d", STREAM, max_length).encode(handed(rows), STREAM, numbers)
    assert [number for number, _ in messages] == numbers
    before = b""
    for (number, message), (payload, origin, time) in zip(messages, rows, strict=True):
        (words,) = RespReader().feed(message)
        assert isinstance(words, list)
        trimmed = [] if max_length is None else [b"MAXLEN", b"~", b"1000"]
        assert words[: 2 + len(trimmed)] == [b"XADD", b"k:100%d", *trimmed]
        name, *pairs = words[2 + len(trimmed) :]
        assert isinstance(name, bytes)
        assert name == id_of(message)
        assert int(name.partition(b"-")[2]) == number
        assert before.partition(b"-")[0] <= name.partition(b"-")[0]
        before = name
        assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == {
            b"writer": STREAM.writer.encode(),
            b"group": STREAM.group.encode(),
            b"port": b"9190",
            b"sender": origin.source.encode(),
            b"sender_port": b"%d" % origin.port,
            b"ttl": b"%d" % origin.ttl,
            b"time": b"%d" % time,
            b"data": payload,
        }
        entry = [[name, [*pairs]]]
        assert last_of(entry, STREAM.writer.encode()) == (int(name.partition(b"-")[0]), number)
        assert last_of(entry, b"another") == (0, 0)


@given(st.dictionaries(st.text(max_size=5) | st.just("hdrs"), st.text(max_size=30) | st.integers()))
def test_any_last_message_of_a_subject_is_read(told: dict[str, object]) -> None:
    assert number_of(told, STREAM.writer) == 0


@given(st.recursive(st.none() | st.integers() | st.binary(), st.lists, max_leaves=8))
def test_any_last_entry_of_a_key_is_read(told: object) -> None:
    last_of(told, b"x")  # type: ignore[arg-type] # whatever a server answers


@given(rows=ROWS, first=FIRST)
def test_kafka(rows: list[tuple[bytes, Origin, int]], first: int) -> None:
    numbers = [*range(first, first + len(rows))]
    messages = KafkaEncoder("mcast.100").encode(handed(rows), STREAM, numbers)
    assert [number for number, _ in messages] == numbers
    for (number, message), (payload, origin, time) in zip(messages, rows, strict=True):
        record = KafkaRecord.of(number, message)
        assert (record.topic, record.writer) == ("mcast.100", STREAM.writer.encode())
        assert (record.payload, record.time) == (payload, time)
        assert dict(record.headers) == {
            "id": f"{STREAM.writer}/{number}".encode(),
            "group": STREAM.group.encode(),
            "port": b"9190",
            "sender": origin.source.encode(),
            "sender_port": str(origin.port).encode(),
            "ttl": str(origin.ttl).encode(),
            "time": str(time).encode(),
        }
        assert kafka_number_of(record.headers, record.writer) == number
        assert kafka_number_of(record.headers, b"another") == 0


@given(st.none() | st.lists(st.tuples(st.sampled_from(["id", "x"]), st.none() | st.binary(max_size=30))))
def test_what_others_have_written_to_a_topic_has_no_number_of_ours(headers: object) -> None:
    assert kafka_number_of(headers, b"host/inbound/tv") == 0
