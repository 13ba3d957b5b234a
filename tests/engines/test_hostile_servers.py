"""Servers that say anything, in any order and in any pieces, while a connection is made and at work.

Whatever comes is an answer, or an error that the connection ends with: SinkError or OSError.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import Scripted

from mcastd.engines.connected import EngineServer
from mcastd.engines.consumer import Consumer
from mcastd.engines.engine import Engine, HandedOver, KeptStream
from mcastd.engines.nats import JetStreamPlan, NatsEncoder, NatsEngine
from mcastd.engines.nats_connection import NatsLogin
from mcastd.engines.nats_consumer import JetStreamConsumer, NatsConsumerPlan, NatsSubscriber
from mcastd.engines.redis import RedisEncoder, RedisEngine
from mcastd.engines.redis_connection import RedisLogin
from mcastd.engines.redis_consumer import RedisConsumer, RedisConsumerPlan
from mcastd.errors import SinkError
from mcastd.net.link import Origin
from mcastd.net.server_connection import TlsFiles

SERVER = EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)
STREAM = KeptStream("239.255.9.7", 9190, "host/inbound/tv")
TAKEN = HandedOver([b"one", b"two"], [Origin("192.0.2.1", 5000, 1, 8)] * 2, [1, 2], 6)
NUMBERS = [7, 8]


def broken_off(said: Iterable[bytes]) -> Iterator[bytes]:
    """It says this, and then closes the connection."""
    yield from said
    raise ConnectionResetError(104, "it has closed the connection")


def used(one: NatsEngine | RedisEngine | JetStreamConsumer | NatsSubscriber | RedisConsumer) -> None:
    """All that is done with a connection. Raises SinkError, OSError."""
    connection = one._connection
    assert connection is not None
    one.begin(connection, SERVER)
    if isinstance(one, Engine):
        encoder = (
            RedisEncoder("k", STREAM, None) if isinstance(one, RedisEngine) else NatsEncoder("a", STREAM)
        )
        one.send(encoder.encode(TAKEN, STREAM, NUMBERS))
        while True:
            one.receive()
    assert isinstance(one, Consumer)
    while True:
        one.ask(9)
        messages = one.receive() or ()
        one.acknowledge(messages[:1])
        one.give_back(messages[1:])
        one.tick(one.deadline + 1)


KEYS = st.sampled_from(
    [
        *("config", "created", "error", "err_code", "code", "description", "stream", "seq", "duplicate"),
        *("message", "hdrs", "subjects", "ack_policy", "deliver_subject", "max_batch", "max_expires"),
        *("max_payload", "headers", "tls_required", "nonce", "server_name"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["explicit", "none", "TV", "TlJU", "a", 10_059, 10_014, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
INFO = b'INFO {"max_payload":1048576,"headers":true}\r\n'
LINES = [INFO, b"PONG\r\n", b"PONG\r\n", b"PING\r\n", b"+OK\r\n", b"-ERR 'Stale Connection'\r\n", b"\r\n"]


@st.composite
def said_by_nats(draw: st.DrawFn, inbox: str) -> bytes:
    """A line, or a message to one of the subjects that are of interest."""
    if draw(st.booleans()):
        return draw(st.sampled_from(LINES) | st.binary(max_size=30))
    subject = draw(
        st.sampled_from([f"{inbox}.ask", f"{inbox}.ask", f"{inbox}.7", f"{inbox}.1", f"{inbox}.x", "a"])
    )
    reply = draw(st.sampled_from(["", " $JS.ACK.TV.radio.1.5.5.6.7", " $JS.ACK.TV", " x"]))
    head = draw(
        st.sampled_from(
            [b"", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 408 Gone\r\n\r\n", b"NATS/1.0\r\nA: b\r\n\r\n"]
        )
    )
    body = draw(OBJECTS.map(json.dumps).map(str.encode) | st.binary(max_size=20))
    size = b"%d %d" % (len(head), len(head) + len(body)) if head else b"%d" % len(body)
    line = f"{'HMSG' if head else 'MSG'} {subject} {draw(st.integers(1, 2))}{reply} ".encode()
    return line + size + b"\r\n" + head + body + b"\r\n"


@given(data=st.data(), kind=st.sampled_from(["engine", "consumer", "subject"]), cut=st.integers(1, 200))
@settings(max_examples=300)
def test_whatever_nats_says_is_answered_or_an_error(data: st.DataObject, kind: str, cut: int) -> None:
    asking = [SERVER], TlsFiles(), NatsLogin()
    one: NatsEngine | JetStreamConsumer | NatsSubscriber
    if kind == "engine":
        plan = JetStreamPlan("TV", create=True, max_bytes=None, replicas=1, duplicate_window=120)
        one = NatsEngine(*asking, subject="a", stream=STREAM, plan=plan)
    elif kind == "consumer":
        taken = NatsConsumerPlan("TV", "radio", create=True, subject="", from_first=False)
        one = JetStreamConsumer(*asking, name="host/tv", plan=taken)
    else:
        one = NatsSubscriber(*asking, name="host/tv", subject="a", queue="")
    words = data.draw(st.lists(said_by_nats(one.inbox), max_size=8))
    # What has it connected, as a rule
    answers = {
        "engine": [b'{"config":{"subjects":["a"]}}', b"{}"],
        "consumer": [b'{"config":{}}'],
        "subject": [],
    }[kind]
    asked = [b"MSG %b.ask 1 %d\r\n%b\r\n" % (one.inbox.encode(), len(said), said) for said in answers]
    welcome = b"".join([*asked, b"PONG\r\n"]) if data.draw(st.booleans()) else b""
    text = INFO + b"PONG\r\n" + welcome + b"".join(words)
    one._connection = Scripted(broken_off(text[at : at + cut] for at in range(0, len(text), cut)))
    with contextlib.suppress(SinkError, OSError):
        used(one)


WORDS = st.sampled_from(
    [
        *(
            b"+PONG\r\n",
            b"+OK\r\n",
            b":1\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*1\r\n",
            b"*2\r\n",
            b"*2\r\n",
        ),
        *(
            b"$3\r\n5-7\r\n",
            b"$1\r\nk\r\n",
            b"$4\r\ndata\r\n",
            b"$6\r\nwriter\r\n",
            b"$15\r\nhost/inbound/tv\r\n",
        ),
        b"-NOGROUP No such key\r\n",
        b"-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n",
        b"-BUSYGROUP it is there\r\n",
    ]
)


# The answer to XREADGROUP
ENTRY = (
    b"*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n5-7\r\n"
    b"*4\r\n$6\r\nwriter\r\n$1\r\nx\r\n$4\r\ndata\r\n$1\r\ny\r\n"
)


@given(
    said=st.lists(WORDS | st.just(ENTRY) | st.binary(max_size=9), max_size=14),
    taken=st.booleans(),
    is_let_in=st.booleans(),
    cut=st.integers(1, 99),
)
@settings(max_examples=300)
def test_whatever_redis_says_is_answered_or_an_error(
    said: list[bytes], taken: bool, is_let_in: bool, cut: int
) -> None:
    one: RedisEngine | RedisConsumer
    if taken:
        plan = RedisConsumerPlan("k", "g", "host/tv", "data", create=True, from_first=False)
        one = RedisConsumer([SERVER], TlsFiles(), RedisLogin(), plan=plan)
    else:
        one = RedisEngine([SERVER], TlsFiles(), RedisLogin(), key="k", stream=STREAM)
    # What has it connected
    welcome = b"+OK\r\n*-1\r\n" if taken else b"*0\r\n"
    text = b"+PONG\r\n" + (welcome if is_let_in else b"") + b"".join(said)
    one._connection = Scripted(broken_off(text[at : at + cut] for at in range(0, len(text), cut)))
    with contextlib.suppress(SinkError, OSError):
        used(one)
