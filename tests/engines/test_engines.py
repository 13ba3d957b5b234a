"""What engines make of what servers say, by a connection in memory."""

from __future__ import annotations

import base64
import errno
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence

import pytest
from support.scripted import Scripted

from mcastd import __version__
from mcastd.engines import connected as connections
from mcastd.engines.connected import EngineServer
from mcastd.engines.engine import REFUSED, TOO_BIG, Engine, HandedOver, KeptStream
from mcastd.engines.nats import JetStreamPlan, NatsEncoder, NatsEngine
from mcastd.engines.nats_connection import NatsLogin
from mcastd.engines.redis import OVERTAKEN, RedisEncoder, RedisEngine, id_of
from mcastd.engines.redis_connection import RedisLogin
from mcastd.engines.segments import NUMBERS
from mcastd.errors import SinkError
from mcastd.net.link import Origin
from mcastd.net.server_connection import TlsFiles

NOBODY = NatsLogin()
STREAM = KeptStream("239.255.9.7", 9190, "host/inbound/tv")
INFO = b'INFO {"max_payload":1048576,"headers":true}\r\n'
# What a primary says to an id that no stream takes; a replica does not look at it.
IS_PRIMARY = b"-ERR The ID specified in XADD must be greater than 0-0\r\n"
IS_REPLICA = b"-READONLY You can't write against a read only replica.\r\n"


def nats(subject: str = "mcast.a", stream: KeptStream = STREAM, login: NatsLogin = NOBODY) -> NatsEngine:
    plan = JetStreamPlan("TV", create=False, max_bytes=None, replicas=1, duplicate_window=120)
    return NatsEngine(
        [EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)],
        TlsFiles(),
        login,
        subject=subject,
        stream=stream,
        plan=plan,
    )


def redis(key: str = "a") -> RedisEngine:
    return RedisEngine([], TlsFiles(), RedisLogin(), key=key, stream=STREAM)


def connected(engine: NatsEngine | RedisEngine, said: Iterable[bytes], *, takes: bool = True) -> Scripted:
    engine._connection = found = Scripted(said, takes=takes)
    return found


def handed(*payloads: bytes) -> HandedOver:
    origins = [Origin("192.0.2.1", 5000, 1, 8)] * len(payloads)
    return HandedOver(payloads, origins, [1] * len(payloads), sum(map(len, payloads)))


def answer(engine: NatsEngine, what: bytes, said: bytes) -> bytes:
    """MSG to the inbox of an engine."""
    return b"MSG %b%b 1 %d\r\n%b\r\n" % (engine._prefix, what, len(said), said)


def test_what_a_server_says_before_tls_is_not_believed() -> None:
    """Whoever is on the way can say it: here, that all messages are there."""
    engine = nats()
    head = base64.b64encode(b"NATS/1.0\r\nNats-Msg-Id: host/inbound/tv/mcast.a/9999\r\n\r\n").decode()
    found = json.dumps({"message": {"hdrs": head}}).encode()
    injected = b"PONG\r\n" + answer(engine, b"ask", b"{}") + answer(engine, b"ask", found)
    none = b'{"error":{"code":404,"err_code":10037,"description":"no message found"}}'
    by_tls = b"PONG\r\n" + answer(engine, b"ask", b"{}") + answer(engine, b"ask", none)
    server = EngineServer("tls://192.0.2.1", "192.0.2.1", 4222, is_encrypted=True)
    connection = connected(engine, [INFO + injected, by_tls])
    assert engine.begin(connection, server) == 0
    assert connection.calls == ["encrypt 192.0.2.1"]


@pytest.mark.parametrize("stream", [STREAM, STREAM._replace(writer="renamed/inbound/tv")])
def test_nats_answers_what_was_made_for_another_subject_or_host(stream: KeptStream) -> None:
    (message,) = NatsEncoder("mcast.old", STREAM).encode(handed(b"1\r\n"), STREAM, [7])
    engine = nats(stream=stream)
    connection = connected(engine, [answer(engine, b"7", b'{"stream":"TV","seq":1}')])
    engine.send([message])
    assert connection.taken.startswith(b"HPUB mcast.old %b7 " % engine._prefix)
    assert connection.taken.partition(b"\r\n")[2] == message[1].partition(b"\r\n")[2]
    assert engine.receive().kept == [7]


def test_nats_names_the_subject_that_no_stream_takes_any_more() -> None:
    engine = nats()
    none = b"HMSG %b7 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % engine._prefix
    connected(engine, [none])
    engine.send(NatsEncoder("mcast.old", STREAM).encode(handed(b"1"), STREAM, [7]))
    with pytest.raises(SinkError, match=r"or mcast\.old"):
        engine.receive()


@pytest.mark.parametrize(
    ("subjects", "cause", "way_out"),
    [
        (["tv.>", "a"], "its stream TV takes tv.>, a, not mcast.a", '"tv.>,a,mcast.a"'),
        ([], "its stream TV is a copy of others, and takes no messages, not mcast.a", '"mcast.a"'),
    ],
)
def test_a_stream_that_does_not_take_the_subject_is_told_before_there_is_a_message(
    subjects: list[str], cause: str, way_out: str
) -> None:
    engine = nats()
    found = answer(engine, b"ask", json.dumps({"config": {"subjects": subjects}}).encode())
    connection = connected(engine, [INFO, b"PONG\r\n", found])
    with pytest.raises(SinkError) as refused:
        engine.begin(connection, EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False))
    assert refused.value.cause == cause
    assert refused.value.way_out == f"nats stream edit TV --subjects {way_out}"


def test_one_that_takes_it_by_a_pattern_is_connected_to() -> None:
    engine = nats()
    found = answer(engine, b"ask", json.dumps({"config": {"subjects": ["mcast.*"]}}).encode())
    none = answer(engine, b"ask", b'{"error":{"code":404,"err_code":10037,"description":"no message found"}}')
    connection = connected(engine, [INFO, b"PONG\r\n", found, none])
    server = EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)
    assert engine.begin(connection, server) == 0


@pytest.mark.parametrize("size", [1_100_000, 10_000_000])
def test_the_last_message_of_a_subject_may_be_of_another_and_long(size: int) -> None:
    """Nothing is known of ours then. What is in it is taken for nothing."""
    engine = nats()
    stream = answer(engine, b"ask", json.dumps({"config": {"subjects": ["mcast.*"]}}).encode())
    answers = answer(engine, b"7", b'{"stream":"TV","seq":1}')
    long = answer(engine, b"ask", (answers * (size // len(answers) + 1))[:size])
    pieces = [long[at : at + 200_000] for at in range(0, len(long), 200_000)]
    connection = connected(engine, [INFO, b"PONG\r\n", stream, *pieces, b"PONG\r\n", answers])
    server = EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)
    assert engine.begin(connection, server) == 0
    assert connection.taken.endswith(b"PING\r\n")
    assert engine.receive().kept == [7]
    connected(engine, pieces)
    with pytest.raises(SinkError, match=f"a message has {size} bytes"):
        engine.receive()


def test_the_last_entry_of_a_key_may_be_of_another_and_long() -> None:
    for fields in ([b"data", bytes(3_000_000)], [b"x", b"y"] * 100):
        words = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in fields)
        long = b"*1\r\n*2\r\n$3\r\n1-1\r\n*%d\r\n%b" % (len(fields), words)
        engine = redis()
        pieces = [long[at : at + 200_000] for at in range(0, len(long), 200_000)]
        connection = connected(engine, [b"+PONG\r\n", *pieces, IS_PRIMARY, b"$3\r\n5-7\r\n"])
        assert engine.begin(connection, EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, False)) == 0
        engine.send(RedisEncoder("a", STREAM, None).encode(handed(b"1"), STREAM, [7]))
        found: list[int] = []
        while not found:  # behind what is left of that entry
            found += engine.receive().kept
        assert found == [7]


def test_what_was_made_for_another_kind_of_engine_is_never_sent() -> None:
    payload = b"\r\nFLUSHALL\r\nPUB x 1\r\n1\r\n"
    of_nats = NatsEncoder("mcast.a", STREAM).encode(handed(payload), STREAM, [7])
    of_redis = RedisEncoder("a", STREAM, None).encode(handed(payload), STREAM, [7])
    engines: Sequence[tuple[NatsEngine | RedisEngine, list[tuple[int, bytes]]]] = (
        (nats(), of_redis),
        (redis(), of_nats),
    )
    for engine, messages in engines:
        connection = connected(engine, [])
        with pytest.raises(SinkError, match="another kind of engine"):
            engine.send(messages)
        assert connection.taken == b""


def test_redis_looks_for_a_message_under_the_key_that_it_was_made_for() -> None:
    engine = redis("new")
    (message,) = RedisEncoder("old", STREAM, 1000).encode(handed(b"1"), STREAM, [7])
    above = b"-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"
    connection = connected(engine, [above])
    engine.send([message])
    connection.taken = b""
    engine.receive()
    assert connection.taken.startswith(b"*6\r\n$6\r\nXRANGE\r\n$3\r\nold\r\n")


@pytest.mark.parametrize("said", [IS_REPLICA, b"-MISCONF Redis is configured to save RDB snapshots.\r\n"])
def test_redis_knows_before_there_is_a_message_that_a_server_takes_none(said: bytes) -> None:
    """Or it would be connected to again and again, and another one never be tried."""
    engine = redis()
    connection = connected(engine, [b"+PONG\r\n", b"*0\r\n", said])
    with pytest.raises(SinkError, match=said.split()[0][1:].decode()) as refusal:
        engine.begin(connection, EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, is_encrypted=False))
    assert refusal.value.reason == REFUSED
    assert connection.taken.endswith(
        b"*5\r\n$4\r\nXADD\r\n$1\r\na\r\n$3\r\n0-0\r\n$6\r\nwriter\r\n$15\r\nhost/inbound/tv\r\n"
    )


def test_redis_goes_to_its_database_once_it_is_let_in() -> None:
    server = EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, is_encrypted=False)
    for database, words in (
        (0, [b"AUTH", b"PING", b"XREVRANGE", b"XADD"]),
        (7, [b"AUTH", b"PING", b"SELECT"]),
    ):
        engine = RedisEngine([], TlsFiles(), RedisLogin("", "x", database), key="a", stream=STREAM)
        said = [b"+OK\r\n", b"+PONG\r\n", *([b"+OK\r\n"] if database else []), b"*0\r\n", IS_PRIMARY]
        connection = connected(engine, said)
        engine.begin(connection, server)
        assert [word for word in connection.taken.split(b"\r\n") if word in words] == words
        assert (b"SELECT\r\n$1\r\n7\r\n" in connection.taken) == bool(database)


def endless(said: bytes) -> Iterator[bytes]:
    return itertools.repeat(said * ((1 << 18) // len(said)))


def test_a_server_that_never_stops_talking_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long before the time is over that a server has for an answer, however little of a processor there is
    for module in ("connected", "nats_connection"):
        monkeypatch.setattr(f"mcastd.engines.{module}.SAID_MAX_BYTES", 1 << 19)
    engines: Sequence[tuple[Engine, bytes]] = ((nats(), b"+OK\r\n"), (nats(), b"PING\r\n"))
    for engine, said in engines:
        assert isinstance(engine, NatsEngine)
        connected(engine, endless(said))
        with pytest.raises(SinkError, match="far more than it was asked"):
            engine.receive()
        server = EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)
        connection = connected(engine, itertools.chain([INFO], endless(said)))
        with pytest.raises(SinkError, match="far more than it was asked"):
            engine.begin(connection, server)


def test_a_ping_that_comes_a_thousand_times_is_answered_once_and_when_there_is_room() -> None:
    engine = nats()
    connection = connected(engine, [b"PING\r\n" * 1000], takes=False)
    engine.send(NatsEncoder("mcast.a", STREAM).encode(handed(b"1"), STREAM, [7]))
    held = len(engine._held)
    engine.receive()
    assert len(engine._held) == held
    connection.takes = True
    engine.flush()
    engine.receive()
    assert connection.taken.endswith(b"1\r\nPONG\r\n")
    assert connection.taken.count(b"PONG") == 1


def test_redis_has_ids_that_ascend_also_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2_000_000_000_000_000_000]
    monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda: now[0])
    (before,) = RedisEncoder("a", STREAM, None).encode(handed(b"1"), STREAM, [7])
    now[0] -= 3600 * 10**9
    after = RedisEncoder("a", STREAM, 1000).encode(handed(b"2", b"3"), STREAM, [8, 9])
    engine = redis()
    connection = connected(engine, [])
    engine.send([before])
    assert connection.taken == before[1]
    connection.taken = b""
    engine.send(after)
    assert [id_of(message) for _, message in engine._asked] == [
        b"2000000000000-7",
        b"2000000000000-8",
        b"2000000000000-9",
    ]
    assert connection.taken == b"".join(message for _, message in [*engine._asked][1:])
    # The same where the first was sent on another connection
    entry = b"*1\r\n*2\r\n$15\r\n2000000000000-7\r\n*2\r\n$6\r\nwriter\r\n$15\r\nhost/inbound/tv\r\n"
    again = redis()
    connection = connected(again, [b"+PONG\r\n", entry, IS_PRIMARY])
    assert (
        again.begin(connection, EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, is_encrypted=False)) == 7
    )
    again.send([before, *after])
    assert [*again._asked] == [*engine._asked]


def test_redis_has_ids_that_ascend_among_what_several_runs_left_and_is_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host whose clock was behind when it started, and was then set forward."""
    messages = []
    for time, run in ((2_000_000_000, 1), (1_999_996_400, 2), (2_000_000_060, 2)):
        monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda time=time: time * 10**9)
        number = run * NUMBERS + len(messages)
        messages += RedisEncoder("a", STREAM, None).encode(handed(b"x"), STREAM, [number])
    engine = redis()
    connected(engine, [])
    engine.send(messages)
    assert [id_of(message) for _, message in engine._asked] == [
        b"2000000000000-%d" % NUMBERS,
        b"2000000000000-%d" % (2 * NUMBERS + 1),
        b"2000000060000-%d" % (2 * NUMBERS + 2),
    ]


def test_redis_has_ids_that_ascend_over_a_reload_to_another_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the clock was set back with it: what both have sent may wait for the server together."""
    now = [2_000_000_000_000_000_000]
    monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda: now[0])
    before, encoder = (RedisEncoder("a", STREAM._replace(port=port), None) for port in (1, 2))
    messages = before.encode(handed(b"1"), STREAM, [1])
    now[0] -= 50 * 10**9
    encoder.go_on_from(before)
    messages += encoder.encode(handed(b"2"), STREAM, [2])
    now[0] += 100 * 10**9
    messages += encoder.encode(handed(b"3"), STREAM, [3])
    ids = [id_of(message) for _, message in messages]
    assert ids == [b"2000000000000-1", b"2000000000000-2", b"2000000050000-3"]


def test_redis_has_ids_above_one_that_a_clock_had_which_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is in no spool: numbers begin anew, as the clock has it."""
    now = [1_999_999_000_000_000_000]
    monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda: now[0])
    engine = redis()
    entry = b"*1\r\n*2\r\n$15\r\n2000000000000-9\r\n*2\r\n$6\r\nwriter\r\n$15\r\nhost/inbound/tv\r\n"
    server = EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, is_encrypted=False)
    assert engine.begin(connected(engine, [b"+PONG\r\n", entry, IS_PRIMARY]), server) == 9
    engine.disbelieve()
    encoder = RedisEncoder("a", STREAM, None)
    engine.send(encoder.encode(handed(b"1", b"2"), STREAM, [3, 4]))
    now[0] += 2000 * 10**9
    engine.send(encoder.encode(handed(b"3"), STREAM, [5]))
    ids = [id_of(message) for _, message in engine._asked]
    assert ids == [b"2000000000001-3", b"2000000000001-4", b"2000001000000-5"]


def test_redis_leaves_the_id_of_what_the_server_may_have_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """By that it is looked for; a new one gets an id above all others."""
    now = [1_999_999_999_999_000_000]
    monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda: now[0])
    messages = RedisEncoder("a", STREAM, None).encode(handed(b"1", b"2"), STREAM, [7, 9])
    engine = redis()
    entry = b"*1\r\n*2\r\n$15\r\n2000000000000-8\r\n*2\r\n$6\r\nwriter\r\n$15\r\nhost/inbound/tv\r\n"
    server = EngineServer("redis://192.0.2.1", "192.0.2.1", 6379, is_encrypted=False)
    assert engine.begin(connected(engine, [b"+PONG\r\n", entry, IS_PRIMARY]), server) == 8
    engine.send(messages)
    assert [id_of(message) for _, message in engine._asked] == [b"1999999999999-7", b"2000000000000-9"]


def test_redis_encodes_no_earlier_time_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2_000_000_000_000_000_000]
    monkeypatch.setattr("mcastd.engines.redis.time.time_ns", lambda: now[0])
    encoder = RedisEncoder("a", STREAM, None)
    encoder.encode(handed(b"1"), STREAM, [7])
    now[0] -= 3600 * 10**9
    ((_, message),) = encoder.encode(handed(b"2"), STREAM, [8])
    assert id_of(message) == b"2000000000000-8"


def test_redis_tells_what_is_kept_what_was_before_and_what_is_overtaken() -> None:
    engine = redis()
    above = b"-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"
    there = b"*1\r\n*2\r\n$3\r\n1-8\r\n*0\r\n"
    connected(engine, [b"$3\r\n1-7\r\n" + above + above, b"", there + b"*0\r\n"])
    engine.send(RedisEncoder("a", STREAM, None).encode(handed(b"1", b"2", b"3"), STREAM, [7, 8, 9]))
    answers = [engine.receive(), engine.receive()]
    assert [(one.kept, one.duplicates) for one in answers] == [([7], 0), ([8], 1)]
    assert answers[0].refused == []
    ((number, reason, cause),) = answers[1].refused
    assert (number, reason) == (9, OVERTAKEN)
    assert cause == "another program writes a, too, or deletes what is there"


def test_nats_leaves_out_what_is_longer_than_the_server_takes() -> None:
    engine = nats()
    connection = connected(engine, [])
    engine.server, engine.max_payload = "nats://192.0.2.1", 400
    messages = NatsEncoder("mcast.a", STREAM).encode(handed(b"1", bytes(400), b"3"), STREAM, [7, 8, 9])
    engine.send(messages)
    assert connection.taken == messages[0][1] + messages[2][1]
    assert engine.receive().refused == [(8, TOO_BIG, "nats://192.0.2.1 takes no more than 400 bytes")]
    assert engine.receive().refused == [], "it is told once"


def test_nats_counts_what_was_kept_before_however_the_server_says_it() -> None:
    engine = nats()
    said = b'{"stream":"TV","seq":1,"batch":"x"%b}'
    again = b',"duplicate":true'
    connected(
        engine,
        [
            answer(engine, b"7", said % again)
            + answer(engine, b"8", said % b"")
            + answer(engine, b"9", said % again)
        ],
    )
    answers = engine.receive()
    assert (answers.kept, answers.duplicates) == ([7, 8, 9], 2)


def test_a_stream_that_takes_nothing_for_now_ends_the_connection_and_loses_nothing() -> None:
    engine = nats()
    full = {"error": {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}}
    connected(engine, [answer(engine, b"7", json.dumps(full).encode())])
    with pytest.raises(SinkError, match="does not take messages: maximum messages exceeded"):
        engine.receive()
    assert engine._refused == []


def test_how_nats_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a server that was named without TLS, and wants it."""
    info = {"max_payload": 4321, "headers": True, "tls_required": True}
    server = EngineServer("nats://tv.example.net", "tv.example.net", 4222, is_encrypted=False)
    engine = nats()
    stream = json.dumps({"config": {"subjects": ["mcast.>"]}}).encode()
    said = [b"INFO %b\r\n" % json.dumps(info).encode(), b"PONG\r\n", answer(engine, b"ask", stream)]
    connection = connected(engine, [*said, answer(engine, b"ask", json.dumps({"message": {}}).encode())])
    assert engine.begin(connection, server) == 0
    assert connection.calls == ["encrypt tv.example.net"]
    assert engine.max_payload == 4321
    connect, subscribe, ping, *_ = connection.taken.split(b"\r\n")
    assert json.loads(connect.removeprefix(b"CONNECT ")) == {
        "verbose": False,
        "pedantic": False,
        "lang": "mcastd",
        "version": __version__,
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "tls_required": True,
        "name": "host/inbound/tv",
    }
    assert (subscribe, ping) == (f"SUB {engine.inbox}.* 1".encode(), b"PING")


def test_jetstream_is_asked_in_its_domain() -> None:
    engine = nats(login=NatsLogin(domain="hub"))
    server = EngineServer("nats://a", "a", 4222, is_encrypted=False)
    stream = json.dumps({"config": {"subjects": ["mcast.a"]}}).encode()
    none = b'{"error":{"code":404,"err_code":10037,"description":"no message found"}}'
    said = [INFO, b"PONG\r\n", answer(engine, b"ask", stream), answer(engine, b"ask", none)]
    connection = connected(engine, said)
    engine.begin(connection, server)
    asked = [line.split()[1] for line in connection.taken.split(b"\r\n") if line.startswith(b"PUB ")]
    assert asked == [b"$JS.hub.API.STREAM.INFO.TV", b"$JS.hub.API.STREAM.MSG.GET.TV"]


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("hub", "it leads to no JetStream of the domain hub"),
        ("", "JetStream is not on there; .*name the domain"),
    ],
)
def test_a_server_without_jetstream_is_told_as_such(domain: str, said: str) -> None:
    engine = nats(login=NatsLogin(domain=domain))
    head = b"NATS/1.0 503\r\n\r\n"
    nobody = b"HMSG %bask 1 %d %d\r\n%b\r\n" % (engine._prefix, len(head), len(head), head)
    with pytest.raises(SinkError, match=said):
        engine.begin(
            connected(engine, [INFO, b"PONG\r\n", nobody]),
            EngineServer("nats://a", "a", 4222, is_encrypted=False),
        )


def test_a_nats_without_headers_is_too_old() -> None:
    engine = nats()
    connection = connected(engine, [b'INFO {"max_payload":1048576,"version":"2.1.9"}\r\n'])
    with pytest.raises(SinkError, match=r"it has no headers: it is version 2\.1\.9") as refusal:
        engine.begin(connection, EngineServer("nats://a", "a", 4222, is_encrypted=False))
    assert refusal.value.way_out == "use 2.2 or later"


def test_of_several_servers_the_one_that_answers_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [EngineServer(f"redis://{name}", name, 6379, is_encrypted=False) for name in "abc"]
    said = {"a": None, "b": b"-NOAUTH Authentication required.\r\n", "c": None}

    def reach(host: str, *_: object) -> Scripted:
        if (answer := said[host]) is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "")
        return Scripted([answer])

    monkeypatch.setattr(connections, "ServerConnection", reach)
    for words in ("cannot send to redis://b: it says NOAUTH", "cannot reach redis://a: connection refused"):
        with pytest.raises(SinkError, match=words):
            RedisEngine(servers, TlsFiles(), RedisLogin(), key="a", stream=STREAM).connect()
        said["b"] = None
    assert [one.end for one in (servers[0], servers[0]._replace(host="2001:db8::1"))] == [
        "a:6379",
        "[2001:db8::1]:6379",
    ]


def test_what_a_server_takes_in_part_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = redis()
    connection = connected(engine, [])
    monkeypatch.setattr(
        connection, "send", lambda data: connection.send_all(bytes(data[:3])) or len(data[:3])
    )
    engine.write(b"0123456789")
    assert (connection.taken, engine.is_full) == (b"0123456789", False)
    monkeypatch.setattr(connection, "send", lambda _: 0)
    engine.write(b"abc")
    engine.write(b"def")
    assert engine.is_full
    monkeypatch.undo()
    engine.flush()
    assert connection.taken == b"0123456789abcdef"


def test_redis_is_told_a_password_with_a_user_or_alone_and_has_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mcastd.engines.redis_connection.ANSWER_SECONDS", 0.05)
    for login, words in (
        (RedisLogin("me", "x"), b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$1\r\nx\r\n"),
        (RedisLogin("", "x"), b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"),
    ):
        engine = RedisEngine([], TlsFiles(), login, key="a", stream=STREAM)
        connection = connected(engine, [])
        with pytest.raises(TimeoutError):
            engine.greet(connection)
        assert connection.taken == words
