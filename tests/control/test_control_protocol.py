"""The wire, without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcastd.control.protocol import Call, Decoder, ProtocolError, Reply

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
# A busy machine is no failure.
unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
OBJECTS = st.dictionaries(st.text(), JSON)
CALLS = st.builds(Call, st.text(min_size=1), OBJECTS, st.booleans(), st.booleans(), st.booleans())
REPLIES = st.builds(Reply, OBJECTS, st.text(), st.booleans())


@given(st.lists(CALLS, max_size=5), st.integers(1, 50))
@unhurried
def test_calls_survive_the_wire_however_it_is_cut(calls: list[Call], size: int) -> None:
    stream = b"".join(call.encode() for call in calls)
    decoder = Decoder(1 << 20)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [Call.decode(message) for piece in pieces for message in decoder.feed(piece)] == calls


@given(REPLIES)
@unhurried
def test_replies_survive_the_wire(reply: Reply) -> None:
    assert [Reply.decode(message) for message in Decoder(1 << 20).feed(reply.encode())] == [reply]


def test_a_number_that_varlink_has_not_is_the_nearest_that_it_has() -> None:
    """A stranger's numbers add up to any sum, and who asks for the status is to read it nevertheless."""
    digits = "9" * 30
    said = {"lost": 1 << 70, "behind": [-(1 << 70), 1 << 63], "session": digits, "known": True, digits: None}
    (message,) = Decoder(1 << 20).feed(Reply(said).encode())
    assert Reply.decode(message).parameters == {
        "lost": (1 << 63) - 1,
        "behind": [-(1 << 63), (1 << 63) - 1],
        "session": digits,
        "known": True,
        digits: None,
    }


@pytest.mark.parametrize(("number", "nearest"), [(1 << 63, (1 << 63) - 1), (-(1 << 63) - 1, -(1 << 63))])
def test_the_first_number_that_varlink_has_not_is_found_alone(number: int, nearest: int) -> None:
    (message,) = Decoder(1 << 20).feed(Reply({"lost": number}).encode())
    assert Reply.decode(message).parameters == {"lost": nearest}


@given(st.binary())
@unhurried
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    try:
        for message in Decoder(64).feed(data):
            Call.decode(message)
            Reply.decode(message)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"1", b"null", b'"a"', b"\xff{}", b"{}{}", b"[" * 100_000, '{"a":1}'.encode("utf-16")],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder(1 << 20).feed(text + b"\0"))


@pytest.mark.parametrize(
    "message",
    [{}, {"method": None}, {"method": ""}, {"method": 1}, {"method": "a.B", "parameters": []}]
    + [{"method": "a.B", flag: 1} for flag in ("oneway", "more", "upgrade")],
)
def test_what_is_no_call_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        Call.decode(message)


@pytest.mark.parametrize(
    "value",
    [b"NaN", b"-Infinity", b"1e999", b"9223372036854775808", b"1" * 4300, b"[" * 64 + b"]" * 64],
    ids=lambda value: repr(value[:20]),
)
def test_what_no_reader_could_work_with_is_refused(value: bytes) -> None:
    """Sums and rates of such numbers, and a walk so deep, would end in an error far from the wire."""
    with pytest.raises(ProtocolError):
        list(Decoder(1 << 20).feed(b'{"a":%b}\0' % value))


@pytest.mark.parametrize(
    "value", [b"-9223372036854775808", b"9223372036854775807", b"1e308", b"[" * 63 + b"]" * 63]
)
def test_the_largest_values_are_taken(value: bytes) -> None:
    (message,) = Decoder(1 << 20).feed(b'{"a":%b}\0' % value)
    assert json.dumps(message["a"]) == json.dumps(json.loads(value))


def test_null_is_the_same_as_absent() -> None:
    assert Call.decode({"method": "a.B", "parameters": None, "more": None}) == Call("a.B")


@pytest.mark.parametrize("end", [b"", b"\0"])
def test_a_message_has_a_limit(end: bytes) -> None:
    exact = b'{"a":1}'
    assert list(Decoder(len(exact)).feed(exact + b"\0")) == [{"a": 1}]
    with pytest.raises(ProtocolError, match="more than 7 bytes"):
        list(Decoder(len(exact)).feed(b'{"a":12}' + end))


def test_what_came_before_a_bad_message_is_good() -> None:
    messages = Decoder(100).feed(b'{"a":1}\0garbage\0')
    assert next(messages) == {"a": 1}
    with pytest.raises(ProtocolError):
        next(messages)
