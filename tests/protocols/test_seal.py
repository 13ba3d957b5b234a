"""Sealed packets: the nonce rule in each of the cases that could break it, and what an outsider may try."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.keytext import GroupKey
from mcastd.protocols import fec, lct, raptorq, seal
from mcastd.protocols.block_digests import BlockDigests
from mcastd.protocols.manifest import Part, Sealing
from mcastd.protocols.seal import (
    OBJECT_OVERHEAD_BYTES,
    AnnouncementOpener,
    AnnouncementSealer,
    BlockMemory,
    HashedBlock,
    NotOpenedError,
    NotTheBlockError,
    ObjectOpener,
    ObjectSealer,
    SealingSession,
    key_ring,
)

pytest.importorskip("cryptography")
needs_codec = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

KEY = GroupKey(bytes(range(1, 33)))
OTHER_KEY = GroupKey(bytes(range(2, 34)))
SALT = bytes(range(50, 82))
TSI, TOI = 3, 70_001
DATA = bytes(number * 7 % 251 for number in range(2345))


def described(data: bytes, oti: fec.Oti, toi: int = TOI) -> Part:
    blocks = fec.Blocks(oti, len(data))
    cut = [data[blocks.offset(sbn) : blocks.offset(sbn) + blocks.size(sbn)] for sbn in range(blocks.count)]
    return Part(toi, len(data), oti, tuple(hashlib.sha256(one).digest() for one in cut))


NO_CODE = fec.Oti(fec.NO_CODE, 100, 10)  # 3 blocks of 8 symbols; the last has 45 bytes
CODED = fec.raptorq(len(DATA), 104, 12)  # 2 blocks of 12 and 11
PART = described(DATA, NO_CODE)
HEADER = lct.build(TSI, TOI, fec.NO_CODE)


def block(part: Part, sbn: int, data: bytes = DATA) -> HashedBlock:
    blocks = fec.Blocks(part.oti, part.length)
    return HashedBlock(data[blocks.offset(sbn) : blocks.offset(sbn) + blocks.size(sbn)])


Payloads = dict[tuple[int, int], bytes]  # by SBN and ESI


def all_source(sealer: ObjectSealer, part: Part, data: bytes = DATA) -> Payloads:
    sealed: Payloads = {}
    blocks = fec.Blocks(part.oti, part.length)
    for sbn in range(blocks.count):
        payloads = sealer.source(sbn, block(part, sbn, data), 0, blocks.symbols(sbn))
        sealed |= {(sbn, esi): payload for esi, payload in enumerate(payloads)}
    return sealed


def opened(opener: ObjectOpener, sealed: Payloads) -> list[bytes | None]:
    blocks = sorted({sbn for sbn, _ in sealed})
    runs = [[payload for (at, _), payload in sealed.items() if at == sbn] for sbn in blocks]
    return [symbol for sbn, run in zip(blocks, runs, strict=True) for symbol in opener.open(sbn, 0, run)]


# -- there and back


def test_symbols_are_sealed_and_opened() -> None:
    session = SealingSession(KEY)
    sealed = all_source(session.sealer(TSI, PART), PART)
    assert {len(payload) - 16 for payload in sealed.values()} == {100, 45}
    opener = ObjectOpener(KEY, session.sealing.salt, TSI, PART)
    assert opened(opener, sealed) == [DATA[at : at + 100] for at in range(0, len(DATA), 100)]
    assert not any(symbol in b"".join(sealed.values()) for symbol in (DATA[:16], DATA[100:116]))
    assert session.sealing.key_id == KEY.id


@needs_codec
def test_repair_symbols_are_made_of_the_block_and_opened() -> None:
    part = described(DATA, CODED)
    session = SealingSession(KEY)
    sealer = session.sealer(TSI, part)
    opener = ObjectOpener(KEY, session.sealing.salt, TSI, part)
    source = opened(opener, all_source(sealer, part))
    assert b"".join(symbol or b"" for symbol in source) == DATA.ljust(23 * 104, b"\0")
    wanted = raptorq.repair(block(part, 1).data, 104, 3, 2)
    assert opener.open(1, 11 + 2, sealer.repair(1, block(part, 1), 3, 2)) == wanted
    with pytest.raises(NotTheBlockError):
        sealer.repair(1, block(part, 0), 3)


def test_without_a_code_there_is_no_repair() -> None:
    with pytest.raises(ValueError, match="no repair symbols"):
        ObjectSealer(KEY, SALT, TSI, PART).repair(0, block(PART, 0), 1)


def test_a_run_is_sealed_by_any_pieces() -> None:
    sealer = ObjectSealer(KEY, SALT, TSI, PART)
    whole = sealer.source(1, block(PART, 1), 0, 99)
    assert len(whole) == 8
    assert sealer.source(1, block(PART, 1), 2, 3) == whole[2:5]
    assert sealer.source(1, block(PART, 1), 8, 3) == []


# -- the nonce rule: one key, TOI and payload id never meet two symbols or headers


class Recorder:
    """In place of AES-GCM: what is asked of it, by key and nonce."""

    seen: dict[tuple[bytes, bytes], set[tuple[bytes, bytes]]]

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, symbol: bytes, header: bytes) -> bytes:
        assert len(nonce) == 12
        self.seen.setdefault((self._key, nonce), set()).add((bytes(symbol), header))
        return bytes(symbol) + bytes(16)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.seen = {}
    monkeypatch.setattr(seal, "cipher", Recorder)
    return Recorder


def changed(data: bytes) -> bytes:
    """A file of the same length, in which one byte is another."""
    return data[:1500] + bytes((data[1500] ^ 1,)) + data[1501:]


def in_later_passes() -> None:
    session = SealingSession(KEY)
    for _ in range(2):
        all_source(session.sealer(TSI, PART), PART)


def after_a_restart() -> None:
    for data in (DATA, changed(DATA)):
        part = described(data, NO_CODE)
        all_source(SealingSession(KEY).sealer(TSI, part), part, data)


def of_a_file_that_changed() -> None:
    session = SealingSession(KEY)
    for data in (DATA, changed(DATA)):
        part = described(data, NO_CODE)
        all_source(session.sealer(TSI, part), part, data)


def of_a_file_cut_otherwise() -> None:
    session = SealingSession(KEY)
    for oti in (NO_CODE, replace(NO_CODE, symbol_size=99), replace(NO_CODE, block_symbols=12)):
        part = described(DATA, oti)
        all_source(session.sealer(TSI, part), part)


def of_a_file_that_grew() -> None:
    session = SealingSession(KEY)
    for data in (DATA, DATA + b"x"):
        part = described(data, NO_CODE)
        all_source(session.sealer(TSI, part), part, data)


def of_two_channels_and_two_senders() -> None:
    for tsi in (3, 4, 3):
        data = DATA if tsi == 3 else changed(DATA)
        part = described(data, NO_CODE)
        all_source(SealingSession(KEY).sealer(tsi, part), part, data)


def in_two_lct_sessions() -> None:
    session = SealingSession(KEY)
    for tsi in (TSI, TSI + 1):
        all_source(session.sealer(tsi, PART), PART)


def of_announcements() -> None:
    for number in range(4):
        sealer = AnnouncementSealer(KEY, "images", 41, HEADER, 0)
        for payload_id in range(3):
            sealer.seal(payload_id, b"instance %d" % number)


CASES = [
    in_later_passes,
    after_a_restart,
    of_a_file_that_changed,
    of_a_file_cut_otherwise,
    of_a_file_that_grew,
    of_two_channels_and_two_senders,
    in_two_lct_sessions,
]


@pytest.mark.parametrize("case", [*CASES, of_announcements])
def test_no_nonce_meets_two_packets(case: Callable[[], None], recorder: type[Recorder]) -> None:
    case()
    assert len(recorder.seen) >= 12
    assert all(len(packets) == 1 for packets in recorder.seen.values())


@pytest.mark.parametrize("case", CASES)
def test_nor_if_all_salts_were_one(
    case: Callable[[], None],
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in two copies of one virtual machine, whose random numbers are the same."""
    monkeypatch.setattr(os, "urandom", bytes)
    case()
    assert all(len(packets) == 1 for packets in recorder.seen.values())


def test_the_recorder_would_show_it(recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without what the object stands for meets two symbols: the tests above do see that."""
    monkeypatch.setattr(seal, "derive", lambda secret, salt, _info: secret)
    of_a_file_that_changed()
    assert any(len(packets) == 2 for packets in recorder.seen.values())


def test_bytes_that_are_not_the_blocks_are_not_sealed() -> None:
    sealer = ObjectSealer(KEY, SALT, TSI, PART)
    right = block(PART, 1)
    for data in (changed(DATA)[800:1600], right.data[:-1], right.data + b"\0", b"", block(PART, 0).data):
        with pytest.raises(NotTheBlockError):
            sealer.source(1, HashedBlock(data), 0, 1)
    with pytest.raises(IndexError):
        sealer.source(3, right, 0, 1)


def test_a_hashed_block_is_its_own_copy_and_stays() -> None:
    buffer = bytearray(DATA[:800])
    hashed = HashedBlock(memoryview(buffer))
    buffer[0] ^= 1
    assert hashed.data == DATA[:800]
    assert hashed.digest == PART.hashes[0]
    for name in ("data", "digest"):
        with pytest.raises(FrozenInstanceError):
            setattr(hashed, name, b"")


def test_a_block_that_is_let_go_is_no_block_any_more() -> None:
    """Before its memory is another one's: nothing else is sealed as what it was."""
    memory, digests = BlockMemory(), BlockDigests()
    contents = [DATA[:800], DATA[800:1600], b"shorter", DATA[:801]]

    def read(content: bytes) -> HashedBlock:
        def read_into(place: memoryview) -> int:
            place[: len(content)] = content
            return len(content)

        return HashedBlock.read(max(len(content), 8), read_into, digests, memory)

    sealer = SealingSession(KEY).sealer(TSI, PART)
    first = read(contents[0])
    sealed = sealer.source(0, first, 0, 8)
    for content in contents[1:]:
        first.let_go(memory)
        before, first = first, read(content)
        assert (first.data, first.digest) == (content, hashlib.sha256(content).digest())
        assert (before.data, before.digest) == (b"", b"")
        with pytest.raises(NotTheBlockError):
            sealer.source(0, before, 0, 8)
        with pytest.raises(FrozenInstanceError):
            setattr(before, "data", contents[0])  # noqa: B010 # mypy knows that it cannot be
    held = [read(contents[0]), read(contents[1])]
    assert [one.data for one in (first, *held)] == [contents[3], *contents[:2]], "each has its own"
    assert isinstance(held[0].data, memoryview)
    assert held[0].data.readonly
    assert sealer.source(0, held[0], 0, 8) == sealed


@pytest.mark.parametrize("scheme", [fec.NO_CODE, fec.RAPTORQ])
def test_a_block_in_memory_that_was_used_before_has_its_own_symbols(scheme: int) -> None:
    memory, digests = BlockMemory(), BlockDigests()
    for length, size in [(2000, 100), (1999, 100), (1601, 100), (1999, 64), (30, 64), (2000, 100), (2001, 8)]:
        content, oti = os.urandom(length), fec.Oti(scheme, size, 1000, blocks=3, alignment=4)

        def read_into(place: memoryview, content: bytes = content) -> int:
            place[:] = content
            return len(content)

        hashed = HashedBlock.read(length, read_into, digests, memory)
        assert hashed.symbols(oti) == HashedBlock(content).symbols(oti) == fec.source_symbols(oti, content)
        hashed.let_go(memory)
        assert hashed.symbols(oti) == []


def test_the_header_of_an_object_is_one_and_has_no_flags() -> None:
    sealer = SealingSession(KEY).sealer(TSI, PART)
    assert sealer.header == ObjectOpener(KEY, SALT, TSI, PART).header == HEADER
    parsed = lct.parse(sealer.header)
    assert (parsed.tsi, parsed.toi, parsed.codepoint) == (TSI, TOI, fec.NO_CODE)
    assert (parsed.close_session, parsed.close_object, dict(parsed.extensions)) == (False, False, {})
    with pytest.raises(ValueError, match="TOI"):
        ObjectSealer(KEY, SALT, TSI, replace(PART, toi=1 << 32))


def test_each_session_and_announcement_draws_its_salt() -> None:
    salts = {SealingSession(KEY).sealing.salt for _ in range(3)}
    salts |= {AnnouncementSealer(KEY, "images", 1, HEADER, 0).seal(0, b"")[20:52] for _ in range(3)}
    assert len(salts) == 6
    assert {len(salt) for salt in salts} == {32}


def test_a_payload_id_of_an_announcement_is_sealed_once() -> None:
    sealer = AnnouncementSealer(KEY, "images", 41, HEADER, 0)
    sealer.seal(5, b"one")
    with pytest.raises(ValueError, match="0x00000005 is sealed already"):
        sealer.seal(5, b"two")


def test_a_scheme_whose_payload_ids_do_not_fit_is_refused() -> None:
    oti = fec.Oti(fec.SMALL_BLOCK, 100, 10)
    with pytest.raises(ValueError, match="no room"):
        ObjectSealer(KEY, SALT, TSI, described(DATA, oti))


# -- what an outsider may try with the packets of an object

SEALED = all_source(ObjectSealer(KEY, SALT, TSI, PART), PART)
PLACE = 1, 2  # SBN and ESI


def opens(
    payload: bytes,
    place: tuple[int, int] = PLACE,
    *,
    key: GroupKey = KEY,
    salt: bytes = SALT,
    tsi: int = TSI,
    part: Part = PART,
) -> bytes | None:
    (symbol,) = ObjectOpener(key, salt, tsi, part).open(*place, [payload])
    return symbol


def test_nothing_forged_or_moved_is_opened() -> None:
    payload = SEALED[PLACE]
    assert opens(payload) == DATA[1000:1100]
    longer = Part(TOI, PART.length + 1, PART.oti, PART.hashes)
    others = {
        "another ESI": opens(payload, (1, 3)),
        "another SBN": opens(payload, (0, 2)),
        "another TOI": opens(payload, part=replace(PART, toi=TOI + 1)),
        "another session": opens(payload, tsi=TSI + 1),
        "another salt": opens(payload, salt=SALT[::-1]),
        "another key": opens(payload, key=OTHER_KEY),
        "another length": opens(payload, part=longer),
        "another hash": opens(payload, part=described(changed(DATA), NO_CODE)),
        "no tag": opens(payload[:-16]),
        "a short tag": opens(payload[:-1]),
        "a longer one": opens(payload + b"\0"),
        "nothing": opens(b""),
        "the symbol itself": opens(DATA[1000:1100]),
        "zeros": opens(bytes(len(payload))),
    }
    assert {what: symbol for what, symbol in others.items() if symbol is not None} == {}


def test_every_bit_of_a_packet_is_authenticated() -> None:
    payload = SEALED[PLACE]
    opener = ObjectOpener(KEY, SALT, TSI, PART)
    flipped = [
        payload[:at] + bytes((payload[at] ^ 1 << at % 8,)) + payload[at + 1 :] for at in range(len(payload))
    ]
    assert [opener.open(*PLACE, [one]) for one in flipped] == [[None]] * len(flipped)


@pytest.mark.parametrize("with_places", [False, True])
def test_forged_packets_among_others_cost_only_themselves(with_places: bool) -> None:
    opener = ObjectOpener(KEY, SALT, TSI, PART)
    payloads: list[bytes | memoryview] = [SEALED[1, esi] for esi in range(8)]
    payloads[3], payloads[6] = b"forge" * 23 + b"d", memoryview(SEALED[1, 0])
    places = [memoryview(bytearray(100)) for _ in payloads] if with_places else None
    found = opener.open(1, 0, payloads, places)
    assert [at for at, symbol in enumerate(found) if symbol is None] == [3, 6]
    assert found[7] == DATA[1500:1600]


def test_what_is_opened_into_places_is_the_same() -> None:
    opener = ObjectOpener(KEY, SALT, TSI, PART)
    payloads = [SEALED[1, esi] for esi in range(2, 8)]
    places = [memoryview(bytearray(100)) for _ in payloads]
    opened = opener.open(1, 2, payloads, places)
    assert [*map(bytes, filter(None, opened))] == [DATA[at : at + 100] for at in range(1000, 1600, 100)]
    opener._decrypt_into = None  # as before cryptography 47
    assert opener.open(1, 2, payloads, places) == opened


@given(st.binary(max_size=200), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
@settings(max_examples=100)
def test_no_bytes_of_others_are_opened(payload: bytes, sbn: int, esi: int) -> None:
    assert opens(payload, (sbn, esi)) is None


def test_numbers_that_no_packet_has_are_refused() -> None:
    for place in ((1 << 16, 0), (0, 1 << 16), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="no symbol"):
            opens(SEALED[PLACE], place)
    assert opens(SEALED[PLACE], ((1 << 16) - 1, (1 << 16) - 1)) is None


@pytest.mark.parametrize(("oti", "esis"), [(NO_CODE, 1 << 16), (CODED, 1 << 24)])
def test_a_run_does_not_go_on_in_the_next_block(oti: fec.Oti, esis: int) -> None:
    """The nonces of that belong to its own symbols."""
    part = described(DATA, oti)
    opener = ObjectOpener(KEY, SALT, TSI, part)
    assert opener.open(0, esis - 2, [b"x" * 30] * 2) == [None, None]
    for count in (2, 3):
        with pytest.raises(ValueError, match="no symbol"):
            opener.open(0, esis - 1, [b"x" * 30] * count)


def test_nor_do_repair_symbols() -> None:
    part = described(DATA, CODED)
    sealer = ObjectSealer(
        KEY, SALT, TSI, part, lambda _data, size, count, _skip: [bytes(size) for _ in range(count)]
    )
    left = (1 << 24) - fec.Blocks(CODED, len(DATA)).symbols(0)
    assert len(sealer.repair(0, block(part, 0), 2, left - 2)) == 2
    with pytest.raises(ValueError, match="no symbol"):
        sealer.repair(0, block(part, 0), 2, left - 1)


# -- announcements

FDT_HEADER = lct.build(TSI, 0, 0, fec.build_fti(NO_CODE, 300))


def announce(serial: int = 41, channel: str = "images", key: GroupKey = KEY, count: int = 3) -> list[bytes]:
    sealer = AnnouncementSealer(key, channel, serial, FDT_HEADER, 0)
    return [sealer.seal(number, b"piece %d of it" % number) for number in range(count)]


def refusal(
    opener: AnnouncementOpener, payload: bytes, number: int = 1, header: bytes = FDT_HEADER, toi: int = 0
) -> str:
    with pytest.raises(NotOpenedError) as refused:
        opener.open(header, toi, number, payload)
    assert str(refused.value).isprintable()
    return refused.value.reason


def test_an_announcement_is_opened_by_whoever_has_its_key() -> None:
    opener = AnnouncementOpener(key_ring([OTHER_KEY, KEY]), "images")
    for key in (KEY, OTHER_KEY):
        payloads = announce(key=key)
        found = [opener.open(FDT_HEADER, 0, number, memoryview(one)) for number, one in enumerate(payloads)]
        assert [one.symbol for one in found] == [b"piece 0 of it", b"piece 1 of it", b"piece 2 of it"]
        assert {one.serial for one in found} == {41}
        assert len({one.salt for one in found}) == 1
        assert len(payloads[0]) == len(b"piece 0 of it") + seal.ANNOUNCEMENT_OVERHEAD_BYTES
        assert all(map(seal.is_announcement, payloads))
    first, second = (opener.open(FDT_HEADER, 0, 0, announce()[0]) for _ in range(2))
    assert first.salt != second.salt


def test_an_announcement_of_another_key_is_told_from_a_forged_one() -> None:
    opener = AnnouncementOpener(key_ring([KEY]), "images")
    assert refusal(opener, announce(key=OTHER_KEY)[1]) == "wrong-key"
    assert refusal(opener, announce(channel="backups")[1]) == "forged"
    right = announce()[1]
    other_salt = right[:20] + bytes(32) + right[52:]
    other_serial = right[:12] + (99).to_bytes(8) + right[20:]
    confused = right[:4] + OTHER_KEY.id + right[12:]
    both = AnnouncementOpener(key_ring([KEY, OTHER_KEY]), "images")
    for forged in (
        other_salt,
        other_serial,
        right[:-1],
        right[:60],
        b"",
        b"<?xml version='1.0'?>" * 9,
        bytes(99),
    ):
        assert refusal(opener, forged) == "forged"
    assert refusal(both, confused) == "forged"
    assert refusal(opener, confused) == "wrong-key"
    assert refusal(opener, right, number=2) == "forged"
    assert refusal(opener, right, toi=1) == "forged"
    assert refusal(opener, right, header=lct.build(TSI, 0, 0)) == "forged"
    closing = lct.build(TSI, 0, 0, fec.build_fti(NO_CODE, 300), close_session=True)
    assert refusal(opener, right, header=closing) == "forged"
    assert refusal(opener, right, toi=1 << 100) == "forged"  # as an LCT header can have it
    assert refusal(opener, right, number=1 << 40) == "forged"
    assert opener.open(FDT_HEADER, 0, 1, right).symbol == b"piece 1 of it"


def test_what_is_replayed_says_its_serial() -> None:
    opener = AnnouncementOpener(key_ring([KEY]), "images")
    for serial in (0, 41, 2**64 - 1):
        assert opener.open(FDT_HEADER, 0, 0, announce(serial)[0]).serial == serial


def test_forged_announcements_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sequence[bytes]] = []
    derive = seal.derive

    def counted(*arguments: bytes) -> bytes:
        made.append(arguments)
        return derive(*arguments)

    opener = AnnouncementOpener(key_ring([KEY]), "images")
    right = announce()
    monkeypatch.setattr(seal, "derive", counted)
    opener.open(FDT_HEADER, 0, 0, right[0])
    for number in range(2 * seal.KEPT_ANNOUNCEMENTS):
        refusal(opener, right[0][:20] + number.to_bytes(32) + right[0][52:])
    made.clear()
    opener.open(FDT_HEADER, 0, 1, right[1])
    assert made == []
    others = [announce(count=1)[0] for _ in range(seal.KEPT_ANNOUNCEMENTS)]
    for one in others:
        opener.open(FDT_HEADER, 0, 0, one)
    made.clear()
    opener.open(FDT_HEADER, 0, 2, right[2])
    assert len(made) == 1


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=100)
def test_any_payload_is_opened_or_refused(payload: bytes, begins: bool) -> None:
    opener = AnnouncementOpener(key_ring([KEY]), "images")
    whole = b"mcs\1" + KEY.id + payload if begins else payload
    assert refusal(opener, whole) in ("forged", "wrong-key")


def test_the_bytes_are_those_of_the_first_version() -> None:
    """Another version of mcastd opens them: this has to fail when they change."""
    assert (
        hashlib.sha256(SEALED[PLACE]).hexdigest()
        == "fa53f38ee82153320d87f933d102d2aff00c4a810364ea693aebb809e42c47b0"
    )
    assert Sealing(KEY.id, SALT).salt == SALT


def test_nobody_loads_the_library_before_there_is_a_key() -> None:
    code = """import sys
import mcastd.makers, mcastd.cli, mcastd.daemon, mcastd.delivery.keys, mcastd.delivery.serials
import mcastd.protocols.manifest, mcastd.protocols.seal
print([name for name in sys.modules if name.partition(".")[0] in ("cryptography", "_cffi_backend")])"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(("oti", "last"), [(NO_CODE, 45), (CODED, 104)])
def test_what_is_sealed_into_places_is_the_same(oti: fec.Oti, last: int) -> None:
    """The last symbol of an object is short without a code, and filled up with one."""
    part = described(DATA, oti)
    sealer = SealingSession(KEY).sealer(TSI, part)
    sbn = len(part.hashes) - 1
    count, sizes = fec.Blocks(oti, len(DATA)).symbols(sbn), oti.symbol_size + OBJECT_OVERHEAD_BYTES
    memory = memoryview(bytearray(count * sizes))
    places = [memory[at : at + sizes] for at in range(0, len(memory), sizes)]
    places[-1] = places[-1][: last + OBJECT_OVERHEAD_BYTES]
    made = sealer.source(sbn, block(part, sbn), 0, count)
    assert [*map(bytes, sealer.source(sbn, block(part, sbn), 0, count, places))] == made
    sealer._encrypt_into = None  # as before cryptography 47
    assert [*map(bytes, sealer.source(sbn, block(part, sbn), 0, count, places))] == made
