"""What a person sees of a datagram: where from, and its content, as nothing but printable characters."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.programs import program

from mcastd.adhoc import numbered, shown
from mcastd.clock import NANO
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.json_lines import JsonLines
from mcastd.net.link import ListBatch, Origin

SENDER = Origin("192.0.2.1", 5000, 3, 7)
TIME = 1_764_019_199_123_456_789


def show(body: shown.Body, *payloads: bytes, origin: Origin = SENDER, time: int = TIME) -> list[str]:
    batch = ListBatch(payloads, [origin] * len(payloads), [time] * len(payloads))
    records = shown.Shown(body, StreamFacts(lambda: "239.1.1.1", lambda ifindex: f"eth{ifindex}")).records(
        batch
    )
    assert len(records) == len(payloads)
    return b"".join(records.payloads).decode().splitlines()


def test_the_heading_has_time_source_interface_ttl_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    heading, *body = show(shown.text_or_hex, b"news\n")
    assert heading.endswith(".123456 192.0.2.1:5000 eth3 ttl 7, 5 bytes")
    assert body == ["news"]
    heading, *_ = show(shown.text_or_hex, b"news\n", origin=Origin("fe80::1", 5000, 3, 7), time=0)
    assert heading == "at an unknown time [fe80::1]:5000 eth3 ttl 7, 5 bytes"


@pytest.mark.parametrize(
    ("payload", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"two\nlines\n", ["two", "lines"]),
        (b"tab\tand\r\n", ["tab     and"]),
        ("grün €\n".encode(), ["grün €"]),
    ],
)
def test_text_is_shown_as_text(payload: bytes, lines: list[str]) -> None:
    assert show(shown.text_or_hex, payload)[1:] == lines


@pytest.mark.parametrize(
    "payload", [b"\x1b[2Jgone", b"\x00", b"\xff\xfe", "a\u202eb".encode(), b"a\rb", b"\x9b31m"]
)
def test_what_is_no_text_is_a_hexdump(payload: bytes) -> None:
    assert show(shown.text_or_hex, payload)[1:] == list(shown.hexdump(payload))
    assert show(shown.text_or_hex, payload)[1].startswith("00000000  ")


def test_a_number_is_told_and_its_padding_is_not_shown() -> None:
    payload = numbered.make(b"3f9a2c1e", 42, 1000, 1) + b"  \n"
    assert show(shown.text_or_hex, payload)[1:] == ["number 42 of 1,000, run 3f9a2c1e"]
    payload = numbered.make(b"3f9a2c1e", 42, 0, 1) + b"news\n"
    assert show(shown.text_or_hex, payload)[1:] == ["number 42, run 3f9a2c1e", "news"]


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")))
def test_nothing_but_printable_characters_reaches_a_terminal(payload: bytes) -> None:
    for body in (shown.text_or_hex, shown.text, shown.hexdump):
        for line in body(payload):
            assert line.isprintable()
            line.encode()


def test_hexdump_is_that_of_hexdump(tmp_path: Path) -> None:
    hexdump = program("hexdump")
    cases = [
        b"",
        b"x",
        bytes(range(256)),
        bytes(100),
        b"16 bytes exactly" * 3,
        bytes(16) + b"\x01" * 33,
        b"a" * 31,
    ]
    for case in cases:
        file = tmp_path / "case"
        file.write_bytes(case)
        expected = subprocess.run([hexdump, "-C", file], capture_output=True, text=True, check=True).stdout
        assert list(shown.hexdump(case)) == expected.splitlines()


def test_json_for_a_terminal_has_nothing_that_it_obeys_and_is_the_same_json() -> None:
    evil = 'caf\u00e9 \x9b2J\x85\u202e\u2028\ufeff\U000e0041\x1b[31m \\ "'.encode()
    batch = ListBatch([evil, b"plain", b"\x9b"], [Origin("10.0.0.1", 7, 1, 3)] * 3, [NANO] * 3)
    stream = StreamFacts(lambda: "239.1.1.1", lambda _: "eth\x9b0")
    made = b"".join(shown.HarmlessJson(stream).records(batch).payloads).decode()
    assert "caf\u00e9" in made
    lines = made.splitlines()
    assert all(map(str.isprintable, made.split("\n")))
    assert lines[:3] == made.split("\n")[:3]
    expected = [
        json.loads(line)
        for line in b"".join(JsonLines(stream).records(batch).payloads).decode().split("\n")
        if line
    ]
    assert [json.loads(line) for line in lines] == expected
    assert expected[0]["payload"] == evil.decode()
