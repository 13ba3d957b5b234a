"""What JetStream answers, and what is no such answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols import jetstream, nats
from mcastd.protocols.jetstream import JetStreamRefusal, StoredMessage
from mcastd.protocols.nats import NatsError, NatsMessage, NatsReader


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"stream":"TV", "seq":5}', StoredMessage(5, False)),
        (b'{"stream":"TV","seq":5,"duplicate": true}', StoredMessage(5, True)),
        (b'{"stream":"TV","seq":5,"domain":"hub"}', StoredMessage(5, False)),
        (b'{"seq":503,"stream":"error"}', StoredMessage(503, False)),
        (
            b'{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}',
            JetStreamRefusal(400, 10_054, "message size exceeds maximum allowed"),
        ),
        (b'{"error":{"code":"x"}}', JetStreamRefusal(0, 0, "")),
    ],
)
def test_the_answer_to_a_message(answer: bytes, expected: object) -> None:
    assert jetstream.parse_stored(answer) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"$JS.ACK.TV.radio.1.55.7.1795769488.3", b"55.1795769488"),
        (b"$JS.ACK.TV.radio.2.55.8.1795769488.0", b"55.1795769488"),
        (b"$JS.ACK.hub.ACC.TV.radio.3.55.7.1795769488.3", b"55.1795769488"),
        (b"$JS.ACK._.ACC.TV.radio.4.55.7.1795769488.3.token", b"55.1795769488"),
        (b"$JS.ACK.TV.radio.1.55.7.1795769488", None),
        (b"_INBOX.7", None),
        (b"", None),
    ],
)
def test_where_a_message_stands_in_its_stream(reply: bytes, expected: bytes | None) -> None:
    assert jetstream.place_of(reply) == expected


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"$JS", b"ACK", b"1", b""])).map(b".".join))
def test_any_reply_is_read(reply: bytes) -> None:
    jetstream.place_of(reply)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"config": {"subjects": ["a.b", "c.>"]}}, ["a.b", "c.>"]),
        ({"config": {"subjects": ["a\x1b[2J", 5, "\ud800"]}}, ["a[2J", "?"]),
        ({"config": {"mirror": {"name": "TV"}}}, []),
        ({"config": {"subjects": "a"}}, None),
        ({"config": 5}, None),
        ({}, None),
    ],
)
def test_which_subjects_a_stream_takes(answer: dict[str, object], expected: list[str] | None) -> None:
    assert jetstream.subjects_of(answer) == expected


def test_what_is_said_of_a_consumer() -> None:
    parse = jetstream.ConsumerInfo.parse
    config = {"ack_policy": "explicit", "max_batch": 9, "max_expires": 2_500_000_000}
    explicit = {"created": "2026-11-27", "config": config}
    assert parse(explicit) == jetstream.ConsumerInfo(jetstream.AckPolicy.EXPLICIT, "", 9, 2.5, "2026-11-27")
    pushed = {"config": {"ack_policy": "all", "deliver_subject": "to.me", "max_batch": -1}}
    assert parse(pushed) == jetstream.ConsumerInfo(jetstream.AckPolicy.ALL, "to.me", 0, 0.0, "")
    assert parse({"config": {"max_expires": 10**400}}).request_seconds == 1e9
    assert parse({"config": {}}).acknowledges == jetstream.AckPolicy.NONE
    for wrong in ({}, {"config": 5}, {"config": {"ack_policy": "odd"}}, {"config": {"ack_policy": []}}):
        with pytest.raises(NatsError):
            parse(wrong)


def test_only_a_message_that_is_too_large_is_refused_for_good() -> None:
    assert JetStreamRefusal(400, jetstream.MESSAGE_EXCEEDS_MAXIMUM, "").is_final
    assert not JetStreamRefusal(503, 10_077, "maximum messages exceeded").is_final


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    for parse in (jetstream.parse_stored, jetstream.parse_answer, nats.ServerInfo.parse):
        try:
            parse(answer)
        except NatsError:
            continue


@given(
    st.lists(st.tuples(st.integers(0, 1 << 63), st.booleans()), max_size=5),
    st.sampled_from([b"", b"PING\r\n", b"MSG in.7 1 9\r\n", b"MSG in.7 1  24\r\n{"]) | st.binary(max_size=20),
)
def test_answers_in_a_row_are_read_as_one_after_the_other(
    answers: list[tuple[int, bool]], rest: bytes
) -> None:
    said = b"".join(
        b"MSG in.%d 1  %d\r\n%b\r\n" % (number, len(body), body)
        for number, again in answers
        for body in [b'{"stream":"TV", "seq":%d%b}' % (number, b', "duplicate": true' if again else b"")]
    )
    plain = [
        (int(one.subject.removeprefix(b"in.")), stored.is_duplicate)
        for one in NatsReader().feed(said)
        if isinstance(one, NatsMessage)
        and isinstance(stored := jetstream.parse_stored(one.payload), StoredMessage)
    ]
    assert plain == answers
    expected = [number for number, _ in answers], sum(again for _, again in answers), len(said)
    assert jetstream.StoredScanner(b"in.").scan(said + rest) == expected


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
KEYS = st.sampled_from(["subjects", "ack_policy", "deliver_subject", "max_batch", "max_expires"])


@given(st.dictionaries(st.just("config"), VALUES | st.dictionaries(KEYS, VALUES)))
def test_anything_that_is_said_of_streams_and_consumers_is_read_or_refused(answer: dict[str, object]) -> None:
    jetstream.subjects_of(answer)
    try:
        jetstream.ConsumerInfo.parse(answer)
    except NatsError:
        return
