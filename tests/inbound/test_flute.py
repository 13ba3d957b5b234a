"""FLUTE as a subscription receives it: any order, FDTs lost, exact books, and bounds on what is kept."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flute import pass_of
from support.subscription import Run
from support.wait import wait_for

from mcastd.config import FluteInbound, InboundSubscription
from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.delivery.description import EXPIRE_SECONDS
from mcastd.inbound import described, held
from mcastd.inbound.described import SILENT_SECONDS, DescribedObjects
from mcastd.inbound.flute import FluteSequencer
from mcastd.inbound.held import HOLD_SECONDS
from mcastd.inbound.protocols import make_protocol
from mcastd.inbound.symbols import SymbolBatch
from mcastd.net.link import ListBatch
from mcastd.protocols import fdt_reception
from mcastd.protocols.alc import empty_object, fdt_packets
from mcastd.protocols.fdt import FdtInstance, FileEntry, build
from mcastd.protocols.fec import NO_CODE, RAPTORQ, SCHEMES, SMALL_BLOCK, Blocks, Oti, build_fti, raptorq
from mcastd.protocols.lct import build as build_header

WALL = 1_800_000_000.0
LATER = 1_800_003_600
OTI = Oti(NO_CODE, 40, 3)
CONTENT = {1: bytes(range(200)), 2: b"short", 3: b""}
ENTRIES = {toi: FileEntry(toi, f"d/file {toi}", len(data), len(data), OTI) for toi, data in CONTENT.items()}


class Fed:
    """A sequencer whose clocks stand still, and what it gave."""

    def __init__(self, **settings: Any) -> None:
        self.now, self.wall = 50.0, WALL
        self.dropped: Counter[str] = Counter()
        self.sequencer = FluteSequencer(
            FluteInbound(**settings), self.dropped, now=lambda: self.now, wall=lambda: self.wall
        )
        self.fed = self.given = 0
        self.batches: list[SymbolBatch] = []
        self.symbols: dict[tuple[int, int, int], bytes] = {}  # by TOI, SBN and ESI

    def feed(self, *datagrams: bytes, senders: Sequence[str] = ()) -> SymbolBatch:
        """Feed a batch whose buffers are overwritten afterwards. What was fed is given, dropped or held."""
        buffers = [memoryview(bytearray(datagram)) for datagram in datagrams]
        (batch,) = self.sequencer.feed(ListBatch(buffers, addresses=senders))
        assert isinstance(batch, SymbolBatch)
        self._note(batch)
        for buffer in buffers:
            buffer[:] = b"#" * len(buffer)
        self.fed += len(datagrams)
        self._balance()
        return batch

    @property
    def objects(self) -> DescribedObjects:
        objects = self.sequencer._objects
        assert isinstance(objects, DescribedObjects)
        return objects

    def expire(self, now: float) -> None:
        assert list(self.sequencer.expire(now)) == []
        self._balance()

    def _note(self, batch: SymbolBatch) -> None:
        self.batches.append(batch)
        self.given += len(batch)
        described = [each for kept in self.batches for each in kept.news]
        for run in batch.runs:
            assert any(run.description is each for each in described), "described before it is used"
            for esi, symbol in enumerate(run.symbols, run.esi):
                self.symbols[run.description.toi, run.sbn, esi] = bytes(symbol)

    def _balance(self) -> None:
        held = self.sequencer.held
        assert self.fed == self.given + self.dropped.total() + held
        assert (self.sequencer.deadline < math.inf) == (held > 0)

    @property
    def news(self) -> list[tuple[int, str]]:
        return [(each.toi, each.path) for batch in self.batches for each in batch.news]

    def content(self, toi: int) -> bytes:
        blocks = Blocks(OTI, len(CONTENT[toi]))
        places = [(toi, sbn, esi) for sbn in range(blocks.count) for esi in range(blocks.symbols(sbn))]
        return b"".join(self.symbols.get(place, b"") for place in places)


def table(
    *entries: FileEntry, number: int = 5, expires: int = LATER, size: int = 1400, tsi: int = 7
) -> list[bytes]:
    return fdt_packets(tsi, number, build(FdtInstance(expires, entries)), size)


def symbols(toi: int, *, tsi: int = 7, more: bytes = b"", data: bytes | None = None) -> list[bytes]:
    """All packets of a file; its last symbol is short."""
    data = CONTENT[toi] if data is None else data
    header, blocks = build_header(tsi, toi, NO_CODE, more), Blocks(OTI, len(data))
    return [
        header
        + SCHEMES[NO_CODE].identify(sbn, esi)
        + data[blocks.offset(sbn) + 40 * esi : min(blocks.offset(sbn) + 40 * (esi + 1), len(data))]
        for sbn in range(blocks.count)
        for esi in range(blocks.symbols(sbn))
    ]


TABLE = table(*ENTRIES.values())


@pytest.fixture
def fed() -> Fed:
    return Fed()


# -- what is received


def test_a_session_in_its_order(fed: Fed) -> None:
    batch = fed.feed(*TABLE, *symbols(1), *symbols(2), empty_object(7, 3, NO_CODE))
    (first, second, third) = batch.news
    assert (first.toi, first.name, first.length, first.content_length) == (1, ("d", "file 1"), 200, 200)
    assert (first.oti, first.md5, first.encoding, first.expires, first.hashes) == (OTI, None, "", LATER, None)
    assert (second.length, third.length) == (5, 0)
    assert [(run.description.toi, run.sbn, run.esi, len(run.symbols)) for run in batch.runs] == [
        (1, 0, 0, 3),
        (1, 1, 0, 2),
        (2, 0, 0, 1),
    ]
    assert (batch.descriptive, len(batch)) == (len(TABLE) + 1, len(TABLE) + 7)
    assert batch.size == 205 + sum(len(each) - 40 for each in TABLE)
    assert [fed.content(toi) for toi in CONTENT] == [*CONTENT.values()]
    assert not fed.dropped


def test_a_description_has_what_its_entry_says(fed: Fed) -> None:
    entry = FileEntry(4, "d/packed", 900, 70, OTI, encoding="gzip", md5=bytes(range(16)))
    (description,) = fed.feed(*table(entry)).news
    assert (description.content_length, description.length) == (900, 70)
    assert (description.encoding, description.md5) == ("gzip", bytes(range(16)))


def test_what_comes_before_the_fdt_is_held_and_given_on(fed: Fed) -> None:
    for packet in [*symbols(1), *symbols(2)]:
        assert len(fed.feed(packet)) == 0
    assert fed.sequencer.held == 6
    assert fed.sequencer.deadline == 50 + HOLD_SECONDS
    batch = fed.feed(*TABLE)
    assert [len(run.symbols) for run in batch.runs] == [1] * 6
    assert [fed.content(toi) for toi in CONTENT] == [*CONTENT.values()]
    assert fed.sequencer.held == 0


def test_what_is_not_described_in_time_is_dropped(fed: Fed) -> None:
    fed.feed(*symbols(1)[:2])
    fed.now += 10
    fed.feed(*symbols(1)[2:], *symbols(2))
    fed.expire(50 + HOLD_SECONDS - 0.1)
    assert not fed.dropped
    fed.expire(50 + HOLD_SECONDS)
    assert fed.dropped == {"no-fdt": 5}
    assert (fed.sequencer.held, fed.sequencer.deadline) == (1, 60 + HOLD_SECONDS)
    fed.expire(math.inf)
    assert (fed.sequencer.held, fed.dropped) == (0, {"no-fdt": 6})


def test_an_fdt_that_is_lost_in_part_is_completed_by_its_repetition(fed: Fed) -> None:
    first, second, third, *rest = table(*ENTRIES.values(), size=200)
    fed.feed(first, *rest)
    fed.feed(first, third)
    assert fed.news == []
    fed.feed(*symbols(2), second)
    assert [toi for toi, _ in fed.news] == [1, 2, 3]
    assert fed.content(2) == b"short"


def test_each_fdt_instance_describes_its_files(fed: Fed) -> None:
    for toi, entry in ENTRIES.items():
        fed.feed(*symbols(toi), *table(entry, number=toi))
    assert [fed.content(toi) for toi in CONTENT] == [*CONTENT.values()]


def test_a_repeated_fdt_tells_only_of_files_without_symbols(fed: Fed) -> None:
    """An output that has begun meanwhile hears of the others by their symbols."""
    fed.feed(*TABLE)
    assert [toi for toi, _ in fed.news] == [1, 2, 3]
    fed.feed(*TABLE)
    assert [toi for toi, _ in fed.news] == [1, 2, 3, 3]


def test_an_object_may_be_described_again(fed: Fed) -> None:
    fed.feed(*TABLE)
    fed.feed(*table(ENTRIES[1], number=6, expires=LATER + 60), *symbols(1))
    assert fed.batches[-1].news[0].expires == LATER + 60
    assert fed.batches[-1].runs[0].description is fed.batches[-1].news[0]
    fed.feed(*table(ENTRIES[1], number=7, expires=LATER + 30))
    assert fed.batches[-1].news == [], "for a shorter time is nothing new"
    other = FileEntry(1, "other", 5, 5, Oti(NO_CODE, 40, 64))
    fed.feed(*table(other, number=8), *symbols(1, data=b"other"))
    assert [(each.toi, each.path) for each in fed.batches[-1].news] == [(1, "other")]
    assert fed.symbols[1, 0, 0] == b"other"


def test_a_file_that_is_restored_is_told_of_again(fed: Fed) -> None:
    """It is the object of before; meanwhile another one had its name."""
    old, other = (table(FileEntry(toi, "d/file 1", 5 + toi, 5 + toi, OTI), number=toi) for toi in (1, 2))
    fed.feed(*old, *other, *old, *other, *old)
    assert [toi for toi, _ in fed.news] == [1, 2], "both are told all the time: the last one counts"
    fed.now += described.UNTOLD_SECONDS
    fed.feed(*old, *old, *other)
    assert [toi for toi, _ in fed.news] == [1, 2, 1]
    fed.now += described.UNTOLD_SECONDS
    fed.feed(*other)
    assert [toi for toi, _ in fed.news] == [1, 2, 1, 2]


def test_a_sender_that_was_started_anew_may_use_the_same_numbers(fed: Fed) -> None:
    """The same instance id, of the same length, says something else."""
    for at in (160, 200):  # where symbols are cut: before and behind what is another
        fed.feed(*table(ENTRIES[1], size=at))
        for _ in range(2):
            fed.feed(*table(FileEntry(1, "d/file 9", 200, 200, OTI), size=at))
        assert fed.news == [(1, "d/file 1"), (1, "d/file 9")]
        fed.feed(table(FileEntry(1, "d/file 8", 200, 200, OTI), size=at)[at // 200])
        for _ in range(2):
            fed.feed(*table(FileEntry(1, "d/file 7", 200, 200, OTI), size=at))
        assert fed.news[2:] == [(1, "d/file 7")]
        fed = Fed()


@pytest.mark.parametrize("order", ["fdt first", "symbols first"])
def test_how_an_object_is_cut_may_stand_in_its_packets(fed: Fed, order: str) -> None:
    entry = FileEntry(1, "a", None, None)
    with_fti = symbols(1, more=build_fti(OTI, 200))
    packets = [*symbols(1)[:1], *with_fti[1:]]
    if order == "fdt first":
        fed.feed(*table(entry), *packets)
    else:
        fed.feed(*packets)
        assert fed.sequencer.held == 5
        fed.feed(*table(entry))
    assert fed.content(1) == CONTENT[1]
    assert fed.sequencer.held == 0


@pytest.mark.parametrize("order", ["fdt first", "symbols first"])
def test_what_its_packets_say_of_an_object_counts_more_than_the_fdt(fed: Fed, order: str) -> None:
    """RFC 6726 section 5. The first that says so counts, and an FDT that comes again changes nothing."""
    in_band = Oti(NO_CODE, 40, 4)
    table_of_3 = table(ENTRIES[1])
    (first, *others) = symbols(1, more=build_fti(in_band, 200))
    for datagrams in (
        ([*table_of_3, first], [first, *table_of_3])[order == "symbols first"],
        table_of_3,
        others,
    ):
        fed.feed(*datagrams)
    assert fed.batches[-1].runs[-1].description.oti == in_band
    (last,) = {each.oti.block_symbols for each in fed.batches[0].news[-1:]}
    assert last == 4
    assert not any(batch.news for batch in fed.batches[1:])
    assert not fed.dropped
    fed.feed(*symbols(1, more=build_fti(OTI, 200)))
    assert fed.dropped == {"malformed": 5}


@pytest.mark.parametrize("scheme", [NO_CODE, RAPTORQ])
@pytest.mark.parametrize("padded", [True, False])
def test_a_datagram_may_have_several_symbols(fed: Fed, scheme: int, padded: bool) -> None:
    """RFC 6330 section 4.4.2. Only the last symbol of the object may lack what fills it up."""
    content = bytes(range(190))
    oti = Oti(NO_CODE, 40, 3) if scheme == NO_CODE else raptorq(190, 40, 3)
    fed.feed(*table(FileEntry(4, "a", 190, 190, oti)))
    header, identify = build_header(7, 4, scheme), SCHEMES[scheme].identify
    last = content[120:].ljust(80 if padded else 0, b"\0")
    batch = fed.feed(
        header + identify(0, 0) + content[:40],
        header + identify(0, 1) + content[40:120],
        header + identify(1, 0) + last,
        header + identify(1, 2) + bytes(3 * 40),
    )
    assert len(batch) == 4
    assert [(run.sbn, run.esi, len(run.symbols), run.together) for run in batch.runs] == [
        *((0, 0, 1, False), (0, 1, 2, True)),
        *((1, 0, 2, True), (1, 2, 3, True)),
    ]
    assert (
        b"".join(fed.symbols[4, *place] for place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)))[:190]
        == content
    )
    fed.feed(
        header + identify(0, 1) + content[40:119],  # a part of one that is not the last
        header + identify(1, 0) + content[120:189],
        header + identify(1, 2) + bytes(65 * 40),
    )
    assert fed.dropped == {"malformed": 3}


def test_an_fdt_may_have_several_symbols_in_a_datagram(fed: Fed) -> None:
    pieces = table(*ENTRIES.values(), size=64)
    assert len(pieces) > 6
    head = pieces[0][: -64 - 4]
    whole = b"".join(piece[len(head) + 4 :] for piece in pieces)
    for first in range(0, len(pieces), 3):
        payload_id = SCHEMES[NO_CODE].identify(0, first)
        fed.feed(head + payload_id + whole[first * 64 : (first + 3) * 64])
    assert len(fed.news) == 3
    assert not fed.dropped


def test_an_empty_object_may_be_cut_by_its_one_packet(fed: Fed) -> None:
    fed.feed(*table(FileEntry(3, "empty", None, None)))
    fed.feed(empty_object(7, 3, RAPTORQ, build_fti(raptorq(0, 1448, 9), 0)))
    assert fed.news == [(3, "empty")]


# -- sessions


def test_it_says_so_while_another_session_comes_than_the_one_of_its_settings() -> None:
    fed = Fed(session=8)
    assert fed.sequencer.problem == ""
    fed.feed(*TABLE)
    assert fed.sequencer.problem == "takes no files: session 7 comes, and it is to receive 8"
    fed.feed(*table(ENTRIES[1], tsi=8), senders=["10.0.0.8"])
    assert fed.sequencer.problem == ""
    fed.feed(*TABLE)
    assert fed.sequencer.problem == ""


def test_the_first_session_is_received_until_it_is_silent(fed: Fed) -> None:
    fed.feed(*symbols(2), *table(ENTRIES[1], tsi=8), *symbols(1)[:2])
    assert fed.dropped == {"foreign-session": 1}
    fed.now += SILENT_SECONDS - 1
    fed.feed(*symbols(2, tsi=8))
    assert fed.dropped == {"foreign-session": 2}
    fed.now += 1
    fed.feed(*symbols(2, tsi=8), *TABLE)
    assert fed.dropped == {"foreign-session": 2 + len(TABLE), "no-fdt": 3}
    assert fed.sequencer.held == 1
    assert fed.news == []


def test_objects_of_the_session_before_are_others(fed: Fed) -> None:
    fed.feed(*TABLE)
    fed.now += SILENT_SECONDS
    fed.feed(*symbols(2, tsi=8))
    assert fed.sequencer.held == 1, "its number means nothing any more"
    fed.feed(*table(FileEntry(2, "two", 5, 5, OTI), tsi=8))
    assert fed.news[-1] == (2, "two")
    assert len({each.session for batch in fed.batches for each in batch.news}) == 2
    assert fed.symbols == {(2, 0, 0): b"short"}


@pytest.mark.parametrize("session", [None, 7])
def test_two_senders_of_one_session_number_are_not_mixed(session: int | None) -> None:
    fed = Fed(session=session)
    other = {toi: data[::-1] for toi, data in CONTENT.items()}
    first = [*TABLE, *symbols(1), *symbols(2)]
    second = [*TABLE, *symbols(1, data=other[1]), *symbols(2, data=other[2])]
    sent = [("10.9.7.1", TABLE[0])]
    sent += [
        (address, one)
        for pair in zip(first, second, strict=True)
        for address, one in zip(("10.9.7.1", "10.9.7.2"), pair, strict=True)
    ]
    for start in range(0, len(sent), 5):
        part = sent[start : start + 5]
        fed.feed(*(one for _, one in part), senders=[address for address, _ in part])
    assert {toi: fed.content(toi) for toi in CONTENT} == CONTENT
    assert fed.dropped == {"foreign-session": len(second)}
    fed.now += SILENT_SECONDS
    before = fed.batches[0].news[0]
    batch = fed.feed(*second, senders=["10.9.7.2"] * len(second))
    assert {toi: fed.content(toi) for toi in CONTENT} == other
    assert not before.is_like(batch.news[0]), "an output begins it anew"


def test_a_session_that_is_named_is_the_only_one() -> None:
    fed = Fed(session=0x80000001)
    fed.now = 1e9
    fed.feed(*TABLE, *table(ENTRIES[2], tsi=0x80000001), *symbols(2, tsi=0x80000001))
    assert fed.dropped == {"foreign-session": len(TABLE)}
    assert fed.content(2) == b"short"


# -- what is dropped


def test_junk_is_malformed(fed: Fed) -> None:
    fed.feed(b"", b"news", *TABLE, symbols(1)[0][:18], *symbols(1))
    assert fed.dropped == {"malformed": 3}
    assert fed.content(1) == CONTENT[1]


def test_what_contradicts_the_description_is_malformed(fed: Fed) -> None:
    scheme = SCHEMES[SMALL_BLOCK]
    small = Oti(SMALL_BLOCK, 40, 3)
    fed.feed(*table(ENTRIES[1], FileEntry(4, "small", 200, 200, small)))
    fed.feed(
        build_header(7, 1, RAPTORQ) + bytes(44),
        *symbols(1, more=build_fti(OTI, 200))[:1],
        *symbols(1, more=build_fti(OTI, 199))[:1],
        *symbols(1, more=build_fti(Oti(NO_CODE, 40, 4), 200))[:1],
        build_header(7, 4, SMALL_BLOCK) + scheme.identify(0, 0, 2) + bytes(40),
        build_header(7, 4, SMALL_BLOCK) + scheme.identify(2, 0, 3) + bytes(40),
        build_header(7, 4, SMALL_BLOCK) + scheme.identify(1, 1, 2) + b"fine".ljust(40),
    )
    assert fed.dropped == {"malformed": 5}
    assert fed.symbols == {(1, 0, 0): CONTENT[1][:40], (4, 1, 1): b"fine".ljust(40)}


@pytest.mark.parametrize("location", ["../etc/passwd", "a//b", "a/../../b", "%00", "x" * 300])
def test_a_name_that_leads_elsewhere_is_dropped_by_its_reason(fed: Fed, location: str) -> None:
    location = location.replace("%00", "\0")
    fed.feed(*symbols(2), *table(FileEntry(2, location, 5, 5, OTI)), *symbols(2))
    assert fed.dropped == {"unsafe-name": 2}
    assert fed.news == []


@pytest.mark.parametrize(
    "packets",
    [
        fdt_packets(7, 5, b"<!DOCTYPE a>", 1400),
        fdt_packets(7, 5, b"no XML", 1400, "gzip"),
        fdt_packets(7, 5, bytes((1 << 20) + 1), 60_000)[:1],
        [build_header(7, 0, NO_CODE, b"\xc0\x20\0\5") + bytes(44)],  # without EXT_FTI
        [fdt_packets(7, 5, bytes(100), 50)[0][:-1]],
        [fdt_packets(7, 5, bytes(100), 50)[0] + b"1"],
        [fdt_packets(7, 5, bytes(100), 50)[0].replace(bytes(4) + bytes(50), b"\0\2\0\0" + bytes(50))],
    ],
)
def test_an_fdt_that_is_not_taken_is_refused_each_time(fed: Fed, packets: Sequence[bytes]) -> None:
    fed.feed(*packets, *packets)
    assert fed.dropped == {"refused": 2}
    fed.feed(*table(ENTRIES[1]))
    assert fed.news == [(1, "d/file 1")]


def test_an_fdt_that_has_expired_says_nothing(fed: Fed) -> None:
    packets = table(ENTRIES[1], expires=int(WALL))
    fed.feed(*packets, *packets)
    assert fed.dropped == {"expired": 2}
    assert fed.news == []


def test_repair_symbols_of_an_fdt_are_not_needed(fed: Fed) -> None:
    first, second = fdt_packets(7, 5, build(FdtInstance(LATER, (ENTRIES[1],))).ljust(500), 250)
    repair = first[:36] + b"\0\0\0\2" + first[40:]
    fed.feed(first, repair, second)
    assert fed.news == [(1, "d/file 1")]


def test_close_flags_close_nothing(fed: Fed) -> None:
    fed.feed(
        *TABLE,
        build_header(7, 1, NO_CODE, close_session=True, close_object=True) + bytes(4),
        build_header(7, 0, NO_CODE, close_session=True),
        *symbols(1),
    )
    assert fed.content(1) == CONTENT[1]
    assert not fed.dropped


def test_a_description_that_holds_no_more_is_forgotten(fed: Fed) -> None:
    fed.feed(*TABLE, *symbols(1)[:1])
    fed.wall, fed.now = float(LATER), fed.now + EXPIRE_SECONDS
    fed.feed(*symbols(1)[1:2], *TABLE)
    assert fed.sequencer.held == 1
    assert fed.dropped == {"expired": len(TABLE)}


# -- bounds


def test_what_is_held_is_bounded_in_number(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "HELD_MAX", 20)
    for toi in range(1, 100):
        fed.feed(*symbols(2), build_header(7, toi + 2, NO_CODE) + bytes(44))
    assert (fed.sequencer.held, fed.dropped) == (20, {"no-fdt": 178})
    assert len(fed.sequencer._held.tois()) <= 20
    fed.feed(*TABLE)
    assert fed.sequencer.held < 20


def test_what_is_held_is_bounded_in_bytes(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "HELD_MAX_BYTES", 1000)
    for toi in range(1, 100):
        fed.feed(build_header(7, toi, NO_CODE) + bytes(304))
    assert (fed.sequencer.held, fed.sequencer._held._bytes) == (3, 900)
    fed.expire(math.inf)
    assert (fed.sequencer.held, fed.sequencer._held._bytes) == (0, 0)


def test_descriptions_are_bounded_and_the_last_ones_stay(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "OBJECTS_MAX", 10)
    for toi in range(1, 100):
        fed.feed(*table(FileEntry(toi, f"a{toi}", 5, 5, OTI), number=toi))
    assert [*fed.objects._objects] == [*range(90, 100)]
    fed.feed(*table(FileEntry(90, "a90", 5, 5, OTI), number=90), *table(FileEntry(1, "a1", 5, 5, OTI)))
    assert [*fed.objects._objects] == [*range(92, 100), 90, 1]
    fed.feed(*symbols(2, tsi=7))
    assert fed.sequencer.held == 1


def test_descriptions_are_bounded_in_bytes(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "LOCATIONS_MAX_BYTES", 10_000)
    for toi in range(1, 100):
        long = f"{toi}" + 200 * "\N{PILE OF POO}"  # four bytes for each character
        fed.feed(*table(FileEntry(toi, long, 5, 5, OTI), number=toi, size=9000))
    assert [*fed.objects._objects] == [*range(89, 100)]
    assert len(fed.objects._named) == 11
    assert fed.objects._locations_bytes <= 10_000


def test_fdt_instances_are_bounded(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    fed.feed(*TABLE)
    tables = fed.objects._tables
    large = fdt_packets(7, 0, bytes(1 << 20), 60_000)
    for number in range(50):
        fed.feed(large[0].replace(b"\xc0\x20\0\0", bytes((0xC0, 0x20, 0, number))))
        assert sum(each.bytes for each in tables._coming._kept.values()) <= fdt_reception.COMING_MAX_BYTES
    assert len(tables._coming._kept) == 3
    for number in range(50):
        fed.feed(table(ENTRIES[1], number=number, size=100)[0])
    assert len(tables._coming._kept) == fdt_reception.COMING_MAX
    monkeypatch.setattr(tables._whole, "_bytes_max", 10_000)
    for number in range(50):
        fed.feed(*table(ENTRIES[1], number=number))
    assert 1 < len(tables._whole._kept) < 5
    monkeypatch.setattr(tables._whole, "_number_max", 2)
    fed.feed(*TABLE)
    assert len(tables._whole._kept) == 2


# -- books


PACKETS = [
    *TABLE,
    *table(*ENTRIES.values(), number=6, size=200),
    *table(ENTRIES[1], number=7, expires=int(WALL) - 1),
    *table(FileEntry(9, "../a", 5, 5, OTI), FileEntry(10, "by fti", None, None), number=8),
    *fdt_packets(7, 9, b"junk", 1400),
    *symbols(1),
    *symbols(2),
    *symbols(2, tsi=8),
    empty_object(7, 3, NO_CODE),
    *(build_header(7, 9, NO_CODE) + bytes((0, 0, 0, esi)) + bytes(5) for esi in range(3)),
    *(build_header(7, 10, NO_CODE, build_fti(OTI, 5)) + bytes(4) + b"short" for _ in range(2)),
    *(build_header(7, 11, NO_CODE) + bytes((0, 0, 0, esi)) + bytes(5) for esi in range(3)),
    build_header(7, 1, RAPTORQ) + bytes(44),
    b"junk",
    b"",
]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(PACKETS), max_size=12), max_size=12),
    st.lists(st.sampled_from([0.0, 5.0, HOLD_SECONDS]), max_size=12),
)
def test_books_are_exact_in_any_order(batches: list[list[bytes]], pauses: list[float]) -> None:
    fed = Fed()
    for batch, pause in zip(batches, [*pauses, *[0.0] * 12], strict=False):
        fed.feed(*batch)
        fed.now += pause
        if fed.sequencer.deadline <= fed.now:
            fed.expire(fed.now)
        assert fed.sequencer.held <= 12 * 12
    fed.expire(math.inf)
    assert fed.sequencer.held == 0
    assert set(fed.dropped) <= set(FluteSequencer.reasons)
    for (toi, sbn, esi), symbol in fed.symbols.items():
        if toi in CONTENT:
            assert symbol in symbols(toi)[3 * sbn + esi]


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_a_session_in_any_order_is_received(dice: Any) -> None:
    packets = [*table(*ENTRIES.values(), size=150), *symbols(1), *symbols(2)] * 2
    dice.shuffle(packets)
    fed = Fed()
    while packets:
        size = dice.randrange(1, 9)
        fed.feed(*packets[:size])
        packets = packets[size:]
    assert [fed.content(toi) for toi in CONTENT] == [*CONTENT.values()]
    assert {toi for toi, _ in fed.news} == {1, 2, 3}
    assert not fed.dropped


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=80), max_size=6), st.integers(0, 79), st.integers(0, 255))
def test_junk_of_any_kind_is_taken_apart_or_dropped(junk: list[bytes], at: int, value: int) -> None:
    changed = [bytearray(packet) for packet in (*PACKETS[:3], *symbols(1)[:2], *PACKETS[-8:])]
    for packet in changed:
        if at < len(packet):
            packet[at] = value
    fed = Fed()
    fed.feed(*junk, *map(bytes, changed))
    fed.expire(math.inf)
    assert fed.sequencer.held == 0


# -- from a channel to a directory


def test_the_kind_is_known() -> None:
    settings = {"group": "239.255.1.2", "port": 9190, "protocol": "flute"}
    settings["output"] = {"kind": "directory", "path": "/srv/x"}
    config = InboundSubscription.model_validate(settings)
    assert isinstance(make_protocol(config, Counter(), "inbound/x"), FluteSequencer)


def test_files_of_a_channel_land_with_what_was_lost_in_a_pass_from_the_next(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    dice = random.Random(20261126)
    files = {"a": b"", "d/b": b"1", "d/e/c": dice.randbytes(300_001)}
    for name, content in files.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    catalog = Catalog(tmp_path / "source", 1448, protected=False)
    while not catalog.scan():
        pass
    carousel = Carousel(catalog, session=9, max_datagram=1468, loss=0.0, interleave=8)
    run = make_run({"kind": "directory", "path": str(tmp_path / "out")}, protocol="flute")
    link = run.start()
    sent = 0
    for number, lost in enumerate((0.2, 0.0)):
        for batch in pass_of(carousel, number, 3600.0, time.time):
            kept = [datagram for datagram in batch if dice.random() >= lost]
            link.deliver(*kept)
            sent += len(kept)

    def landed() -> dict[str, bytes]:
        out = tmp_path / "out"
        found = (path for name in files if (path := out / name).exists())
        return {str(path.relative_to(out)): path.read_bytes() for path in found}

    wait_for(lambda: landed() == files, "the files")
    (sink,) = run.worker.sinks
    wait_for(lambda: run.worker.counters.received == sent, "all datagrams")
    run.stop()
    counters = run.worker.counters
    assert counters.held == 0
    assert sent == counters.dropped.total() + sink.counters.written + sink.counters.dropped.total()
    assert not run.failure
