"""Packets that are cut are what they were when they are put together again."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols.fragmenting import fragments
from mcastd.protocols.internet import UDP, IpPacket, build_ip, internet_checksum, read_ip
from mcastd.protocols.reassembly import Reassembly

SOURCE, GROUP = ip_address("203.0.113.1"), ip_address("232.1.1.1")
# Record Route, which stands in the first fragment alone; Router Alert, which stands in each; and padding
OPTIONS = bytes.fromhex("0703 04 94040000 01".replace(" ", ""))


def packet(body: bytes, *, options: bytes = b"", cut: int = 0) -> bytes:
    whole = bytearray(build_ip(IpPacket(SOURCE, GROUP, UDP, 9, body)))
    whole[0] = 0x45 + len(options) // 4
    whole[20:20] = options
    struct.pack_into("!HHH", whole, 2, len(whole), 4711, cut)
    whole[10:12] = bytes(2)
    whole[10:12] = internet_checksum(bytes(whole[: 20 + len(options)])).to_bytes(2)
    return bytes(whole)


@given(
    st.binary(min_size=1, max_size=4000), st.integers(68, 1500), st.sampled_from([b"", OPTIONS]), st.data()
)
def test_what_is_cut_is_put_together_again(
    body: bytes, most: int, options: bytes, data: st.DataObject
) -> None:
    whole = packet(body, options=options)
    pieces = fragments(whole, most)
    assert pieces is not None
    assert all(len(piece) <= most for piece in pieces)
    reassembly = Reassembly()
    found = None
    for piece in data.draw(st.permutations(pieces)):
        read = read_ip(piece)
        assert read is not None, "the checksum of each is right"
        assert read.ttl == 9
        found = read if read.fragment is None else reassembly.take(read, 0.0)
    assert found is not None
    assert (found.body, found.source, found.destination, found.protocol) == (body, SOURCE, GROUP, UDP)


def test_options_stand_where_they_are_to_stand() -> None:
    pieces = fragments(packet(bytes(3000), options=OPTIONS), 1000)
    assert pieces is not None
    assert [piece[20 : 4 * (piece[0] & 0x0F)] for piece in pieces] == [OPTIONS, *3 * [OPTIONS[3:7]]]


def test_a_fragment_is_cut_into_fragments_of_the_same_packet() -> None:
    pieces = fragments(packet(bytes(range(200)) * 10, cut=0x2000 | 100), 1020)
    assert pieces is not None
    read = [read_ip(piece) for piece in pieces]
    assert [one and one.fragment for one in read] == [(4711, 800, True), (4711, 1800, True)]
    (last,) = fragments(packet(bytes(100), cut=7), 1020) or ()
    assert last == packet(bytes(100), cut=7)


@pytest.mark.parametrize(("cut", "most"), [(0x4000, 1000), (0, 27)])
def test_what_must_not_or_cannot_be_cut_is_not(cut: int, most: int) -> None:
    assert fragments(packet(bytes(1500), cut=cut), most) is None


@given(st.binary(min_size=20, max_size=3000), st.integers(0x45, 0x4F), st.integers(28, 1500))
def test_any_bytes_are_cut_or_left_as_they_are(rest: bytes, first: int, most: int) -> None:
    whole = bytes([first]) + rest[1:]
    pieces = fragments(whole, most)
    for piece in pieces or ():
        assert len(piece) == int.from_bytes(piece[2:4]) <= most
        assert not internet_checksum(piece[: 4 * (piece[0] & 0x0F)])
