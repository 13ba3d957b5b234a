"""What servers of NATS say, cut anywhere, and what is no NATS."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols import nats
from mcastd.protocols.nats import (
    JetStreamRefusal,
    NatsError,
    NatsLine,
    NatsMessage,
    NatsReader,
    StoredMessage,
)

SAID = (
    b'INFO {"server_name":"a"}\r\nPING\r\n+OK\r\n-ERR \'Authorization Violation\'\r\n'
    b"MSG in.7 1 5\r\nhello\r\nmsg\r\n"
    b"MSG in.8 2 reply 0\r\n\r\n"
    b"HMSG in.9 3 27 29\r\nNATS/1.0 503\r\nStatus: x\r\n\r\nhi\r\n"
    b"HMSG in.9 4 to 32 32\r\nNATS/1.0 408 Request Timeout\r\n\r\n\r\n"
)
READ = [
    NatsLine("INFO", b'{"server_name":"a"}'),
    NatsLine("PING", b""),
    NatsLine("+OK", b""),
    NatsLine("-ERR", b"'Authorization Violation'"),
    NatsMessage(b"in.7", b"hello", subscription=1),
    NatsLine("MSG", b""),
    NatsMessage(b"in.8", b"", subscription=2, reply=b"reply"),
    NatsMessage(b"in.9", b"hi", 503, 3),
    NatsMessage(b"in.9", b"", 408, 4, b"to", "Request Timeout"),
]


@given(st.lists(st.integers(0, len(SAID)), max_size=6))
def test_what_a_server_says_is_read_wherever_it_is_cut(cuts: list[int]) -> None:
    reader, found = NatsReader(), []
    places = [0, *sorted(cuts), len(SAID)]
    for begin, end in pairwise(places):
        found += reader.feed(SAID[begin:end])
    assert found == READ


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"MSG in 1\r\n", "a line that is none"),
        (b"MSG in 1 x\r\n\r\n", "no number"),
        (b"MSG in 1 -1\r\n\r\n", "no number"),
        (b"MSG in 1 99999999999\r\n\r\n", "no number"),
        (b"MSG in 1 1048577\r\n", "1048577 bytes"),
        (b"HMSG in 1 9 5\r\nxxxxx\r\n", "5 bytes, its head 9"),
        (b"MSG in 1 2\r\nhello\r\n", "does not end"),
        (b"\xff\xfe\r\n", "the name of an operation"),
        (b"x" * 70_000, "longer than 65536"),
    ],
)
def test_what_is_no_nats_is_refused(said: bytes, words: str) -> None:
    with pytest.raises(NatsError, match=words):
        NatsReader().feed(said)


@given(st.binary(max_size=200) | st.lists(st.sampled_from(SAID.splitlines(True))).map(b"".join))
def test_anything_is_read_or_refused(said: bytes) -> None:
    reader = NatsReader()
    for begin in range(0, len(said), 7):
        try:
            found = reader.feed(said[begin : begin + 7])
        except NatsError:
            return
        assert all(isinstance(one, NatsLine | NatsMessage) for one in found)


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
    assert nats.parse_stored(answer) == expected


@given(st.lists(st.integers(0, 1_048_700), max_size=4))
def test_a_message_that_is_too_long_may_be_left_out(cuts: list[int]) -> None:
    """Wherever it is cut: what follows it is read, and nothing of it is kept."""
    before, after = b"MSG a 1 1\r\nx\r\n", b"MSG b 1 2\r\nyz\r\n"
    said = before + b"HMSG c 2 $JS.ACK.x 12 1048589\r\nNATS/1.0\r\n\r\n" + bytes(1_048_577) + b"\r\n" + after
    reader, found = NatsReader(leaves_out=True), []
    for begin, end in pairwise([0, *sorted(cuts), len(said)]):
        found += reader.feed(said[begin:end])
        assert len(reader._bytes) < 100
    assert found == [
        NatsMessage(b"a", b"x", subscription=1),
        NatsMessage(b"c", b"", subscription=2, reply=b"$JS.ACK.x", left_out=1_048_577),
        NatsMessage(b"b", b"yz", subscription=1),
    ]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"$JS.ACK.TV.radio.1.55.7.1795769488.3", nats.Delivery(b"55.1795769488", 1)),
        (b"$JS.ACK.TV.radio.2.55.8.1795769488.0", nats.Delivery(b"55.1795769488", 2)),
        (b"$JS.ACK.hub.ACC.TV.radio.3.55.7.1795769488.3", nats.Delivery(b"55.1795769488", 3)),
        (b"$JS.ACK._.ACC.TV.radio.4.55.7.1795769488.3.token", nats.Delivery(b"55.1795769488", 4)),
        (b"$JS.ACK.TV.radio.x.55.7.1795769488.3", None),
        (b"$JS.ACK.TV.radio.1.55.7.1795769488", None),
        (b"_INBOX.7", None),
        (b"", None),
    ],
)
def test_what_a_message_is_acknowledged_to(reply: bytes, expected: nats.Delivery | None) -> None:
    assert nats.delivery_of(reply) == expected


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"$JS", b"ACK", b"1", b""])).map(b".".join))
def test_any_reply_is_read(reply: bytes) -> None:
    nats.delivery_of(reply)


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
    assert nats.subjects_of(answer) == expected


def test_what_is_said_of_a_consumer() -> None:
    parse = nats.ConsumerInfo.parse
    explicit = {"config": {"ack_policy": "explicit", "max_batch": 9, "max_expires": 2_500_000_000}}
    assert parse(explicit) == nats.ConsumerInfo(nats.AckPolicy.EXPLICIT, "", 9, 2.5)
    pushed = {"config": {"ack_policy": "all", "deliver_subject": "to.me", "max_batch": -1}}
    assert parse(pushed) == nats.ConsumerInfo(nats.AckPolicy.ALL, "to.me", 0, 0.0)
    assert parse({"config": {}}).acknowledges == nats.AckPolicy.NONE
    for wrong in ({}, {"config": 5}, {"config": {"ack_policy": "odd"}}, {"config": {"ack_policy": []}}):
        with pytest.raises(NatsError):
            parse(wrong)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"'Authorization Violation'", "Authorization Violation"),
        (b"'Permissions Violation for Publish to \"a.b\"'", 'Permissions Violation for Publish to "a.b"'),
        (b" no quotes \x1b[2J", "no quotes [2J"),
    ],
)
def test_what_an_error_says(rest: bytes, said: str) -> None:
    assert nats.error_of(rest) == said


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.c", True),
        ("a.*", "a.c.d", False),
        ("*.c", "a.c", True),
        ("a.>", "a.c.d", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*.>", "a.b", False),
    ],
)
def test_which_subjects_a_pattern_receives(pattern: str, subject: str, expected: bool) -> None:
    assert nats.matches(pattern, subject) is expected


def test_a_queue_is_named_where_one_is_subscribed_to() -> None:
    assert nats.subscribe("a.>", 2) == b"SUB a.> 2\r\n"
    assert nats.subscribe("a.>", 2, "q") == b"SUB a.> q 2\r\n"


def test_only_a_message_that_is_too_large_is_refused_for_good() -> None:
    assert JetStreamRefusal(400, nats.MESSAGE_EXCEEDS_MAXIMUM, "").is_final
    assert not JetStreamRefusal(503, 10_077, "maximum messages exceeded").is_final


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    for parse in (nats.parse_stored, nats.parse_answer, nats.ServerInfo.parse):
        try:
            parse(answer)
        except NatsError:
            continue


def test_what_a_server_says_of_itself() -> None:
    info = nats.ServerInfo.parse(
        b'{"server_name":"a\\u001b[2J","version":"2.9.10","max_payload":100,"headers":true,"nonce":"n"}'
    )
    assert info == nats.ServerInfo("a[2J", "2.9.10", 100, True, False, "n")
    assert nats.ServerInfo.parse(b"{}").max_payload == nats.PAYLOAD_MAX_BYTES


@pytest.mark.parametrize(
    ("subject", "is_one"),
    [
        ("a", True),
        ("a.b-c.1", True),
        ("a..b", False),
        ("", False),
        ("a b", False),
        ("a.*", False),
        ("a.>", False),
    ],
)
def test_subjects(subject: str, is_one: bool) -> None:
    assert nats.is_subject(subject) is is_one
    assert nats.is_subject("a.*.>", wildcards=True)


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
        and isinstance(stored := nats.parse_stored(one.payload), StoredMessage)
    ]
    assert plain == answers
    expected = [number for number, _ in answers], sum(again for _, again in answers), len(said)
    assert nats.StoredScanner(b"in.").scan(said + rest) == expected
