"""What consumers make of what servers say, by a connection in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted import Scripted

from mcastd.engines.connected import EngineServer
from mcastd.engines.consumer import MALFORMED, TOO_LONG, TRIMMED, Consumer, TakenMessage
from mcastd.engines.nats_connection import ANSWER_SECONDS, NatsLogin
from mcastd.engines.nats_consumer import QUIET_SECONDS, JetStreamConsumer, NatsConsumerPlan, NatsSubscriber
from mcastd.engines.redis_connection import RedisLogin
from mcastd.engines.redis_consumer import RedisConsumer, RedisConsumerPlan, entries_of
from mcastd.errors import SinkError
from mcastd.keytext import SigningKey
from mcastd.net.server_connection import TlsFiles
from mcastd.protocols.nkeys import Credentials
from mcastd.protocols.resp import RespError, RespFailure, RespReader

INFO = b'INFO {"max_payload":1048576,"headers":true}\r\n'
SERVER = EngineServer("nats://192.0.2.1", "192.0.2.1", 4222, is_encrypted=False)
PULLED = {"created": "today", "config": {"ack_policy": "explicit"}}


NOBODY, NOBODY_THERE = NatsLogin(), RedisLogin()


def jetstream(*, create: bool = False, subject: str = "", login: NatsLogin = NOBODY) -> JetStreamConsumer:
    plan = NatsConsumerPlan("TV", "radio", create=create, subject=subject, from_first=False)
    return JetStreamConsumer([SERVER], TlsFiles(), login, name="host/outbound/tv", plan=plan)


def subscriber() -> NatsSubscriber:
    return NatsSubscriber([SERVER], TlsFiles(), NatsLogin(), name="host/tv", subject="tv.>", queue="q")


def redis(*, create: bool = False, login: RedisLogin = NOBODY_THERE) -> RedisConsumer:
    plan = RedisConsumerPlan("k", "g", "host/tv", "data", create=create, from_first=True)
    return RedisConsumer([], TlsFiles(), login, plan=plan)


def connected(
    consumer: JetStreamConsumer | NatsSubscriber | RedisConsumer, said: Iterable[bytes]
) -> Scripted:
    consumer._connection = found = Scripted(said)
    return found


def answer(consumer: JetStreamConsumer, said: object) -> bytes:
    """To a question that JetStream was asked."""
    body = json.dumps(said).encode()
    return b"MSG %b.ask 1 %d\r\n%b\r\n" % (consumer.inbox.encode(), len(body), body)


def refused(code: int, words: str = "no") -> object:
    return {"error": {"code": 404, "err_code": code, "description": words}}


def given_by(place: int, payload: bytes, *, times: int = 1) -> bytes:
    """MSG of a consumer."""
    reply = b"$JS.ACK.TV.radio.%d.%d.7.1795769488.3" % (times, place)
    return b"MSG tv.a 1 %b %d\r\n%b\r\n" % (reply, len(payload), payload)


def name_of(place: int, times: int = 1) -> bytes:
    return b"$JS.ACK.TV.radio.%d.%d.7.1795769488.3" % (times, place)


def begun(consumer: JetStreamConsumer, *said: object) -> Scripted:
    answers = [answer(consumer, one) for one in said]
    connection = connected(consumer, [INFO, b"PONG\r\n", *answers])
    consumer.begin(connection, SERVER)
    connection.taken = b""
    return connection


def status(consumer: JetStreamConsumer, said: bytes, request: int = 1) -> bytes:
    head = b"NATS/1.0 %b\r\n\r\n" % said
    return b"HMSG %b.%d 1 %d %d\r\n%b\r\n" % (consumer.inbox.encode(), request, len(head), len(head), head)


class TestJetStream:
    def test_messages_are_asked_for_given_and_acknowledged(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        connection.said = iter([given_by(5, b"one") + given_by(6, b"")])
        consumer.ask(9)
        line, question, _ = connection.taken.split(b"\r\n")
        subject = b"$JS.API.CONSUMER.MSG.NEXT.TV.radio"
        assert line == b"PUB %b %b.1 %d" % (subject, consumer.inbox.encode(), len(question))
        assert json.loads(question) == {"batch": 9, "expires": 5_000_000_000}
        connection.taken = b""
        consumer.ask(9)
        assert connection.taken == b"", "they are still to come"
        found = consumer.receive()
        assert found == [
            TakenMessage(name_of(5), b"one", b"today 5.1795769488", may_be_again=True),
            TakenMessage(name_of(6), b"", b"today 6.1795769488", may_be_again=True),
        ]
        assert consumer.receive() is None
        consumer.acknowledge(found)
        assert connection.taken == b"".join(b"PUB %b 4\r\n+ACK\r\n" % name_of(place) for place in (5, 6))
        connection.taken = b""
        consumer.give_back(found[:1])
        assert connection.taken == b"PUB %b 4\r\n-NAK\r\n" % name_of(5)

    def test_one_that_comes_again_is_known_by_its_identity(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        connection.said = iter([given_by(5, b"one") + given_by(5, b"one", times=2)])
        first, again = consumer.receive() or ()
        assert first.identity == again.identity
        assert (first.name, again.name) == (name_of(5), name_of(5, 2))

    @pytest.mark.parametrize(
        ("later", "is_same"),
        [
            pytest.param("2026-11-27T14:04:23.396250404Z", True, id="so nats-server 2.9.10, once killed"),
            pytest.param("2026-11-27T14:04:24Z", False, id="made anew"),
        ],
    )
    def test_one_of_a_consumer_that_was_made_anew_is_another(self, later: str, is_same: bool) -> None:
        found = []
        for created in ("2026-11-27T14:04:23.396146156Z", later):
            consumer = jetstream()
            connection = begun(consumer, {**PULLED, "created": created})
            connection.said = iter([given_by(5, b"one")])
            (message,) = consumer.receive() or ()
            found.append(message.identity)
        assert (found[0] == found[1]) is is_same

    @pytest.mark.parametrize(
        ("policy", "acknowledged", "given_back"),
        [("explicit", 2, 2), ("all", 1, 0), ("none", 0, 0)],
    )
    def test_as_the_consumer_wants_it(self, policy: str, acknowledged: int, given_back: int) -> None:
        consumer = jetstream()
        connection = begun(consumer, {"config": {"ack_policy": policy}})
        messages = [TakenMessage(name_of(place), b"") for place in (5, 6)]
        consumer.acknowledge(messages)
        assert connection.taken.count(b"+ACK") == acknowledged
        assert not acknowledged or connection.taken.endswith(b"PUB %b 4\r\n+ACK\r\n" % name_of(6))
        consumer.give_back(messages)
        assert connection.taken.count(b"-NAK") == given_back

    def test_no_more_than_the_consumer_allows(self) -> None:
        consumer = jetstream()
        config = {"ack_policy": "explicit", "max_batch": 4, "max_expires": 1_500_000_000}
        connection = begun(consumer, {"config": config})
        consumer.ask(9)
        assert json.loads(connection.taken.split(b"\r\n")[1]) == {"batch": 4, "expires": 1_500_000_000}

    def test_a_request_that_is_over_is_followed_by_another(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        consumer.ask(2)
        said = [status(consumer, b"100 Idle Heartbeat"), status(consumer, b"408 Request Timeout", 7)]
        connection.said = iter(said)
        connection.taken = b""
        for _ in said:
            assert consumer.receive() == []
        consumer.ask(2)
        assert connection.taken == b"", "that was of another request"
        connection.said = iter([status(consumer, b"408 Request Timeout")])
        assert consumer.receive() == []
        consumer.ask(2)
        assert b".2 " in connection.taken.partition(b"\r\n")[0]

    def test_they_are_asked_for_in_their_domain(self) -> None:
        consumer = jetstream(login=NatsLogin(domain="hub"))
        connection = begun(consumer, PULLED)
        consumer.ask(2)
        assert connection.taken.startswith(b"PUB $JS.hub.API.CONSUMER.MSG.NEXT.TV.radio ")

    def test_more_are_asked_for_once_all_have_come(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        consumer.ask(2)
        connection.taken = b""
        connection.said = iter([given_by(5, b"one"), b"", given_by(6, b"two")])
        for asked_for in (False, True):
            consumer.receive()
            consumer.receive()
            consumer.ask(2)
            assert (connection.taken != b"") is asked_for

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            (b"409 Consumer Deleted", "the consumer radio of TV gives no messages: Consumer Deleted"),
            (b"503", "nobody gives messages of TV there"),
            (b"400", "gives no messages: 400"),
        ],
    )
    def test_what_ends_it(self, said: bytes, words: str) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        connection.said = iter([status(consumer, said)])
        with pytest.raises(SinkError, match=words):
            consumer.receive()

    def test_what_came_before_that_is_given(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        connection.said = iter([given_by(5, b"one") + status(consumer, b"409 Consumer Deleted")])
        assert [one.payload for one in consumer.receive() or ()] == [b"one"]
        with pytest.raises(SinkError, match="Consumer Deleted"):
            consumer.receive()

    def test_a_status_in_a_message_of_somebody_is_none_of_the_server(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        head = b"NATS/1.0 503 No\r\n\r\n"
        sizes = b"%d %d" % (len(head), len(head) + 1)
        connection.said = iter([b"HMSG tv.a 1 %b %b\r\n%bx\r\n" % (name_of(5), sizes, head)])
        (message,) = consumer.receive() or ()
        assert message.payload == b"x"

    def test_a_server_that_says_nothing_is_given_up(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        consumer.ask(2)
        consumer.tick(consumer.deadline - 0.1)
        with pytest.raises(TimeoutError, match="does not answer"):
            consumer.tick(consumer.deadline)
        connection.said = iter([b"PING\r\n"])
        assert consumer.receive() == []
        assert connection.taken.endswith(b"PONG\r\n")
        consumer.tick(consumer.deadline)
        connection.taken = b""
        consumer.ask(2)
        assert connection.taken.startswith(b"PUB "), "it is there, but that no more come was lost"

    def test_what_is_longer_than_any_datagram_has_no_payload(self) -> None:
        consumer = jetstream()
        connection = begun(consumer, PULLED)
        connection.said = iter([given_by(5, bytes(1_100_000)) + given_by(6, b"x")])
        first, second = consumer.receive() or ()
        assert (first.name, first.payload, first.defect, first.size) == (name_of(5), b"", TOO_LONG, 1_100_000)
        assert (second.payload, second.defect) == (b"x", "")

    def test_a_consumer_that_is_missing_is_made_if_that_is_wanted(self) -> None:
        consumer = jetstream(create=True, subject="tv.>")
        answers = [answer(consumer, refused(10_014)), answer(consumer, PULLED)]
        connection = connected(consumer, [INFO, b"PONG\r\n", *answers])
        consumer.begin(connection, SERVER)
        *_, line, question, _ = connection.taken.split(b"\r\n")
        assert line.startswith(b"PUB $JS.API.CONSUMER.DURABLE.CREATE.TV.radio ")
        asked = json.loads(question)
        assert asked["stream_name"] == "TV"
        assert asked["config"] == {
            "durable_name": "radio",
            "ack_policy": "explicit",
            "ack_wait": 30_000_000_000,
            "deliver_policy": "new",
            "filter_subject": "tv.>",
        }

    @pytest.mark.parametrize(
        ("said", "words", "way_out"),
        [
            (refused(10_059), "it has no stream TV", "nats stream ls"),
            (refused(10_014), "its stream TV has no consumer radio", "nats consumer add TV radio --pull"),
            (refused(10_039, "off"), "it does not give the consumer radio: off", "JetStream is on"),
            ({"config": {"deliver_subject": "to.me"}}, "radio pushes to to.me", "pulled from"),
            ({"config": {"headers_only": True}}, "radio gives headers alone", "without headers_only"),
            ({}, "it does not speak NATS", ""),
        ],
    )
    def test_one_that_cannot_be_taken_from(self, said: object, words: str, way_out: str) -> None:
        with pytest.raises(SinkError, match=words) as error:
            begun(jetstream(), said)
        assert error.value.what == "cannot take messages from "
        assert way_out in error.value.way_out


class TestSubject:
    def test_what_comes_while_it_is_connected_is_given(self) -> None:
        """The server gives it to nobody else of the queue."""
        consumer = subscriber()
        first = b"MSG tv.a 2 1\r\na\r\nPING\r\nMSG tv.a 2 1\r\nb\r\nPONG\r\nMSG tv.a 2 1\r\nc\r\nMSG tv"
        connection = connected(consumer, [INFO, b"PONG\r\n", first])
        consumer.begin(connection, SERVER)
        assert connection.taken.endswith(b"PONG\r\n")
        connection.said = iter([b".a 2 1\r\nd\r\n"])
        found = [*(consumer.receive() or ()), *(consumer.receive() or ())]
        assert [one.payload for one in found] == [b"a", b"b", b"c", b"d"]
        assert consumer.receive() is None

    def test_what_came_before_an_error_is_given(self) -> None:
        consumer = subscriber()
        connection = connected(consumer, [INFO, b"PONG\r\n", b"PONG\r\n"])
        consumer.begin(connection, SERVER)
        connection.said = iter([b"MSG tv.a 2 1\r\nx\r\n-ERR 'Slow Consumer'\r\nMSG tv.a 2 1\r\ny\r\n"])
        assert [one.payload for one in consumer.receive() or ()] == [b"x"]
        with pytest.raises(SinkError, match="Slow Consumer"):
            consumer.receive()

    def test_what_is_published_comes_by_itself(self) -> None:
        consumer = subscriber()
        connection = connected(consumer, [INFO, b"PONG\r\n", b"PONG\r\n", b"MSG tv.a 2 1\r\nx\r\n"])
        consumer.begin(connection, SERVER)
        assert connection.taken.endswith(b"SUB tv.> q 2\r\nPING\r\n")
        consumer.ask(5)
        (message,) = consumer.receive() or ()
        assert message == TakenMessage(b"tv.a", b"x")
        connection.taken = b""
        consumer.acknowledge([message])
        consumer.give_back([message])
        assert connection.taken == b""

    def test_what_comes_to_its_inbox_is_none_of_the_subject(self) -> None:
        consumer = subscriber()
        connection = connected(consumer, [INFO, b"PONG\r\n", b"PONG\r\n"])
        consumer.begin(connection, SERVER)
        connection.said = iter([b"MSG tv.a 1 1\r\nx\r\nMSG tv.b 2 1\r\ny\r\n"])
        assert consumer.receive() == [TakenMessage(b"tv.b", b"y")]

    def test_one_that_may_not_is_told_before_it_is_connected(self) -> None:
        consumer = subscriber()
        said = b"-ERR 'Permissions Violation for Subscription to \"tv.>\"'\r\n"
        with pytest.raises(SinkError, match=r'Subscription to "tv\.>"; give') as no:
            consumer.begin(connected(consumer, [INFO, b"PONG\r\n", said]), SERVER)
        assert no.value.way_out == "give the user that permission at the server"

    def test_in_silence_it_is_asked_whether_it_is_there(self) -> None:
        consumer = subscriber()
        connection = connected(consumer, [INFO, b"PONG\r\n", b"PONG\r\n"])
        consumer.begin(connection, SERVER)
        connection.taken = b""
        consumer.tick(consumer.deadline - 1)
        assert connection.taken == b""
        consumer.tick(now := consumer.deadline)
        assert connection.taken == b"PING\r\n"
        assert consumer.deadline == now + ANSWER_SECONDS
        connection.said = iter([b"PONG\r\n"])
        assert consumer.receive() == []
        consumer.tick(now := consumer.deadline)
        assert connection.taken == b"PING\r\n", "it is"
        assert consumer.deadline == now + QUIET_SECONDS
        consumer.tick(consumer.deadline)
        assert connection.taken == b"PING\r\n" * 2
        with pytest.raises(TimeoutError, match="does not answer"):
            consumer.tick(consumer.deadline)


NO_GROUP = b"-NOGROUP No such key 'k' or consumer group 'g' in XREADGROUP with GROUP option\r\n"
NONE_BEFORE = b"*1\r\n*2\r\n$1\r\nk\r\n*0\r\n"
PONG = b"+PONG\r\n"


def entries(*found: tuple[bytes, dict[bytes, bytes] | None]) -> bytes:
    """The answer to XREADGROUP."""
    text = b"*1\r\n*2\r\n$1\r\nk\r\n*%d\r\n" % len(found)
    for name, fields in found:
        text += b"*2\r\n$%d\r\n%b\r\n" % (len(name), name)
        text += b"*-1\r\n" if fields is None else b"*%d\r\n" % (2 * len(fields))
        for word in (word for pair in (fields or {}).items() for word in pair):
            text += b"$%d\r\n%b\r\n" % (len(word), word)
    return text


def asked(taken: bytes) -> list[list[bytes]]:
    """The commands in what was sent."""
    return RespReader().feed(taken)  # type: ignore[return-value] # each is an array of strings


def begun_redis(consumer: RedisConsumer, *said: bytes) -> Scripted:
    connection = connected(consumer, [PONG, *said])
    consumer.begin(connection, SERVER)
    connection.taken = b""
    return connection


class TestRedis:
    def test_what_was_not_acknowledged_comes_first(self) -> None:
        consumer = redis()
        connection = begun_redis(consumer, NONE_BEFORE)
        connection.said = iter([entries((b"1-1", {b"data": b"old"})), b":1\r\n" + NONE_BEFORE])
        consumer.ask(9)
        who = [b"XREADGROUP", b"GROUP", b"g", b"host/tv", b"COUNT", b"9"]
        assert asked(connection.taken) == [[*who, b"STREAMS", b"k", b"0"]]
        (old,) = consumer.receive() or ()
        assert old == TakenMessage(b"1-1", b"old", b"1-1", may_be_again=True)
        connection.taken = b""
        consumer.acknowledge([old])
        consumer.ask(9)
        assert asked(connection.taken) == [[b"XACK", b"k", b"g", b"1-1"], [*who, b"STREAMS", b"k", b"0"]]
        assert consumer.receive() == []
        connection.taken = b""
        consumer.ask(9)
        assert asked(connection.taken) == [[*who, b"BLOCK", b"5000", b"STREAMS", b"k", b">"]]
        connection.said = iter([entries((b"1-2", {b"data": b"new"}))])
        assert consumer.receive() == [TakenMessage(b"1-2", b"new", b"1-2")]
        consumer.ask(9)
        connection.taken = b""
        consumer.ask(9)
        assert connection.taken == b"", "it is still to answer"

    def test_entries_without_the_datagram(self) -> None:
        consumer = redis()
        found = entries((b"1-1", {b"x": b"y", b"data": b""}), (b"1-2", {b"x": b"data"}), (b"1-3", None))
        connection = begun_redis(consumer, NONE_BEFORE)
        connection.said = iter([found[:30], found[30:]])
        consumer.ask(9)
        assert consumer.receive() == []
        assert [(one.name, one.payload, one.defect) for one in consumer.receive() or ()] == [
            (b"1-1", b"", ""),
            (b"1-2", b"", MALFORMED),
            (b"1-3", b"", TRIMMED),
        ]

    def test_what_is_longer_than_any_datagram_has_no_payload(self) -> None:
        """Anybody may write such entries: they would be the first to come at each connection."""
        many = {b"f%d" % number: b"x" for number in range(3000)}
        long = {b"f%d" % number: bytes(60_000) for number in range(5)}
        found = entries(
            (b"1-1", {b"data": b"data", **many}),
            (b"1-2", {**many, b"data": b"data"}),
            (b"1-3", {**long, b"data": bytes(50_000)}),
            (b"1-4", {b"data": bytes(20 << 20)}),
            (b"1-5", {b"data": bytes(65_507)}),
        )
        consumer = redis()
        connection = begun_redis(consumer, NONE_BEFORE)
        pieces = [found[at : at + 250_000] for at in range(0, len(found), 250_000)]
        connection.said = iter(pieces)
        consumer.ask(9)
        taken = [one for _ in pieces for one in consumer.receive() or ()]
        assert [(one.name, len(one.payload), one.defect, one.size) for one in taken] == [
            (b"1-1", 4, "", 0),
            (b"1-2", 0, MALFORMED, 0),
            (b"1-3", 0, TOO_LONG, 50_000),
            (b"1-4", 0, TOO_LONG, 20 << 20),
            (b"1-5", 65_507, "", 0),
        ]

    def test_nothing_in_all_that_time_is_asked_for_again(self) -> None:
        consumer = redis()
        connection = begun_redis(consumer, NONE_BEFORE)
        consumer._is_behind = False
        consumer.ask(9)
        connection.said = iter([b"*-1\r\n"])
        assert consumer.receive() == []
        connection.taken = b""
        consumer.ask(9)
        assert connection.taken.startswith(b"*")
        connection.said = iter([b"*1\r\n*2\r\n$1\r\nk"])
        assert consumer.receive() == []
        consumer.tick(now := consumer.deadline)
        assert consumer.deadline > now, "a part of an answer has come"
        with pytest.raises(TimeoutError, match="does not answer"):
            consumer.tick(consumer.deadline)

    def test_a_group_that_is_missing_is_made_if_that_is_wanted(self) -> None:
        with pytest.raises(SinkError, match="its stream k has no group g") as error:
            begun_redis(redis(), NO_GROUP)
        assert "XGROUP CREATE k g $ MKSTREAM" in error.value.way_out
        for made in (b"+OK\r\n", b"-BUSYGROUP Consumer Group name already exists\r\n"):
            consumer = redis(create=True)
            connection = connected(consumer, [PONG, made, NONE_BEFORE])
            consumer.begin(connection, SERVER)
            _, create, _ = asked(connection.taken)
            assert create == [b"XGROUP", b"CREATE", b"k", b"g", b"0", b"MKSTREAM"]
        with pytest.raises(SinkError, match="it says WRONGTYPE") as error:
            begun_redis(redis(create=True), b"-WRONGTYPE Operation against a key\r\n")
        assert error.value.way_out == "give another key: this one holds no stream"

    def test_who_may_not_is_told_which_commands_it_takes(self) -> None:
        with pytest.raises(SinkError, match="it says NOPERM") as error:
            begun_redis(redis(), b"-NOPERM this user has no permissions\r\n")
        assert error.value.way_out == "allow the user XREADGROUP, XACK and XGROUP on the key"

    def test_what_was_not_asked_is_no_answer(self) -> None:
        consumer = redis()
        connection = begun_redis(consumer, NONE_BEFORE)
        connection.said = iter([b":1\r\n"])
        with pytest.raises(SinkError, match="answers what was not asked"):
            consumer.receive()


@given(st.recursive(st.none() | st.integers() | st.binary() | st.just("x"), st.lists, max_leaves=12))
def test_any_answer_of_redis_is_read_or_refused(said: object) -> None:
    try:
        found = entries_of(said)  # type: ignore[arg-type] # whatever a server answers
    except RespError:
        return
    assert all(isinstance(name, bytes) for name, _ in found)


# -- what engines and consumers have in common


def test_no_error_repeats_a_secret() -> None:
    login = NatsLogin(user="me", password="s3cret", token="t0ken")
    said = b"-ERR 'Unknown Protocol Operation: s3cret t0ken'\r\n"
    consumer = jetstream(login=login)
    with pytest.raises(SinkError, match=r"Unknown Protocol Operation: \*\*\* \*\*\*"):
        consumer.begin(connected(consumer, [INFO, said]), SERVER)
    with_jwt = NatsLogin(credentials=Credentials(SigningKey(bytes(range(32))), "eyJ.s3cret"))
    assert with_jwt.hidden_in("bad JWT eyJ.s3cret") == "bad JWT ***"
    other = redis(login=RedisLogin(password="s3cret"))
    unknown = b"-ERR unknown command 'AUTH', with args beginning with: 's3cret'\r\n"
    with pytest.raises(SinkError, match=r"beginning with: '\*\*\*'"):
        other.begin(connected(other, [unknown]), SERVER)


def test_a_long_refusal_is_one_sentence() -> None:
    said = RespFailure("DENIED Redis is in protected mode. In this mode connections are only accepted. 1) x.")
    error = redis().refused(said)
    assert error.cause == "it says DENIED Redis is in protected mode"
    assert "protected-mode no" in error.way_out


def test_tls_may_come_before_all_else() -> None:
    server = EngineServer("tls://192.0.2.1", "192.0.2.1", 4222, is_encrypted=True)
    first, then = (jetstream(login=NatsLogin(tls_first=tls_first)) for tls_first in (True, False))
    calls = []
    for consumer in (first, then):
        connection = connected(consumer, [INFO, b"PONG\r\n", answer(consumer, PULLED)])
        consumer.begin(connection, server)
        calls.append(connection.calls)
    assert first.encrypts_at_first
    assert calls == [[], ["encrypt 192.0.2.1"]], "connect() has done it for the first"


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(104, "it has closed the connection")])
def test_a_server_that_waits_for_tls_is_told_how_to_be_asked(error: OSError) -> None:
    def silence() -> Iterator[bytes]:
        raise error
        yield b""

    server = EngineServer("tls://192.0.2.1", "192.0.2.1", 4222, is_encrypted=True)
    consumer = jetstream()
    with pytest.raises(SinkError, match="it says nothing before TLS") as told:
        consumer.begin(connected(consumer, silence()), server)
    assert "tls_first = true" in told.value.way_out
    with pytest.raises(type(error)):
        consumer.begin(connected(consumer, silence()), SERVER)


def test_a_consumer_is_one() -> None:
    for one in (jetstream(), subscriber(), redis()):
        assert isinstance(one, Consumer)
