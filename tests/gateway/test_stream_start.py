"""Where a client begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.stream_start import WAIT_MAX_SECONDS, StreamStart, is_transport_stream, pat_at


def packet(pid: int) -> bytes:
    return b"\x47" + pid.to_bytes(2) + b"\x10" + bytes(184)


def test_a_stream_begins_at_its_table() -> None:
    start = StreamStart(100.0)
    assert start.begin(packet(256) * 7, 100.1) is None
    payload = packet(256) * 2 + packet(0) + packet(257)
    assert start.begin(payload, 100.2) == payload[2 * 188 :]
    assert start.skipped == 1


def test_one_that_begins_with_it_is_not_copied() -> None:
    payload = packet(0) + packet(256)
    assert StreamStart(0.0).begin(payload, 0.0) is payload


def test_one_without_tables_begins_after_a_while() -> None:
    start, payload = StreamStart(100.0), packet(256)
    assert start.begin(payload, 100.0 + WAIT_MAX_SECONDS / 2) is None
    assert start.begin(payload, 100.0 + WAIT_MAX_SECONDS) is payload


def test_what_is_no_transport_stream_begins_at_once() -> None:
    for payload in (b"", b"news", packet(256) + b"x", b"\x48" + packet(256)[1:], packet(256)[:-1]):
        assert not is_transport_stream(payload)
        assert StreamStart(0.0).begin(payload, 0.0) == payload


def test_a_damaged_flag_does_not_hide_the_table() -> None:
    """The three bits before the PID are flags."""
    assert pat_at(b"\x47\x60\x00\x10" + bytes(184)) == 0


@given(st.binary(max_size=600))
def test_whatever_comes(payload: bytes) -> None:
    found = StreamStart(0.0).begin(payload, 0.0)
    assert found is None or payload.endswith(found)
