"""Which datagram a message was made of, read back from what outputs of mcastd write beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.engines.engine import HandedOver, KeptStream
from mcastd.engines.nats import NatsEncoder
from mcastd.engines.provenance import Provenance, of_fields, of_headers
from mcastd.engines.redis import RedisEncoder
from mcastd.net.link import DatagramFlow, Origin
from mcastd.protocols.nats import NatsMessage, NatsReader
from mcastd.protocols.resp import RespReader, RespReply

TIME = 1_795_000_000_000_000_007


def made_of(stream: KeptStream, origin: Origin, payload: bytes = b"x") -> list[tuple[Provenance | None, int]]:
    """What is read of a message to NATS, and of one to Redis."""
    taken = HandedOver([payload], [origin], [TIME], len(payload))
    ((_, published),) = NatsEncoder("tv.in", stream).encode(taken, stream, [12])
    # As the server gives it: HPUB SUBJECT REPLY HEAD TOTAL becomes HMSG SUBJECT SID HEAD TOTAL
    line, _, rest = published.partition(b"\r\n")
    _, subject, _, head, total = line.split(b" ")
    (message,) = NatsReader().feed(b"HMSG %b 2 %b %b\r\n%b" % (subject, head, total, rest))
    assert isinstance(message, NatsMessage)
    assert message.payload == payload
    ((_, added),) = RedisEncoder("tv", stream, 9).encode(taken, stream, [12])
    (words,) = RespReader().feed(added)
    assert isinstance(words, list)
    return [of_headers(message.head), of_fields(words[words.index(b"writer") :])]


@pytest.mark.parametrize(
    ("group", "sender"), [("239.1.1.1", "10.9.0.7"), ("ff3e::8000:1", "2001:db8::7"), ("ff02::7", "fe80::1")]
)
def test_it_is_read_as_it_was_written(group: str, sender: str) -> None:
    stream = KeptStream(group, 5004, "host.example/inbound/tv")
    wanted = Provenance(DatagramFlow(sender, 40_007, group, 5004), "host.example/inbound/tv")
    assert made_of(stream, Origin(sender, 40_007, 3, 4)) == [(wanted, TIME)] * 2
    assert str(wanted) == f"host.example/inbound/tv (of {sender})"


def test_of_an_unknown_sender_nothing_is_known() -> None:
    assert made_of(KeptStream("239.1.1.1", 5004, "h/inbound/tv"), Origin("", 0, 0, -1)) == [
        (None, 0),
        (None, TIME),
    ]


HEAD = (
    b"NATS/1.0\r\nMcast-Group: 239.1.1.1\r\nMcast-Port: 5004\r\nMcast-Sender: 10.9.0.7\r\n"
    b"Mcast-Sender-Port: 40007\r\nMcast-TTL: -1\r\nMcast-Time: 5\r\n"
)


def test_other_programs_may_write_it_with_blanks_and_without_an_id() -> None:
    found, received = of_headers(HEAD + b"\r\n")
    assert received == 5
    assert found == Provenance(DatagramFlow("10.9.0.7", 40_007, "239.1.1.1", 5004), "")
    assert str(found) == "another host (of 10.9.0.7)"


def test_a_name_is_made_fit_to_be_shown() -> None:
    found, _ = of_headers(HEAD + b"Nats-Msg-Id: h\x1b\xff/inbound/%b/tv/9\r\n\r\n" % (b"x" * 500))
    assert found is not None
    assert found.writer == "h\\x1b\\xff/inbound/" + "x" * (200 - len("h?!/inbound/"))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"NATS/1.0\r\n\r\n",
        HEAD.replace(b"5004", b"504504") + b"\r\n",
        HEAD.replace(b"10.9.0.7", b"somebody") + b"\r\n",
        HEAD.replace(b"\r\nMcast-Port: 5004", b"") + b"\r\n",
        HEAD.replace(b"Mcast-Time: 5", b"Mcast-Time: now") + b"\r\n",
    ],
)
def test_headers_of_others(head: bytes) -> None:
    assert of_headers(head) == (None, 0)


FIELDS: list[RespReply] = [
    *(b"writer", b"h/inbound/tv", b"group", b"239.1.1.1", b"port", b"5004"),
    *(b"sender", b"10.9.0.7", b"sender_port", b"40007", b"ttl", b"-1", b"time", b"5", b"data", b"x"),
]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        *((0, b"author"), (1, None), (3, b"tv"), (5, b"504504"), (5, 5004), (7, b""), (9, b"-1")),
        *((4, [b"port"]), (12, b"date"), (13, b"now"), (13, None)),
    ],
)
def test_fields_of_others(index: int, value: RespReply) -> None:
    wanted = Provenance(DatagramFlow("10.9.0.7", 40_007, "239.1.1.1", 5004), "h/inbound/tv")
    assert of_fields(FIELDS) == (wanted, 5)
    assert of_fields([*FIELDS[:index], value, *FIELDS[index + 1 :]])[0] is None
    assert of_fields(FIELDS[:index])[0] is None


@given(st.binary(max_size=200))
def test_any_head_is_read(more: bytes) -> None:
    of_headers(more)
    of_headers(HEAD[:-2] + more)
    of_headers(HEAD + b"Nats-Msg-Id: " + more + b"\r\n\r\n")


@given(st.lists(st.none() | st.integers() | st.binary(max_size=9), max_size=12))
def test_any_fields_are_read(fields: list[RespReply]) -> None:
    of_fields(fields)
    of_fields([value for pair in zip(FIELDS[::2], fields, strict=False) for value in pair])
