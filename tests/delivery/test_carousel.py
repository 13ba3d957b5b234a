"""The order of a carousel: all is sent, an outage is spread, repair is new each pass, files are described."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import flute
from support.flute import Rebuilding

from mcastd.delivery.carousel import PLAN_DATAGRAMS, Carousel, first_instance, symbol_size_of
from mcastd.delivery.catalog import Catalog
from mcastd.delivery.division import cut
from mcastd.delivery.protection import repair_symbols
from mcastd.delivery.scan import SourceFile
from mcastd.keytext import GroupKey
from mcastd.protocols import alc, fec, lct, raptorq
from mcastd.protocols.manifest import Part
from mcastd.protocols.seal import SealingSession

pytestmark = pytest.mark.usefixtures("no_fd_leak")
needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

SESSION = 0xC0FFEE
MAX_DATAGRAM = 500  # symbols of 480 bytes
NOW = 1_764_000_000.25
LIFE = 3600.0


def carousel_of(
    path: Path, *, loss: float = 0.0, interleave: int = 8, max_datagram: int = MAX_DATAGRAM
) -> Carousel:
    catalog = Catalog(path, symbol_size_of(max_datagram), protected=loss > 0)
    while not catalog.scan():
        pass
    return Carousel(catalog, session=SESSION, max_datagram=max_datagram, loss=loss, interleave=interleave)


def batches(carousel: Carousel, number: int = 0, now: float = NOW) -> Iterator[list[bytes]]:
    """The datagrams of a pass, as they are given."""
    yield from flute.pass_of(carousel, number, LIFE, lambda: now)


def pass_of(carousel: Carousel, number: int = 0, now: float = NOW) -> list[bytes]:
    return [datagram for batch in batches(carousel, number, now) for datagram in batch]


def rebuilt(datagrams: list[bytes]) -> Rebuilding:
    receiver = Rebuilding(SESSION)
    receiver.take(datagrams)
    return receiver


def write(path: Path, *sizes: int) -> dict[str, bytes]:
    """Files of these sizes in a directory, by name."""
    path.mkdir(exist_ok=True)
    files = {f"{at:03}": random.Random(at).randbytes(size) for at, size in enumerate(sizes)}
    for name, content in files.items():
        (path / name).write_bytes(content)
    return files


def located(datagram: bytes) -> tuple[int, int, int]:
    """TOI, SBN, ESI."""
    header = lct.parse(datagram)
    payload_id = int.from_bytes(datagram[header.size : header.size + 4])
    assert header.toi is not None
    return header.toi, *fec.scheme_of(header.codepoint).locate(payload_id)[:2]


@pytest.mark.parametrize("loss", [0.0, pytest.param(0.05, marks=needs_library)])
@pytest.mark.parametrize("interleave", [1, 8])
def test_all_files_are_sent(tmp_path: Path, loss: float, interleave: int) -> None:
    files = write(tmp_path / "tree", 0, 1, 480, 481, 4799, 700_000, 0, 1_480_001)
    sent = pass_of(carousel_of(tmp_path / "tree", loss=loss, interleave=interleave))
    assert max(map(len, sent)) == MAX_DATAGRAM
    receiver = rebuilt(sent)
    assert receiver.files() == files
    assert len(receiver.closed) == 2


@needs_library
def test_loss_is_made_good(tmp_path: Path) -> None:
    files = write(tmp_path / "tree", 0, 1, 480, 99_999, 700_000, *([300] * 30))
    carousel = carousel_of(tmp_path / "tree", loss=0.1)
    chance = random.Random(5)
    for number in range(3):
        arrived = [datagram for datagram in pass_of(carousel, number) if chance.random() > 0.1]
        assert rebuilt(arrived).files() == files


@needs_library
@pytest.mark.parametrize("sizes", [[3 * 480 * 1024], [480 * 1024 + 5] + [30_000] * 20])
def test_an_outage_is_made_good(tmp_path: Path, sizes: list[int]) -> None:
    """150 datagrams in a row are a seventh of a block; the repair of 5 % loss is a tenth."""
    files = write(tmp_path / "tree", *sizes)
    sent = pass_of(carousel_of(tmp_path / "tree", loss=0.05))
    for start in range(0, len(sent) - 150, len(sent) // 3 + 1):
        assert rebuilt(sent[:start] + sent[start + 150 :]).files() == files


@needs_library
def test_repair_is_another_with_each_pass(tmp_path: Path) -> None:
    write(tmp_path / "tree", 100 * 480)
    carousel = carousel_of(tmp_path / "tree", loss=0.05)
    count = repair_symbols(100, 0.05)
    cycle = 400 // count
    seen = []
    for number in range(cycle + 1):
        repair = [esi for toi, _, esi in map(located, pass_of(carousel, number)) if toi and esi >= 100]
        assert len(repair) == count
        seen += repair
    assert seen == [*range(100, 100 + cycle * count), *range(100, 100 + count)]


@needs_library
def test_passes_add_up(tmp_path: Path) -> None:
    """What two passes leave behind at a loss that is far too high is enough together."""
    files = write(tmp_path / "tree", 300_000)
    carousel = carousel_of(tmp_path / "tree", loss=0.05)
    chance = random.Random(8)
    arrived = [
        [datagram for datagram in pass_of(carousel, number) if chance.random() > 0.35] for number in range(2)
    ]
    assert [rebuilt(of_pass).files() for of_pass in arrived] == [{}, {}]
    assert rebuilt(arrived[0] + arrived[1]).files() == files


def test_without_protection_there_is_no_code(tmp_path: Path) -> None:
    write(tmp_path / "tree", 100_000)
    sent = pass_of(carousel_of(tmp_path / "tree"))
    assert {datagram[3] for datagram in sent} == {fec.NO_CODE}
    assert min(map(len, (datagram for datagram in sent if located(datagram)[0]))) == 20 + 100_000 % 480


class TestOrder:
    def test_blocks_take_turns(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", 10 * 480 * 1024)
        sent = [located(datagram) for datagram in pass_of(carousel_of(tmp_path / "tree", interleave=4))]
        order = [(sbn, esi) for toi, sbn, esi in sent if toi]
        assert order[:16] == [(0, esi) for esi in range(16)]
        assert order[16:32] == [(1, esi) for esi in range(16)]
        assert order[64:80] == [(0, esi) for esi in range(16, 32)]
        assert {sbn for sbn, _ in order[: 4 * 1024]} == {0, 1, 2, 3}
        # 10 blocks in stripes of at most 4, the last of which is as wide as can be
        assert {sbn for sbn, _ in order[-2 * 1024 :]} == {8, 9}
        assert sorted(order) == [(sbn, esi) for sbn in range(10) for esi in range(1024)]

    def test_stripes_are_as_equal_as_can_be(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", 9 * 480 * 1024)
        sent = [located(datagram) for datagram in pass_of(carousel_of(tmp_path / "tree", interleave=8))]
        assert {sbn for toi, sbn, _ in sent[-4000:] if toi} == {5, 6, 7, 8}

    def test_small_files_share_a_stripe(self, tmp_path: Path) -> None:
        files = write(tmp_path / "tree", *([480 * 3] * 130))
        sent = [located(datagram) for datagram in pass_of(carousel_of(tmp_path / "tree", interleave=2))]
        on_air = list(dict.fromkeys(toi for toi, _, _ in sent if toi))
        assert len(on_air) == len(files)
        begun = [next(at for at, (toi, _, _) in enumerate(sent) if toi == which) for which in on_air]
        ended = [max(at for at, (toi, _, _) in enumerate(sent) if toi == which) for which in on_air]
        assert max(sum(b <= at <= e for b, e in zip(begun, ended, strict=True)) for at in begun) <= 64

    def test_no_more_than_a_stripe_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "tree", 12 * 480 * 1024)
        carousel = carousel_of(tmp_path / "tree", interleave=3)
        read: list[int] = []
        real = carousel._catalog.read_into

        def noting(place: memoryview, file: SourceFile, sbn: int) -> None:
            read.append(sbn)
            real(place, file, sbn)

        monkeypatch.setattr(carousel._catalog, "read_into", noting)
        sent = 0
        for batch in batches(carousel):
            sent += sum(1 for datagram in batch if located(datagram)[0])
            assert len(read) <= 3 * (1 + sent // (3 * 1024))
        assert read == list(range(12))

    def test_a_file_is_opened_once_for_a_stripe_and_then_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "tree", 12 * 480 * 1024)
        carousel = carousel_of(tmp_path / "tree", interleave=3)
        catalog, opened = carousel._catalog, []
        real = catalog._open

        def noting(file: SourceFile) -> int:
            opened.append(real(file))
            return opened[-1]

        monkeypatch.setattr(catalog, "_open", noting)
        before, most, at = set(os.listdir("/proc/self/fd")), 0, []
        for number, _ in enumerate(batches(carousel)):
            found = len(set(os.listdir("/proc/self/fd")) - before)
            most = max(most, found)
            at += [number] if found else []
        assert most == 1
        assert len(opened) == 4
        assert len(at) < number / 3  # while it is read, and not while the rest of the stripe is sent


class TestDescription:
    def test_it_comes_first_and_often(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", 20 * 480 * 1024)
        tois = [located(datagram)[0] for datagram in pass_of(carousel_of(tmp_path / "tree"))]
        assert tois[:5].count(0) == 4
        assert 20 <= tois.count(0) < 30
        described = [at for at, toi in enumerate(tois) if toi == 0]
        assert max(later - earlier for earlier, later in pairwise(described)) < 1024 + PLAN_DATAGRAMS

    def test_it_is_the_same_while_it_holds(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", 3 * 480 * 1024)
        carousel = carousel_of(tmp_path / "tree")
        receiver = rebuilt(pass_of(carousel, 0, NOW) + pass_of(carousel, 1, NOW + LIFE / 2 - 1))
        assert list(receiver.expires.values()) == [int(NOW + LIFE)]
        receiver.take(pass_of(carousel, 2, NOW + LIFE / 2))
        first, second = receiver.expires
        assert second == first + 1
        assert receiver.expires[second] == int(NOW + LIFE / 2 + LIFE)

    def test_it_is_the_same_in_each_pass(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", *([700] * 200))
        carousel = carousel_of(tmp_path / "tree")
        receiver = rebuilt(pass_of(carousel, 0))
        instances = dict(receiver.instances)
        assert len(instances) > 100
        receiver.take(pass_of(carousel, 1, NOW + 1000))
        assert receiver.instances == instances

    def test_a_restart_takes_other_ids(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", *([700] * 50))
        receiver = rebuilt(pass_of(carousel_of(tmp_path / "tree"), 0))
        first = len(receiver.instances)
        receiver.take(pass_of(carousel_of(tmp_path / "tree"), 0, NOW + first / 128))
        assert len(receiver.instances) == 2 * first

    def test_instances_are_of_one_packet(self, tmp_path: Path) -> None:
        files = write(tmp_path / "tree", *([100] * 40))
        receiver = Rebuilding(SESSION)
        for batch in batches(carousel_of(tmp_path / "tree", max_datagram=1472)):
            if located(batch[0])[0] == 0:
                assert len(batch) == 1
            receiver.take(batch)
        assert receiver.files() == files
        assert 4 <= len(receiver.instances) <= 10

    def test_a_long_name_takes_several_packets(self, tmp_path: Path) -> None:
        name = "/".join(["ü" * 100] * 8)
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        (tmp_path / "tree" / name).write_bytes(b"content")
        receiver = rebuilt(pass_of(carousel_of(tmp_path / "tree")))
        assert receiver.files() == {name: b"content"}

    def test_empty_files_alone_are_described_as_often(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", *([0] * 100))
        receiver = Rebuilding(SESSION)
        sent = pass_of(carousel_of(tmp_path / "tree", max_datagram=1472))
        receiver.take(sent)
        assert len(receiver.closed) == 100
        closing = [toi for toi, _, _ in map(located, sent) if toi]
        assert min(map(closing.count, receiver.closed)) >= 4

    def test_those_that_hold_no_more_are_forgotten(self, tmp_path: Path) -> None:
        """A tree that changes all the time has other objects with each pass."""
        carousel = carousel_of(tmp_path / "tree") if write(tmp_path / "tree", 5) else None
        assert carousel is not None
        for number in range(5):
            (tmp_path / "tree" / "000").write_bytes(bytes(100 + number))
            while not carousel._catalog.scan():
                pass
            pass_of(carousel, number, NOW + number * LIFE / 2)
            assert len(carousel._instances) <= 3

    @pytest.mark.parametrize("life", [1.0, LIFE, 20 * 3600.0, 30 * 86_400.0])
    def test_no_id_comes_again_while_what_had_it_holds(self, life: float) -> None:
        """Whenever a run begins: with fewer instances than there are ids in the time since the last one."""
        for number in range(1, 50):
            begins = NOW + number * life / 49
            ahead = (first_instance(begins, life) - first_instance(NOW, life)) % alc.FDT_IDS
            assert 5000 < ahead < alc.FDT_IDS - 5000

    def test_ids_wrap(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", 5)
        carousel = carousel_of(tmp_path / "tree")
        now = ((13_600 << 20) - 1) / 128
        receiver = rebuilt(pass_of(carousel, 0, now) + pass_of(carousel, 1, now + LIFE))
        assert list(receiver.instances) == [(1 << 20) - 1, 0]

    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        name = os.fsdecode(b"caf\xe9")
        (tmp_path / "tree" / name).write_bytes(b"latin")
        assert rebuilt(pass_of(carousel_of(tmp_path / "tree"))).files() == {name: b"latin"}


class TestChange:
    @pytest.mark.parametrize("loss", [0.0, pytest.param(0.05, marks=needs_library)])
    def test_a_file_that_changes_under_way_is_given_up(self, tmp_path: Path, loss: float) -> None:
        files = write(tmp_path / "tree", 3 * 480 * 1024, 100, 200)
        carousel = carousel_of(tmp_path / "tree", loss=loss, interleave=1)
        receiver = Rebuilding(SESSION)
        for at, batch in enumerate(batches(carousel)):
            if at == 8:
                (tmp_path / "tree" / "000").write_bytes(bytes(3 * 480 * 1024))
            receiver.take(batch)
        assert receiver.files() == {name: files[name] for name in ("001", "002")}
        assert [str(error) for error in carousel.changed] == [
            "cannot send 000: it has changed since it was scanned"
        ]
        while not carousel._catalog.scan():
            pass
        receiver.take(pass_of(carousel, 1))
        assert receiver.files()["000"] == bytes(3 * 480 * 1024)
        assert carousel.changed == []

    @pytest.mark.parametrize("sealed", [False, pytest.param(True, marks=needs_library)])
    def test_of_a_block_that_has_changed_no_repair_symbol_is_sent(self, tmp_path: Path, sealed: bool) -> None:
        """A receiver that misses one of its symbols would make another block of it."""
        if sealed:
            pytest.importorskip("cryptography")
        write(tmp_path / "tree", 40 * 480, 30 * 480)
        catalog = Catalog(tmp_path / "tree", 480, protected=True)
        while not catalog.scan():
            pass
        (tmp_path / "tree" / "000").write_bytes(bytes(40 * 480))
        carousel = Carousel(
            catalog,
            session=1,
            max_datagram=500,
            loss=0.1,
            interleave=8,
            make_repair=lambda _data, size, count, _skip: [bytes(size)] * count,
        )
        session = SealingSession(GroupKey(bytes(range(32))))
        carousel.describe(LIFE)
        carousel.begin(
            0,
            (lambda file: session.sealer(1, Part(file.toi, file.length, file.oti, file.hashes)))
            if sealed
            else None,
        )
        tois = set()
        while (datagrams := carousel.next(NOW)) is not None:
            tois |= {located(datagram)[0] for datagram in flute.joined(datagrams)}
        changed, other = catalog.files
        assert changed.name == ("000",)
        assert changed.toi not in tois
        assert other.toi in tois
        assert len(carousel.changed) == 1
        assert carousel.progress.repair_sent == repair_symbols(30, 0.1)

    def test_a_file_that_has_gone_is_given_up(self, tmp_path: Path) -> None:
        files = write(tmp_path / "tree", 100, 200, 300)
        carousel = carousel_of(tmp_path / "tree")
        (tmp_path / "tree" / "001").unlink()
        assert rebuilt(pass_of(carousel)).files() == {name: files[name] for name in ("000", "002")}
        assert len(carousel.changed) == 1


class FakeCatalog:
    """Files of so many symbols of 64 bytes, which nobody has written; what is read is noted."""

    symbol_size = 64

    def __init__(self, *symbols: int, protected: bool) -> None:
        self.read_blocks: list[tuple[int, int]] = []
        sizes = [64 * count for count in symbols]
        otis = [cut(size, 64, protected=protected) for size in sizes]
        self.files = [
            SourceFile((str(toi),), toi, size, 0o644, 0, (0, 0), oti, fec.Blocks(oti, size), (), 0, size)
            for toi, (size, oti) in enumerate(zip(sizes, otis, strict=True), 1)
        ]

    def let_go(self) -> None:
        """Nothing is open."""

    def read_into(self, place: memoryview, file: SourceFile, sbn: int) -> None:
        self.read_blocks.append((file.toi, sbn))
        assert len(place) == file.blocks.size(sbn)


@pytest.mark.parametrize(("symbols", "widths"), [(255 * 1024, {8, 7}), (255 * 4000, {3}), (255 * 9000, {1})])
def test_blocks_of_large_files_take_no_more_memory(symbols: int, widths: set[int]) -> None:
    catalog: Any = FakeCatalog(symbols, protected=True)
    carousel = Carousel(catalog, session=SESSION, max_datagram=256, loss=0.05, interleave=8)
    stripes = [[block.source_count for block in stripe] for stripe in carousel._stripes(catalog.files)]
    assert {*map(len, stripes)} == widths
    assert max(map(sum, stripes)) < 12_500
    assert sum(map(sum, stripes)) == symbols


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 15, 16, 17, 130, 1025, 2100]), max_size=8),
    st.integers(1, 64),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.integers(0, 30),
)
@example(symbols=[1025, 1025, 0, 1025], interleave=2, loss=0.0, number=0)
def test_each_symbol_goes_once(symbols: list[int], interleave: int, loss: float, number: int) -> None:
    catalog: Any = FakeCatalog(*symbols, protected=loss > 0)
    carousel = Carousel(
        catalog,
        session=SESSION,
        max_datagram=256,
        loss=loss,
        interleave=interleave,
        make_repair=lambda block, size, count, skip: [bytes(size)] * count,
    )
    sent = [located(datagram) for datagram in pass_of(carousel, number)]
    described = {toi: at for at, (toi, _, _) in reversed([*enumerate(sent)])}.get(0, 0)
    for file in catalog.files:
        of_file = [(sbn, esi) for toi, sbn, esi in sent if toi == file.toi]
        if not file.length:
            assert len(of_file) >= 4
            continue
        blocks = [file.blocks.symbols(sbn) for sbn in range(file.blocks.count)]
        source = [(sbn, esi) for sbn, count in enumerate(blocks) for esi in range(count)]
        assert sorted(id for id in of_file if id[1] < blocks[id[0]]) == source
        assert len(set(of_file)) == len(of_file)
        repair = Counter(sbn for sbn, esi in of_file if esi >= blocks[sbn])
        most = max(esi - blocks[sbn] for sbn, esi in of_file)
        assert most < max(4 * blocks[0], repair[0])
        assert set(repair.values()) == ({repair_symbols(blocks[0], loss, len(blocks))} if loss else set())
    assert described == 0, "the FDT is first"
    assert sorted(catalog.read_blocks) == [
        (file.toi, sbn) for file in catalog.files for sbn in range(file.blocks.count)
    ]


@needs_library
def test_progress(tmp_path: Path) -> None:
    write(tmp_path / "tree", 0, 480 * 100, 480 * 10 - 1)
    carousel = carousel_of(tmp_path / "tree", loss=0.05)
    shares = []
    for _ in batches(carousel, 3):
        progress = carousel.progress
        shares.append(progress.source_sent)
    assert shares == sorted(shares)
    assert (progress.number, progress.files, progress.source_symbols, progress.source_sent) == (
        3,
        3,
        110,
        110,
    )
    assert progress.repair_sent == repair_symbols(100, 0.05) + repair_symbols(10, 0.05)
    assert (progress.source_begun, progress.repair_begun) == (110, progress.repair_sent)


def test_an_empty_pass(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert pass_of(carousel_of(tmp_path / "tree")) == []


@pytest.mark.parametrize(("max_datagram", "size"), [(1472, 1448), (1452, 1432), (1456, 1432), (500, 480)])
def test_symbols_fill_datagrams(max_datagram: int, size: int) -> None:
    assert symbol_size_of(max_datagram) == size
