"""What servers of NATS say, cut anywhere, and what is no NATS."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols import nats
from mcastd.protocols.nats import NatsError, NatsLine, NatsMessage, NatsReader

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
    NatsMessage(b"in.9", b"hi", 503, 3, head=b"NATS/1.0 503\r\nStatus: x\r\n\r\n"),
    NatsMessage(
        *(b"in.9", b"", 408, 4, b"to", "Request Timeout"), head=b"NATS/1.0 408 Request Timeout\r\n\r\n"
    ),
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


TOO_LONG = b"MSG in.5 1 2000000\r\n"


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([*SAID.splitlines(True), TOO_LONG])).map(b"".join),
    st.booleans(),
)
def test_anything_is_read_or_refused(said: bytes, leaves_out: bool) -> None:
    reader = NatsReader(leaves_out)
    for begin in range(0, len(said), 7):
        try:
            found = reader.feed(said[begin : begin + 7])
        except NatsError:
            return
        assert all(isinstance(one, NatsLine | NatsMessage) for one in found)


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
