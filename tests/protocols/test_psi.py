"""Tables of a transport stream: as ffprobe has them, by any cut into packets, and refused by a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.transport import film

from mcastd.protocols import psi, ts
from mcastd.protocols.psi import Association, MalformedTableError, ProgramMap, Sections


def bit_by_bit(data: bytes) -> int:
    """The CRC as annex A draws it: a register of 32 bits, bit after bit."""
    register = 0xFFFFFFFF
    for byte in data:
        for bit in range(7, -1, -1):
            feedback = register >> 31 ^ byte >> bit & 1
            register = register << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if feedback else 0)
    return register


def section(
    table: int, number: int, version: int, body: bytes, *, current: bool = True, part: int = 0
) -> bytes:
    length = 5 + len(body) + 4
    head = bytes((table, 0xB0 | length >> 8, length & 0xFF)) + number.to_bytes(2)
    head += bytes((0xC0 | version << 1 | current, part, 2)) + body
    return head + bit_by_bit(head).to_bytes(4)


PAT = section(0, 0x1234, 5, b"\0\0\xe0\x10\x01\x02\xe1\x00\x01\x03\xff\xfe", part=1)
PMT = section(2, 0x0102, 9, b"\xe1\x01\xf0\x02de\x02\xe1\x01\xf0\0\x04\xe1\x02\xf0\x03eng", current=False)


def reason(parse: object, data: bytes) -> str:
    assert callable(parse)
    with pytest.raises(MalformedTableError) as refused:
        parse(data)
    assert refused.value.reason in MalformedTableError.REASONS
    return refused.value.reason


def test_each_field_of_the_tables_is_read() -> None:
    programs = {0: 0x10, 0x102: 0x100, 0x103: 0x1FFE}
    assert psi.parse_association(PAT) == Association(0x1234, 5, True, 1, 2, programs)
    assert psi.parse_map(PMT) == ProgramMap(0x102, 9, False, 0x101, {0x101: 2, 0x102: 4})


@given(st.binary(max_size=300))
def test_the_crc_is_that_of_the_standard(data: bytes) -> None:
    assert psi.crc32(data) == bit_by_bit(data)
    assert psi.crc32(data + psi.crc32(data).to_bytes(4)) == 0


@pytest.mark.parametrize(("parse", "good"), [(psi.parse_association, PAT), (psi.parse_map, PMT)])
def test_a_bit_that_flipped_is_refused(parse: object, good: bytes) -> None:
    for at in range(3, len(good)):
        assert reason(parse, good[:at] + bytes((good[at] ^ 4,)) + good[at + 1 :]) == "crc"
    assert reason(parse, good[:-1]) == "length"
    assert reason(parse, good + b"\0") == "length"
    assert reason(parse, good[:11]) == "short"
    assert reason(parse, b"\x42" + good[1:]) == "table"


def test_lengths_within_a_table_that_lie_are_refused() -> None:
    assert reason(psi.parse_association, section(0, 1, 1, b"\0\1\0")) == "length"
    assert reason(psi.parse_map, section(2, 1, 1, b"\xe1\x01\xf0")) == "short"
    assert reason(psi.parse_map, section(2, 1, 1, b"\xe1\x01\xff\xff")) == "length"
    assert reason(psi.parse_map, section(2, 1, 1, b"\xe1\x01\xf0\0\x02\xe1\x01\xf0\x01")) == "length"
    assert reason(psi.parse_map, section(2, 1, 1, b"\xe1\x01\xf0\0\x02\xe1\x01")) == "length"


@given(st.integers(0, 9), st.integers(1, 184), st.booleans())
def test_sections_come_together_by_any_cut(pointer: int, size: int, stuffed: bool) -> None:
    data = PAT + PMT + PAT + b"\xff" * (5 * stuffed)
    reader, found = Sections(), []
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        found += reader.feed(bytes((pointer,)) + bytes(pointer) + piece if at == 0 else piece, at == 0)
    assert found == [PAT, PMT, PAT]
    assert reader.feed(PAT, False) == ([] if stuffed else [PAT])  # nothing follows stuffing


def test_what_ends_before_the_pointer_belongs_to_the_section_before() -> None:
    reader = Sections()
    assert reader.feed(b"\0" + PAT[:9], True) == []
    assert reader.feed(bytes((len(PAT) - 9,)) + PAT[9:] + PMT, True) == [PAT, PMT]
    assert reader.feed(b"\0" + PAT[:9], True) == []
    reader.lost()
    assert reader.feed(PAT[9:], False) == []
    assert reader.feed(b"\5rest." + PMT, True) == [PMT]  # what it is the rest of is not known
    assert reader.feed(b"", True) == []


@given(st.lists(st.tuples(st.binary(max_size=184), st.booleans()), max_size=40))
def test_any_payloads_are_taken_and_little_is_kept(payloads: list[tuple[bytes, bool]]) -> None:
    reader = Sections()
    for payload, starts in payloads:
        for found in reader.feed(payload, starts):
            for parse in (psi.parse_association, psi.parse_map):
                assert reason(parse, found) in MalformedTableError.REASONS
        assert len(reader._begun) < psi.SECTION_MAX_BYTES + 184


def test_a_section_of_a_length_that_lies_is_given_up() -> None:
    reader = Sections()
    assert reader.feed(b"\0\x42\xff\xff" + bytes(180), True) == []
    assert reader.feed(PAT, False) == []
    assert reader.feed(b"\0" + PAT, True) == [PAT]


def test_the_tables_of_a_film_are_found(tmp_path: Path) -> None:
    data = film(tmp_path / "film.ts", seconds=0.5).read_bytes()
    readers: dict[int, Sections] = {}
    found: dict[int, set[bytes]] = {}
    for at in range(0, len(data), ts.PACKET_BYTES):
        header = ts.header_at(data, at)
        if header.pid in (psi.PAT_PID, 0x1000):
            payload = data[ts.payload_at(data, at) : at + ts.PACKET_BYTES]
            sections = readers.setdefault(header.pid, Sections()).feed(payload, header.starts_unit)
            found.setdefault(header.pid, set()).update(sections)
    ((association,), (program_map,)) = found[psi.PAT_PID], found[0x1000]
    assert psi.parse_association(association).programs == {1: 0x1000}
    streams = psi.parse_map(program_map)
    assert (streams.program, streams.clock_pid, streams.streams) == (1, 0x100, {0x100: 2, 0x101: 3})
