"""What is made of the answers of Kafka, without a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.wait import wait_for

from mcastd.bell import Bell
from mcastd.engines import kafka as module
from mcastd.engines.engine import TOO_BIG, UNREACHABLE, KeptStream
from mcastd.engines.kafka import KafkaEngine, KafkaLogin, KafkaPlace
from mcastd.errors import SinkError
from mcastd.net.server_connection import TlsFiles

kafka = pytest.importorskip("confluent_kafka", reason="needs confluent-kafka: pip install confluent-kafka")
KafkaError = kafka.KafkaError


@pytest.fixture
def engine() -> Iterator[KafkaEngine]:
    """As it is while it is connected; no library is behind it."""
    place = KafkaPlace(["192.0.2.7:9092"], False, "news")
    found = KafkaEngine(place, TlsFiles(), KafkaLogin(), KeptStream("239.255.9.7", 9190, "host/inbound/tv"))
    found._bell = Bell()
    found._producer = object()
    yield found
    found._bell.close()


def test_a_record_that_is_too_large_is_refused_and_the_others_are_kept(engine: KafkaEngine) -> None:
    for number, code in ((1, None), (2, KafkaError.MSG_SIZE_TOO_LARGE), (3, None)):
        engine._delivered(number, code if code is None else KafkaError(code), None)
    answers = engine.receive()
    assert answers.kept == [1, 3]
    (refused,) = answers.refused
    assert (refused.number, refused.reason) == (2, TOO_BIG)


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "refused", "kafka-acls.sh"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "refused", "kafka-topics.sh"),
        (KafkaError.NOT_ENOUGH_REPLICAS, "refused", "min.insync.replicas"),
        (KafkaError._MSG_TIMED_OUT, UNREACHABLE, "cannot reach 192.0.2.7:9092"),
    ],
)
def test_what_is_not_taken_ends_the_connection_after_what_was(
    engine: KafkaEngine, code: int, reason: str, words: str
) -> None:
    engine._delivered(1, None, None)
    engine._delivered(2, KafkaError(code), None)
    engine._delivered(3, None, None)
    assert engine.receive().kept == [1]
    with pytest.raises(SinkError) as raised:
        engine.receive()
    assert raised.value.reason == reason
    assert words in str(raised.value)


def test_what_is_wrong_with_a_server_is_said_rather_than_that_all_are_away(engine: KafkaEngine) -> None:
    engine._said += [
        KafkaError(KafkaError._AUTHENTICATION, "a/bootstrap: wrong password (after 3ms in state AUTH_REQ)"),
        KafkaError(KafkaError._TRANSPORT, "b/bootstrap: Connection refused"),
        KafkaError(KafkaError._ALL_BROKERS_DOWN, "2/2 brokers are down"),
    ]
    error = engine._unreachable(KafkaError(KafkaError._TRANSPORT))
    assert str(error) == (
        "cannot reach 192.0.2.7:9092: a/bootstrap: wrong password; give another user, password or mechanism"
    )


def test_what_was_made_for_another_kind_of_engine_is_never_sent(engine: KafkaEngine) -> None:
    with pytest.raises(SinkError, match="another kind of engine"):
        engine.send([(1, b"*3\r\n$4\r\nXADD\r\n")])


def test_without_the_library_it_is_said_how_to_have_it(
    engine: KafkaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(SinkError, match=r"confluent-kafka is missing; pip install 'mcastd\[kafka\]'"):
        engine.connect()


class Library:
    """confluent_kafka, as far as a connection needs it: a topic of one partition, and what it answers."""

    KafkaException = kafka.KafkaException
    KafkaError = kafka.KafkaError
    TopicPartition = kafka.TopicPartition

    def __init__(self) -> None:
        self.no_consumer: Exception | None = None  # why none can be made
        self.ends: tuple[int, int] | Exception | None = (0, 0)  # of the partition, or why they are not said
        self.records: list[object] = []
        self.servers = ["192.0.2.7:9092"]  # as the cluster names them
        self.running = 0  # producers that are asked for answers

    def Producer(self, settings: dict[str, Any], logger: object) -> object:
        def poll(_: float) -> None:
            self.running += 1

        topic = SimpleNamespace(error=None, partitions=[0])
        ends = [end.split(":") for end in self.servers]
        brokers = {
            number: SimpleNamespace(host=host, port=int(port)) for number, (host, port) in enumerate(ends)
        }
        listed = SimpleNamespace(topics={"news": topic}, brokers=brokers)
        return SimpleNamespace(list_topics=lambda *_, **__: listed, poll=poll, purge=lambda: None)

    def Consumer(self, settings: dict[str, Any], logger: object) -> object:
        if self.no_consumer is not None:
            raise self.no_consumer

        def ends(*_: object, **__: object) -> tuple[int, int] | None:
            if isinstance(self.ends, Exception):
                raise self.ends
            return self.ends

        return SimpleNamespace(
            get_watermark_offsets=ends,
            assign=lambda _: None,
            consume=lambda *_, **__: self.records,
            close=lambda: None,
        )


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(module, "_library", lambda _: found)
    return found


def connecting() -> KafkaEngine:
    place = KafkaPlace(["192.0.2.7:9092"], False, "news")
    return KafkaEngine(place, TlsFiles(), KafkaLogin(), KeptStream("239.255.9.7", 9190, "host/inbound/tv"))


def record(offset: int, number: int | None, error: object = None) -> object:
    headers = [] if number is None else [("id", b"host/inbound/tv/%d" % number)]
    return SimpleNamespace(error=lambda: error, headers=lambda: headers, offset=lambda: offset)


def test_a_connection_leaves_no_descriptor_behind(library: Library, no_fd_leak: None) -> None:
    for count in range(1, 4):
        engine = connecting()
        assert engine.connect() == 0
        assert engine.fileno() >= 0
        wait_for(lambda count=count: library.running >= count, "its thread runs")
        engine.close()


def test_the_last_record_of_ours_is_found_among_those_of_others(library: Library) -> None:
    library.ends = (3, 9)
    library.records = [record(3, 5), record(4, 7), record(8, None)]
    engine = connecting()
    assert engine.connect() == 7
    engine.close()


@pytest.mark.parametrize(
    ("what", "code", "known"),
    [
        ("ends", KafkaError.TOPIC_AUTHORIZATION_FAILED, 0),
        ("ends", KafkaError.LEADER_NOT_AVAILABLE, None),
        ("ends", KafkaError._TRANSPORT, None),
        ("record", KafkaError._PARTITION_EOF, 5),
        ("record", KafkaError.GROUP_AUTHORIZATION_FAILED, 5),
        ("record", KafkaError._ALL_BROKERS_DOWN, None),
        ("no_consumer", KafkaError._FAIL, None),
        ("ends", None, None),
    ],
)
def test_what_cannot_be_asked_now_is_asked_again_before_anything_is_sent(
    library: Library, no_fd_leak: None, what: str, code: int | None, known: int | None
) -> None:
    """Else what is there, and had no answer, would be there twice."""
    if what == "record":
        library.ends, library.records = (3, 9), [record(3, 5), record(4, None, KafkaError(code))]
    else:
        setattr(library, what, None if code is None else kafka.KafkaException(KafkaError(code)))
    engine = connecting()
    if known is None:
        with pytest.raises(SinkError):
            engine.connect()
    else:
        assert engine.connect() == known
        engine.close()


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._DESTROY, None])
def test_a_cluster_that_says_it_is_elsewhere_is_named_by_what_it_says(
    library: Library, code: int | None
) -> None:
    """As brokers in containers do: our servers answer, and name others, which are out of reach."""
    library.ends = None if code is None else kafka.KafkaException(KafkaError(code))
    library.servers = ["localhost:29092", "kafka:9092"]
    with pytest.raises(SinkError, match=r"reach kafka:9092, localhost:29092.*advertised\.listeners"):
        connecting().connect()
    library.servers = ["192.0.2.7:9092", "kafka:9092"]  # one of ours is among them
    with pytest.raises(SinkError) as raised:
        connecting().connect()
    assert "advertised" not in str(raised.value)
