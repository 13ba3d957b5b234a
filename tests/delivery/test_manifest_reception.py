"""Packets of manifests from anybody: each is taken, or dropped for one reason, in bounded memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcastd.delivery import manifest_reception
from mcastd.delivery.manifest_reception import (
    COMING_MAX,
    ManifestPacket,
    ManifestReception,
    NotTakenError,
)
from mcastd.delivery.serials import Serials
from mcastd.keytext import GroupKey, SigningKey
from mcastd.protocols import alc, fec, lct, raptorq
from mcastd.protocols.lct import Malformed
from mcastd.protocols.manifest import Manifest, ManifestFile, Part, Sealing, build
from mcastd.protocols.manifest_packets import MANIFEST_TOI, manifest_packets
from mcastd.protocols.seal import AnnouncementSealer

pytest.importorskip("cryptography")
from mcastd.protocols.crypto import verifying_key

SIGN = SigningKey(bytes(range(32)))
GROUP = GroupKey(bytes(range(1, 33)))
NOW = 1_790_000_000


def reception_in(path: Path, *keys: GroupKey) -> ManifestReception:
    return ManifestReception("images", keys, [verifying_key(SIGN)], Serials(path, lambda _: None))


def packet_of(datagram: bytes) -> ManifestPacket:
    packet = alc.parse(datagram)
    size = packet.header.size
    return ManifestPacket(packet.header, datagram[:size], packet.sbn, packet.esi, packet.payload)


def reason(reception: ManifestReception, datagram: bytes) -> str:
    """Why a packet is dropped; "" if it is taken."""
    try:
        reception.take(packet_of(datagram), NOW)
    except NotTakenError as error:
        return error.reason
    return ""


def signed(serial: int, channel: str = "images") -> bytes:
    return build(Manifest(channel, 5, serial, NOW, NOW + 100, ()), SIGN)


def test_without_any_key_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without any key"):
        ManifestReception("images", [], [], Serials(tmp_path, lambda _: None))


def test_its_packets_have_to_say_its_serial(tmp_path: Path) -> None:
    """Else a replayed manifest could come by packets that nobody has signed, as one that is newer."""
    reception = reception_in(tmp_path)
    first, second = manifest_packets(5, signed(43), 44, 120)
    assert [reason(reception, one) for one in (first, second)] == ["", "refused"]
    assert reception.current is None
    assert [reason(reception, one) for one in manifest_packets(5, signed(42), 42, 120)] == ["", ""]


def test_it_comes_in_any_order_among_others_of_its_length(tmp_path: Path) -> None:
    reception = reception_in(tmp_path)
    older, newer = (manifest_packets(5, signed(serial), serial, 120) for serial in (41, 43))
    assert len(newer) == 2
    assert [reason(reception, one) for one in (newer[1], older[0], newer[1], newer[0])] == [""] * 4
    assert reception.current is not None
    assert reception.current.manifest.serial == 43
    assert [reason(reception, one) for one in older] == ["replayed"] * 2
    elsewhere = manifest_packets(6, signed(43), 43, 120)
    assert {reason(reception, one) for one in elsewhere} == {"foreign-session"}
    reception.expire(NOW + 99)
    assert reception.current is not None
    reception.expire(NOW + 100)
    assert reception.current is None


def test_what_is_sent_again_in_another_session_keeps_nobody_from_the_one_that_it_is_of(
    tmp_path: Path,
) -> None:
    """Whoever can read a manifest can do so, before its receivers have it."""
    reception = reception_in(tmp_path)
    (moved,) = manifest_packets(6, signed(43), 43, 1400)
    assert reason(reception, moved) == "foreign-session"
    assert (reception.current, reception.status.refused) == (None, "")
    (right,) = manifest_packets(5, signed(43), 43, 1400)
    assert [reason(reception, one) for one in (right, moved, right)] == ["", "foreign-session", ""]
    assert reception.current is not None


def test_blocks_are_no_larger_than_those_that_are_repaired_in_a_moment(tmp_path: Path) -> None:
    """Meanwhile no other worker has the interpreter: a second for 50,000 symbols."""
    reception = reception_in(tmp_path)
    for symbols, expected in [(1024, ""), (1025, "malformed")]:
        oti = fec.raptorq(64 * symbols, 64, symbols)
        header = lct.build(5, MANIFEST_TOI, oti.scheme, fec.build_fti(oti, 64 * symbols))
        packet = header + bytes(4) + manifest_packets(5, signed(7), 7, 1400)[0][36:48] + bytes(64)
        assert reason(reception, packet) == expected


def long(serial: int) -> bytes:
    """A manifest of two blocks in packets of 112 bytes."""
    oti = fec.Oti(fec.NO_CODE, 64, 9)
    files = [
        ManifestFile((f"{n:04}",), 0o644, n, (Part(n + 1, 64, oti, (bytes([n % 251]) * 32,)),))
        for n in range(1700)
    ]
    return build(Manifest("images", 5, serial, NOW, NOW + 100, tuple(files)), SIGN)


@pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_lost_of_a_manifest_is_repaired(tmp_path: Path, sealed: bool) -> None:
    keys = [GROUP] if sealed else []
    data = (
        build(Manifest("images", 5, 43, NOW, NOW + 100, (), Sealing(GROUP.id, bytes(32))), SIGN)
        if sealed
        else long(43)
    )
    sealer = (
        (lambda header: AnnouncementSealer(GROUP, "images", 43, header, MANIFEST_TOI)) if sealed else None
    )
    asked: list[tuple[int, int]] = []

    def protect(symbols: int, blocks: int) -> int:
        asked.append((symbols, blocks))
        return symbols // 2 + 3

    datagrams = manifest_packets(5, data, 43, 176 if sealed else 112, sealer, protect=protect)
    assert len(set(asked)) == 1
    assert asked[0][1] == (1 if sealed else 2)
    reception = reception_in(tmp_path, *keys)
    chance = random.Random(8)
    arrived = [one for one in datagrams if chance.random() >= 0.2]
    chance.shuffle(arrived)
    assert {reason(reception, one) for one in arrived} == {""}
    assert reception.current is not None
    assert reception.current.manifest.serial == 43


@pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
def test_without_the_library_all_of_a_manifest_has_to_come(tmp_path: Path) -> None:
    def missing(*_: object) -> bytes:
        raise raptorq.NotInstalledError("cannot repair")

    datagrams = manifest_packets(5, long(43), 43, 112, protect=lambda symbols, _: symbols // 2)
    reception = ManifestReception(
        "images", [], [verifying_key(SIGN)], Serials(tmp_path, lambda _: None), decode=missing
    )
    for lost in (3, 5):
        assert {reason(reception, one) for at, one in enumerate(datagrams) if at % 7 != lost} == {""}
    assert reception.current is not None


@pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
@pytest.mark.parametrize("at", [0, -1])
def test_a_forged_symbol_of_a_manifest_costs_a_pass(tmp_path: Path, at: int) -> None:
    datagrams = manifest_packets(5, long(43), 43, 112, protect=lambda symbols, _: symbols // 2)
    reception = reception_in(tmp_path)
    forged = datagrams[at][:-1] + bytes([datagrams[at][-1] ^ 1])
    others = [one for one in datagrams if one != datagrams[at]]
    reasons = [reason(reception, one) for one in (forged, *reversed(others))]
    assert set(reasons) <= {"", "refused"}
    for one in datagrams:
        reason(reception, one)
    assert reception.current is not None


def test_a_wrong_symbol_costs_what_had_come_and_no_more(tmp_path: Path) -> None:
    reception = reception_in(tmp_path)
    first, second = manifest_packets(5, signed(43), 43, 120)
    wrong = first[:-1] + bytes([first[-1] ^ 1])
    assert [reason(reception, one) for one in (wrong, first, second)] == [""] * 3
    assert reception.current is not None


@pytest.mark.parametrize(
    ("oti", "length", "esi", "payload"),
    [
        (fec.Oti(fec.NO_CODE, 63, 9), 63, 0, b"x" * 63),  # symbols too short
        (fec.Oti(fec.NO_CODE, 64, 9), 64, 1, b"x" * 64),  # no such symbol
        (fec.Oti(fec.NO_CODE, 64, 9), 65, 1, b"x" * 2),  # longer than the last one is
        (fec.Oti(fec.NO_CODE, 64, 2**15), (64 << 20) + 1, 0, b"x" * 64),  # more than a manifest has
    ],
)
def test_what_no_sender_sends_is_malformed(
    tmp_path: Path, oti: fec.Oti, length: int, esi: int, payload: bytes
) -> None:
    header = lct.build(5, MANIFEST_TOI, fec.NO_CODE, fec.build_fti(oti, length))
    datagram = header + esi.to_bytes(4) + b"mcm\1" + bytes(8) + payload
    assert reason(reception_in(tmp_path), datagram) == "malformed"
    assert reason(reception_in(tmp_path), lct.build(5, MANIFEST_TOI, 0) + datagram[-80:]) == "malformed"


def test_those_that_never_come_whole_make_room(tmp_path: Path) -> None:
    reception = reception_in(tmp_path)
    for serial in range(1, 50):
        assert reason(reception, manifest_packets(5, signed(serial), serial, 120)[0]) == ""
        assert len(reception._coming) <= COMING_MAX


def test_a_block_that_is_whole_takes_no_more_memory_than_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its symbols have gone: counted still, they would cost another manifest its place."""
    monkeypatch.setattr(manifest_reception, "COMING_MAX_BYTES", 300_000)
    reception = reception_in(tmp_path)
    first, second = (manifest_packets(5, long(serial), serial, 112) for serial in (41, 43))
    of_block_0 = [at for at, one in enumerate(first) if packet_of(one).sbn == 0]
    assert 900 < len(of_block_0) <= 1024
    for at in of_block_0:  # 64 kB as a block, 190 kB as symbols
        assert reason(reception, first[at]) == ""
    for at in of_block_0[1:]:
        assert reason(reception, second[at]) == ""
    for at in {*range(len(first))} - {*of_block_0}:
        reason(reception, first[at])
    assert reception.current is not None
    assert reception.current.manifest.serial == 41


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["plain", "sealed"]),
    st.integers(0, 200),
    st.binary(max_size=40),
    st.tuples(
        st.integers(0, 2**48 - 1) | st.integers(1, 300),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
    ),
)
def test_anything_is_dropped_for_a_reason(
    tmp_path: Path, way: str, cut: int, tail: bytes, said: tuple[int, int, int]
) -> None:
    length, size, block = said
    reception = reception_in(tmp_path, *([GROUP] if way == "sealed" else []))
    good = manifest_packets(5, signed(7), 7, 1400)[0]
    fti = lct.extension(lct.EXT_FTI, length.to_bytes(6) + bytes(2) + size.to_bytes(2) + block.to_bytes(4))
    for datagram in (good[:cut] + tail, lct.build(5, MANIFEST_TOI, 0, fti) + good[36:]):
        try:
            packet_of(datagram)
        except Malformed:
            continue
        # Serials stay from one example to the next, so that an older one may have been replayed
        reasons = {"", "malformed", "refused", "forged", "wrong-key", "replayed"}
        assert reason(reception, datagram) in reasons
        assert reception.current is None or reception.current.manifest.serial == 7
