"""What is made of the answers of Kafka, without a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from mcastd.bell import Bell
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
