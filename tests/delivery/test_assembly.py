"""Objects come whole, or not at all, whatever is lost, doubled, forged or interrupted on the way."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.objects import NO_CODE, RAPTORQ, SentObject

from mcastd.counters import SymbolCounts
from mcastd.delivery import assembly as assembly_module
from mcastd.delivery import blockfile
from mcastd.delivery.assembly import Assembly
from mcastd.delivery.block import Decode, NotYetDecodedError, PartialBlock, by_symbols
from mcastd.delivery.description import BLOCKS_MAX, ObjectDescription
from mcastd.delivery.receivable import blocks_of
from mcastd.delivery.refused import BAD_DESCRIPTION, RefusedError
from mcastd.delivery.symbols import HASH, MALFORMED, MEMORY, OVERHEAD_BYTES, Allowance
from mcastd.protocols import raptorq
from mcastd.protocols.fec import REED_SOLOMON, SMALL_BLOCK, Oti
from mcastd.protocols.raptorq import CodecError, CodecReason, NotInstalledError

PLENTY = 1 << 30


class Receiving:
    """An assembly with all that belongs to it, over a file without a name."""

    def __init__(self, sent: SentObject, allowance: int = PLENTY, **settings: object) -> None:
        self.sent = sent
        self.counts = SymbolCounts()
        self.allowance = Allowance(allowance)
        self.fd = os.memfd_create("object")
        self.given = 0
        self.begin(**settings)

    def begin(
        self,
        description: ObjectDescription | None = None,
        *,
        decode: Decode | None = None,
        **settings: object,
    ) -> None:
        self.assembly = Assembly(
            description or self.sent.description,
            self.fd,
            decode or by_symbols(self.sent.decode),
            self.counts,
            self.allowance,
            **settings,  # type: ignore[arg-type]
        )

    def give(self, sbn: int, esi: int, symbols: list[bytes]) -> int:
        """Give symbols, those in a row of one size together. Returns how many are not taken."""
        left = 0
        for _, group in groupby(symbols, len):
            run = [*map(memoryview, group)]
            left += self.assembly.take(sbn, esi, run)
            esi += len(run)
        self.given += len(symbols) - left
        assert self.accounted == self.given
        return left

    def give_block(self, sbn: int) -> None:
        self.give(sbn, 0, self.sent.run(sbn))

    @property
    def accounted(self) -> int:
        counts = self.counts
        taken = counts.source + counts.repair + counts.duplicate + counts.surplus
        return taken + counts.dropped.total()

    @property
    def counted(self) -> SymbolCounts:
        """Its counts, but for bytes and the loss."""
        return replace(self.counts, written_bytes=0, expected=0, lost=0)

    @property
    def loss(self) -> tuple[int, int]:
        return self.counts.expected, self.counts.lost

    @property
    def content(self) -> bytes:
        return os.pread(self.fd, len(self.sent.data) + 99, 0)

    def require_whole(self) -> None:
        assert self.assembly.complete
        assert self.content == self.sent.data
        assert self.assembly.present == self.sent.blocks.total
        self.assembly.close()
        assert self.allowance.left >= 0

    def close(self) -> None:
        self.assembly.close()
        os.close(self.fd)


@pytest.fixture
def receive(no_fd_leak: None) -> Iterator[Callable[..., Receiving]]:
    made: list[Receiving] = []

    def receive(sent: SentObject, *args: int, **settings: object) -> Receiving:
        made.append(Receiving(sent, *args, **settings))
        return made[-1]

    yield receive
    for each in made:
        each.close()


# -- symbols to their places


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 127, 128, 129, 1000])
@pytest.mark.parametrize("scheme", [NO_CODE, RAPTORQ, REED_SOLOMON, SMALL_BLOCK])
@pytest.mark.parametrize("signed", [True, False])
def test_what_comes_whole_is_whole(
    receive: Callable[..., Receiving], length: int, scheme: int, signed: bool
) -> None:
    sent = SentObject(length, scheme=scheme, signed=signed)
    receiving = receive(sent)
    for sbn in reversed(range(sent.blocks.count)):
        assert not receiving.assembly.complete
        receiving.give_block(sbn)
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=sent.blocks.total)
    assert receiving.allowance.left == PLENTY
    assert sent.decodes == 0


def test_the_last_symbol_may_be_short(receive: Callable[..., Receiving]) -> None:
    receiving = receive(SentObject(129, scheme=NO_CODE))
    receiving.give_block(0)
    receiving.give(1, 0, [*receiving.sent.run(1)[:-1], receiving.sent.data[128:]])
    receiving.require_whole()


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_no_other_symbol_may_have_another_size(receive: Callable[..., Receiving], size: int) -> None:
    receiving = receive(SentObject(256))
    run = receiving.sent.run(0)
    run[3] = bytes(size)
    receiving.give(0, 0, run)
    assert receiving.counted == SymbolCounts(source=7, dropped=receiving.counts.dropped)
    assert receiving.counts.dropped == {MALFORMED: 1}
    receiving.give(0, 8, [bytes(size)])
    assert receiving.counts.dropped == {MALFORMED: 2}
    receiving.give_block(0)
    assert receiving.counts.duplicate == 7
    receiving.give_block(1)
    receiving.require_whole()


@pytest.mark.parametrize(
    ("sbn", "esi"), [(2, 0), (-1, 0), (1 << 32, 0), (0, -1), (0, (1 << 24) - 2), (0, 1 << 40)]
)
def test_a_place_that_is_not_there_is_refused_before_anything_is_kept(
    receive: Callable[..., Receiving], sbn: int, esi: int
) -> None:
    receiving = receive(SentObject(256))
    receiving.give(sbn, esi, [bytes(16)] * 3)
    assert receiving.counts.dropped == {MALFORMED: 3}
    assert receiving.allowance.left == PLENTY


def test_the_first_symbol_that_came_counts(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(128, signed=False)
    receiving = receive(sent)
    receiving.give(0, 2, sent.run(0, 2, 2))
    receiving.give(0, 0, [sent.symbol(0, 0), sent.symbol(0, 1), bytes(16), bytes(16), *sent.run(0, 4)])
    assert receiving.counted == SymbolCounts(source=8, duplicate=2)
    receiving.require_whole()


def test_more_symbols_than_one_call_takes_are_written(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(3000, 1, 3000)
    receiving = receive(sent)
    receiving.give_block(0)
    receiving.require_whole()


def test_an_empty_run_is_nothing(receive: Callable[..., Receiving]) -> None:
    receiving = receive(SentObject(100))
    receiving.give(0, 0, [])
    assert receiving.counted == SymbolCounts()


# -- repair


def test_repair_symbols_stand_for_any_others(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(250)
    receiving = receive(sent)
    receiving.give(0, 1, sent.run(0, 1, 5))
    receiving.give(0, 9, sent.run(0, 9, 2))
    assert receiving.counted == SymbolCounts(source=5, repair=2)
    receiving.give(0, 11, sent.run(0, 11, 4))
    assert receiving.counted == SymbolCounts(source=5, repair=3, surplus=3, restored=3, repaired_blocks=1)
    receiving.give(0, 0, sent.run(0))
    assert receiving.counts.surplus == 11
    receiving.give(1, 8, sent.run(1, 8, 8))
    receiving.require_whole()
    assert receiving.counts.restored == 11
    assert receiving.counts.written_bytes == 250
    assert receiving.allowance.left == PLENTY
    assert sent.decodes == 2


def test_source_and_repair_symbols_come_in_one_run(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(120)
    receiving = receive(sent)
    receiving.give(0, 2, sent.run(0, 2, 9))
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=6, repair=2, surplus=1, restored=2, repaired_blocks=1)


def test_one_more_is_waited_for_when_as_many_as_are_missing_do_not_suffice(
    receive: Callable[..., Receiving],
) -> None:
    sent = SentObject(128)
    sent.short = [1, 2]
    receiving = receive(sent)
    receiving.give(0, 0, sent.run(0, 0, 6))
    for esi in (20, 21):
        receiving.give(0, esi, sent.run(0, esi, 1))
    assert (sent.decodes, receiving.counts.repaired_blocks) == (1, 0)
    receiving.give(0, 20, sent.run(0, 20, 1))
    assert receiving.counts.duplicate == 1
    assert sent.decodes == 1
    receiving.give(0, 22, sent.run(0, 22, 1))
    assert (sent.decodes, receiving.counts.repaired_blocks) == (2, 0)
    receiving.give(0, 23, sent.run(0, 23, 1))
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=6, repair=4, duplicate=1, restored=2, repaired_blocks=1)


def test_more_is_kept_for_a_block_the_more_often_decoding_has_failed(
    receive: Callable[..., Receiving],
) -> None:
    sent = SentObject(128)
    sent.short = [1, 2, 3, 4, 5]
    receiving = receive(sent)
    receiving.give(0, 0, sent.run(0, 0, 6))
    receiving.give(0, 20, sent.run(0, 20, 7))
    receiving.require_whole()
    assert (receiving.counts.repair, sent.decodes) == (7, 6)


def test_repair_is_kept_within_the_allowance(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(256)
    block, symbol = 8 + OVERHEAD_BYTES, 16 + OVERHEAD_BYTES
    receiving = receive(sent, 2 * (block + 3 * symbol))
    receiving.give(0, 8, sent.run(0, 8, 8))
    kept, dropped = receiving.counts.repair, receiving.counts.dropped[MEMORY]
    assert (kept, dropped) == (3, 5)
    assert receiving.allowance.left == block + 3 * symbol
    receiving.give(1, 0, sent.run(1, 0, 2))  # another block can begin
    assert receiving.counts.source == 2
    receiving.give(1, 8, sent.run(1, 8, 2))
    assert receiving.counts.dropped == {MEMORY: 7}
    receiving.give(0, 0, sent.run(0, 0, 5))  # gives the memory back
    receiving.give_block(1)
    receiving.require_whole()


def test_maps_are_kept_within_the_allowance(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(256)
    receiving = receive(sent, 8 + OVERHEAD_BYTES)
    receiving.give(0, 0, sent.run(0, 0, 5))
    receiving.give_block(1)
    assert receiving.counts.dropped == {MEMORY: 8}
    receiving.give_block(0)
    receiving.give_block(1)
    receiving.require_whole()


@pytest.mark.parametrize(
    "error", [NotInstalledError("cannot repair"), CodecError(CodecReason.BLOCK_SIZE, "raptorq takes less")]
)
def test_without_a_code_what_is_missing_is_waited_for(
    receive: Callable[..., Receiving], error: Exception
) -> None:
    sent = SentObject(256)

    def decode(*_: object) -> bytes:
        raise error

    sent.decode = decode  # type: ignore[assignment, method-assign]
    receiving = receive(sent)
    receiving.give(0, 8, sent.run(0, 8, 2))
    receiving.give(1, 1, sent.run(1, 1, 8))
    assert receiving.assembly.cannot_repair is error
    receiving.give(1, 9, sent.run(1, 9, 2))
    assert receiving.counted == SymbolCounts(source=7, repair=3, surplus=2)
    assert receiving.allowance.left == PLENTY - 2 * (8 + OVERHEAD_BYTES)
    receiving.give_block(1)
    receiving.give_block(0)
    receiving.require_whole()


def test_the_real_code_repairs(receive: Callable[..., Receiving]) -> None:
    if not raptorq.available():
        pytest.skip("raptorq is not installed")
    sent = SentObject(20_001, 100, 40)
    sent.decode = raptorq.decode  # type: ignore[method-assign]
    receiving = receive(sent)
    for sbn in range(sent.blocks.count):
        symbols = sent.blocks.symbols(sbn)
        receiving.give(sbn, 3, sent.run(sbn, 3, 20))
        repair = raptorq.repair(sent.block(sbn), 100, symbols, skip=7)
        receiving.give(sbn, symbols + 7, repair)
    receiving.require_whole()
    assert receiving.counts.restored == sent.blocks.total - 20 * sent.blocks.count


def test_a_code_that_fails_once_is_tried_again(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(128)
    decode, errors = sent.decode, [CodecError(CodecReason.LIBRARY, "its process has ended")]

    def failing(*args: Any) -> bytes | None:
        if errors:
            raise errors.pop()
        return decode(*args)

    sent.decode = failing  # type: ignore[method-assign]
    receiving = receive(sent)
    receiving.give(0, 1, sent.run(0, 1, 8))
    assert receiving.assembly.cannot_repair is not None
    receiving.give(0, 9, sent.run(0, 9, 1))
    assert receiving.assembly.cannot_repair is None
    receiving.require_whole()


class Slow:
    """A code that answers when it is allowed to, as another process does."""

    def __init__(self, sent: SentObject) -> None:
        self._decode = sent.decode
        self.asked: list[Any] = []  # the symbols of the first call for a block, until that is answered
        self.answers = False
        sent.decode = self  # type: ignore[assignment]

    def __call__(self, *args: Any) -> bytes | None:
        if not self.asked:
            self.asked.append((*args[:2], list(args[2])))
        if not self.answers:
            raise NotYetDecodedError
        return self._decode(*self.asked.pop())


def test_symbols_are_taken_while_a_block_is_decoded(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(256)
    slow, receiving = Slow(sent), receive(sent)
    receiving.give(0, 2, sent.run(0, 2, 8))
    assert (receiving.assembly.stalled, receiving.assembly.is_decoding) == (True, True)
    receiving.give(0, 1, sent.run(0, 1, 1))
    receiving.give(1, 0, sent.run(1))
    assert not receiving.assembly.retry()
    slow.answers = True
    assert receiving.assembly.retry()
    assert (receiving.assembly.stalled, receiving.assembly.is_decoding) == (False, False)
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=15, repair=2, restored=1, repaired_blocks=1)


@pytest.mark.parametrize("comes", [(0, 1), (1, 1), (0, 2)], ids=["first", "second", "both"])
def test_what_comes_while_a_block_is_decoded_does_not_land_unverified(
    receive: Callable[..., Receiving], comes: tuple[int, int]
) -> None:
    """What is forged, too: the hash of the answer says nothing of it."""
    sent, asked = SentObject(256), list[list[tuple[int, bytes | memoryview]]]()

    def decode(block: PartialBlock, fd: int, size: int) -> bytes | memoryview | None:
        """As CodecProcess.decode_meanwhile(); it has answered when it is asked again."""
        if block.with_codec:
            block.with_codec = False
            return sent.decode(size, len(block.have), asked.pop())
        asked.append(block.symbols(fd, size))
        block.give_to_codec()
        raise NotYetDecodedError

    receiving = receive(sent)
    receiving.begin(decode=decode)
    receiving.give(0, 2, sent.run(0, 2, 9))
    receiving.give(1, 0, sent.run(1))
    first, count = comes
    receiving.give(0, first, [b"\xee" * len(sent.run(0, 0, 1)[0])] * count)
    while not receiving.assembly.complete:
        receiving.assembly.retry()
        receiving.give(0, 0, sent.run(0))
    receiving.require_whole()


def test_of_many_blocks_the_one_that_the_codec_has_is_asked_for_first(
    receive: Callable[..., Receiving],
) -> None:
    """Else each attempt would come to another one that waits for its turn."""
    sent, with_codec = SentObject(7 * 128), list[PartialBlock]()
    decode = by_symbols(sent.decode)

    def one_at_a_time(block: PartialBlock, fd: int, size: int) -> bytes | memoryview | None:
        """As CodecProcess.decode_meanwhile(); it has answered when it is asked again."""
        if with_codec == [block]:
            with_codec.clear()
            block.with_codec = False
            return decode(block, fd, size)
        if not with_codec:
            with_codec.append(block)
            block.with_codec = True
        raise NotYetDecodedError

    receiving = receive(sent)
    receiving.begin(decode=one_at_a_time)
    for sbn in range(7):
        receiving.give(sbn, 1, sent.run(sbn, 1, 8))
    tries = 1
    while not receiving.assembly.retry():
        tries += 1
        assert tries <= 7
    receiving.require_whole()
    assert (tries, receiving.counts.repaired_blocks) == (7, 7)


def test_a_block_that_comes_whole_while_it_is_decoded_is_done(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(128)
    slow, receiving = Slow(sent), receive(sent)
    receiving.give(0, 1, sent.run(0, 1, 8))
    assert len(slow.asked) == 1
    receiving.give(0, 0, sent.run(0, 0, 1))
    assert not receiving.assembly.stalled
    assert receiving.assembly.retry()
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=8, repair=1)


def test_what_has_come_since_is_tried_if_the_symbols_before_it_do_not_suffice(
    receive: Callable[..., Receiving],
) -> None:
    """No other symbol may come."""
    sent = SentObject(128)
    sent.short = [1]
    slow, receiving = Slow(sent), receive(sent)
    receiving.give(0, 2, sent.run(0, 2, 9))
    slow.answers = True
    while receiving.assembly.stalled:
        receiving.assembly.retry()
    receiving.require_whole()
    assert sent.short == []


@pytest.mark.parametrize("scheme", [NO_CODE, REED_SOLOMON, SMALL_BLOCK])
def test_repair_of_a_code_that_is_not_known_is_surplus(
    receive: Callable[..., Receiving], scheme: int
) -> None:
    sent = SentObject(128, scheme=scheme)
    receiving = receive(sent)
    receiving.give(0, 5, sent.run(0, 5, 6))
    assert receiving.counted == SymbolCounts(source=3, surplus=3)


def test_blocks_that_the_code_does_not_take_keep_no_repair(receive: Callable[..., Receiving]) -> None:
    oti = Oti(RAPTORQ, 1024, 10_000, 1)
    sent = SentObject(1)
    receiving = receive(sent, description=sent.described(length=10_240_000, oti=oti, hashes=None))
    receiving.give(0, 10_000, [bytes(1024)] * 3)
    assert receiving.counted == SymbolCounts(surplus=3)
    assert isinstance(receiving.assembly.cannot_repair, CodecError)


# -- wrong bytes


@pytest.mark.parametrize("forged", [None, 3])
@pytest.mark.parametrize(
    ("pieces", "is_read"),
    [
        ([(0, 8)], False),
        ([(0, 3), (3, 7), (2, 5), (7, 8)], False),
        ([(0, 3), (4, 8), (3, 4)], True),
        ([(4, 8), (0, 4)], True),
    ],
    ids=["at once", "in order", "with a gap", "from the middle"],
)
def test_a_block_whose_symbols_come_in_order_is_not_read_to_verify_it(
    receive: Callable[..., Receiving],
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[tuple[int, int]],
    is_read: bool,
    forged: int | None,
) -> None:
    sent = SentObject(256)
    receiving, read = receive(sent), list[int]()

    def digest(fd: int, offset: int, size: int) -> bytes | None:
        read.append(offset)
        return blockfile.digest(fd, offset, size)

    monkeypatch.setattr(assembly_module, "blockfile", SimpleNamespace(digest=digest, write=blockfile.write))
    symbols = sent.run(0)
    if forged is not None:
        symbols[forged] = bytes(len(symbols[forged]))
    for start, stop in pieces:
        receiving.give(0, start, symbols[start:stop])
    assert receiving.counts.wrong_blocks == (forged is not None)
    assert read == [0] * (is_read or forged is not None)  # what is thrown away is looked at twice
    receiving.give_block(1)
    if forged is None:
        receiving.require_whole()


@pytest.mark.parametrize("forged", [3, 9])
def test_a_wrong_block_is_thrown_away_whole_and_received_again(
    receive: Callable[..., Receiving], forged: int
) -> None:
    sent = SentObject(256)
    receiving = receive(sent)
    esis = [0, 1, 2, 3, 4, 5, 8, 9]
    for esi in esis:
        symbol = sent.symbol(0, esi)
        receiving.give(0, esi, [symbol if esi != forged else bytes([symbol[0], symbol[1] ^ 1]) + symbol[2:]])
    assert receiving.counts.wrong_blocks == 1
    assert receiving.counts.dropped == {HASH: 1}
    assert receiving.assembly.present == 0
    assert receiving.allowance.left == PLENTY
    receiving.give_block(0)
    receiving.give_block(1)
    receiving.require_whole()


def test_what_comes_with_the_last_symbol_of_a_wrong_block_is_dropped_with_it(
    receive: Callable[..., Receiving],
) -> None:
    sent = SentObject(128)
    receiving = receive(sent)
    receiving.give(0, 0, [bytes(16)])
    receiving.give(0, 4, [*sent.run(0, 4), *sent.run(0, 8, 6)])
    assert receiving.counts.dropped == {HASH: 4 + 3 + 3}
    assert receiving.counted == SymbolCounts(source=1, dropped=receiving.counts.dropped, wrong_blocks=1)


# -- a full disk


class Room:
    """A file system with room for ``left`` bytes of what is written by assemblies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int, number: int = errno.ENOSPC) -> None:
        self.left, self.number = left, number
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: self.write(fd, bytes(data), offset))
        monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: self.write(fd, b"".join(parts), offset))

    def write(self, fd: int, data: bytes, offset: int) -> int:
        if not self.left:
            raise OSError(self.number, os.strerror(self.number))
        written = self._pwrite(fd, data[: self.left], offset)
        self.left -= written
        return written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_makes_an_object_wait(
    receive: Callable[..., Receiving], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sent = SentObject(256)
    receiving = receive(sent)
    room = Room(monkeypatch, 40, number)
    assert receiving.give(0, 0, sent.run(0)) == 6
    assert receiving.assembly.trouble is not None
    assert receiving.assembly.trouble.errno == number
    assert receiving.counted == SymbolCounts(source=2)
    assert receiving.give(0, 1, sent.run(0, 1, 3)) == 2  # the first of them is there
    assert receiving.counted == SymbolCounts(source=2, duplicate=1)
    room.left = PLENTY
    assert receiving.give(0, 0, sent.run(0)) == 0
    assert receiving.assembly.trouble is None
    receiving.give_block(1)
    receiving.require_whole()


def test_what_had_no_room_is_not_verified_for_what_comes_in_its_place(
    receive: Callable[..., Receiving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of a block is that of what is in the file."""
    sent = SentObject(128)
    receiving = receive(sent)
    room = Room(monkeypatch, 40)
    assert receiving.give(0, 0, sent.run(0)) == 6
    room.left = PLENTY
    receiving.give(0, 2, [bytes(16)] * 6)
    assert receiving.counts.wrong_blocks == 1
    assert not receiving.assembly.complete
    receiving.give_block(0)
    receiving.require_whole()


def test_a_block_that_is_decoded_waits_for_room(
    receive: Callable[..., Receiving], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentObject(250)
    receiving = receive(sent)
    receiving.give(0, 1, sent.run(0, 1, 2))
    receiving.give(0, 4, sent.run(0, 4))
    receiving.give(1, 1, sent.run(1, 1))
    room = Room(monkeypatch, 20)
    receiving.give(0, 8, sent.run(0, 8, 6))
    assert receiving.counted == SymbolCounts(source=13, repair=3, surplus=3, restored=1)
    assert receiving.assembly.trouble is not None
    decodes = sent.decodes
    receiving.give(1, 8, sent.run(1, 8, 1))
    receiving.assembly.retry()
    assert sent.decodes == decodes + 2  # it stops at the first that has no room
    room.left = PLENTY
    receiving.assembly.retry()
    receiving.require_whole()
    assert receiving.counted.repaired_blocks == 2


# -- how much is lost


def test_the_loss_of_a_block_is_counted_once_when_its_first_pass_is_over(
    receive: Callable[..., Receiving],
) -> None:
    sent = SentObject(512)  # four blocks of eight
    receiving = receive(sent)
    receiving.give(0, 0, sent.run(0, 0, 5))
    assert receiving.loss == (0, 0)  # the others may come yet
    receiving.give(0, 8, sent.run(0, 8, 1))
    assert receiving.loss == (8, 3)  # repair follows on the last of them
    receiving.give_block(1)
    assert receiving.loss == (16, 3)
    for esi, number in ((1, 1), (0, 1), (2, 6)):  # reordered: nothing is lost
        receiving.give(2, esi, sent.run(2, esi, number))
    assert receiving.loss == (24, 3)
    receiving.give(3, 0, sent.run(3, 0, 1))
    receiving.give(3, 6, sent.run(3, 6, 1))
    receiving.give(3, 1, sent.run(3, 1, 1))  # without a code the next pass follows
    assert receiving.loss == (32, 9)
    receiving.give_block(3)
    receiving.give_block(0)
    assert receiving.loss == (32, 9)
    receiving.require_whole()


def test_of_a_block_that_began_before_no_loss_is_counted(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(128)
    receiving = receive(sent)
    receiving.give(0, 3, sent.run(0, 3, 2))
    receiving.give(0, 8, sent.run(0, 8, 1))
    receiving.give(0, 0, sent.run(0, 0, 1))
    assert receiving.assembly.short == 0
    receiving.give_block(0)
    assert receiving.loss == (0, 0)
    receiving.require_whole()


def test_a_block_that_all_repair_of_a_pass_did_not_complete_is_told_until_it_is_done(
    receive: Callable[..., Receiving],
) -> None:
    sent = SentObject(256)
    receiving = receive(sent)
    for sbn in (0, 1):
        receiving.give(sbn, 0, sent.run(sbn, 0, 4))
        receiving.give(sbn, 8, sent.run(sbn, 8, 2))
        assert receiving.assembly.short == 0
    receiving.give(0, 0, sent.run(0, 0, 1))
    assert receiving.assembly.short == 1
    for _ in range(2):
        receiving.give(1, 1, sent.run(1, 1, 1))
        assert receiving.assembly.short == 2, "each block counts once, however many passes do not suffice"
        receiving.give(1, 9, sent.run(1, 9, 1))
    receiving.give_block(0)
    assert receiving.assembly.short == 1
    receiving.give(1, 8, sent.run(1, 8, 4))
    assert receiving.assembly.short == 0
    assert receiving.loss == (16, 8)
    receiving.require_whole()


# -- what an earlier run has left, and the file that has the name


def test_an_object_is_gone_on_with_after_a_restart(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(512 + 5)
    receiving = receive(sent)
    receiving.give_block(0)
    receiving.give_block(4)
    # Not whole, and of no use: nothing tells which of its symbols are right
    receiving.give(2, 0, sent.run(2, 0, 6))
    receiving.assembly.close()
    receiving.begin(found=True)
    assert receiving.assembly.left == 5
    receiving.give(0, 0, sent.run(0, 0, 1))  # looked for when it is touched
    assert (receiving.assembly.left, receiving.counts.surplus) == (4, 1)
    while receiving.assembly.examine_next():
        pass
    assert receiving.assembly.left == 3
    assert not receiving.assembly.examine_next()
    for sbn in (1, 2, 3):
        receiving.give_block(sbn)
    receiving.require_whole()


def test_a_longer_file_that_was_left_is_cut(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(100)
    receiving = receive(sent)
    os.pwrite(receiving.fd, sent.data + b"more", 0)
    receiving.begin(found=True)
    assert receiving.assembly.examine_next()
    receiving.require_whole()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], int]:
    def file(content: bytes) -> int:
        (tmp_path / "current").write_bytes(content)
        return os.open(tmp_path / "current", os.O_RDONLY)

    return file


@pytest.mark.parametrize("reflinks", [True, False])
def test_of_the_file_that_has_the_name_only_what_differs_is_received(
    receive: Callable[..., Receiving],
    file: Callable[[bytes], int],
    monkeypatch: pytest.MonkeyPatch,
    reflinks: bool,
) -> None:
    if not reflinks:

        def fail(*_: object) -> int:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "copy_file_range", fail)
    sent = SentObject(256 + 9)
    receiving = receive(sent, current=file(sent.data[:140] + b"?" + sent.data[141:] + b"a longer file"))
    while receiving.assembly.examine_next():
        pass
    assert receiving.assembly.left == 1
    assert not receiving.assembly.unchanged
    receiving.give_block(1)
    assert receiving.assembly.complete
    while receiving.assembly.copy_next():
        pass
    receiving.require_whole()
    assert receiving.counted == SymbolCounts(source=6)  # 17 symbols, in blocks of 6, 6 and 5


@pytest.mark.parametrize(("more", "unchanged"), [(b"", True), (b"x", False)])
@pytest.mark.parametrize("length", [0, 16, 300])
def test_a_file_that_is_the_object_already_is_seen(
    receive: Callable[..., Receiving], file: Callable[[bytes], int], length: int, more: bytes, unchanged: bool
) -> None:
    sent = SentObject(length)
    receiving = receive(sent, current=file(sent.data + more))
    while receiving.assembly.examine_next():
        pass
    assert receiving.assembly.complete
    assert receiving.assembly.unchanged is unchanged


def test_nothing_is_unchanged_without_hashes(
    receive: Callable[..., Receiving], file: Callable[[bytes], int]
) -> None:
    sent = SentObject(0, signed=False)
    assert not receive(sent, current=file(b"")).assembly.unchanged


def test_a_file_that_changes_while_it_is_copied_brings_in_no_wrong_byte(
    receive: Callable[..., Receiving], tmp_path: Path, file: Callable[[bytes], int]
) -> None:
    sent = SentObject(256)
    receiving = receive(sent, current=file(sent.data))
    while receiving.assembly.examine_next():
        pass
    (tmp_path / "current").write_bytes(sent.data[:-1])
    while receiving.assembly.copy_next():
        pass
    assert receiving.assembly.left == 1
    receiving.give_block(1)
    receiving.require_whole()


# -- descriptions


def test_hashes_that_come_later_are_compared_with_what_has_come(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(512, signed=False)
    signed = SentObject(512).description
    receiving = receive(sent)
    receiving.give(0, 0, [bytes(16), *sent.run(0, 1)])
    receiving.give_block(1)
    receiving.give(2, 0, sent.run(2, 0, 5))
    assert receiving.assembly.describe(signed)
    while receiving.assembly.examine_next():
        pass
    assert receiving.assembly.left == 3
    for sbn in (0, 2, 3):
        receiving.give_block(sbn)
    receiving.require_whole()
    assert receiving.counts.duplicate == 5
    assert receiving.assembly.describe(sent.described(expires=5.0))  # unsigned again: what was signed stays
    assert receiving.assembly.description.hashes == signed.hashes
    assert receiving.assembly.description.expires == 5.0


def test_another_object_with_the_same_number_begins_anew(receive: Callable[..., Receiving]) -> None:
    sent = SentObject(256)
    receiving = receive(sent)
    hashes = sent.description.hashes
    assert hashes is not None
    for other in (
        sent.described(length=255),
        sent.described(name=("images", "1.img")),
        sent.described(oti=Oti(RAPTORQ, 16, 4, 4)),
        sent.described(hashes=hashes[::-1]),
        sent.described(encoding="gzip"),
    ):
        assert not receiving.assembly.describe(other)
    assert receiving.assembly.describe(sent.described(mode=0o600))
    assert receiving.assembly.description.mode == 0o600


@pytest.mark.parametrize(
    ("length", "oti", "hashes"),
    [
        (1 << 17, Oti(NO_CODE, 1, 1), None),  # 131,072 blocks
        (BLOCKS_MAX + 1, Oti(SMALL_BLOCK, 1, 1), None),
        (100, Oti(RAPTORQ, 16, 7, 1, sub_blocks=2), None),
        (100, Oti(RAPTORQ, 16, 7, 1), (b"1" * 32, b"2" * 32)),
        (100, Oti(RAPTORQ, 16, 7, 1), ()),
    ],
)
def test_what_contradicts_itself_or_has_no_bounds_is_refused(
    length: int, oti: Oti, hashes: tuple[bytes, ...] | None
) -> None:
    description = ObjectDescription(
        toi=1, name=("a",), length=length, content_length=length, oti=oti, hashes=hashes
    )
    with pytest.raises(RefusedError) as refused:
        blocks_of(description)
    assert refused.value.reason == BAD_DESCRIPTION


# -- whatever happens


@dataclass(frozen=True)
class Way:
    """What happens to what is sent, each with its share of the symbols, or of the runs."""

    loss: float
    doubled: float
    forged: float
    killed: float


WAYS = st.builds(
    Way,
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    doubled=st.sampled_from([0.0, 0.2]),
    forged=st.sampled_from([0.0, 0.05]),
    killed=st.sampled_from([0.0, 0.1]),
)
OBJECTS = st.builds(
    SentObject,
    st.integers(0, 400),
    symbol_size=st.integers(6, 40),
    block_symbols=st.integers(1, 12),
    scheme=st.sampled_from([NO_CODE, RAPTORQ]),
    signed=st.booleans(),
)


def sent_once(sent: SentObject, chance: random.Random, way: Way) -> Iterator[tuple[int, list[int]]]:
    """Runs of symbols of all blocks, out of order, lost and doubled; a repair symbol for three others."""
    symbols = [
        (sbn, esi)
        for sbn in range(sent.blocks.count)
        for esi in range(sent.blocks.symbols(sbn) + chance.randrange(2 + sent.blocks.symbols(sbn) // 3))
        for _ in range(1 + (chance.random() < way.doubled))
        if chance.random() >= way.loss
    ]
    if chance.random() < 0.7:
        chance.shuffle(symbols)
    while symbols:
        number = 1
        sbn, esi = symbols[0]
        while number < len(symbols) and symbols[number] == (sbn, esi + number):
            number += 1
        yield sbn, list(range(esi, esi + number))
        del symbols[:number]


@settings(max_examples=60)
@given(OBJECTS, WAYS, st.integers(0, 1 << 30))
def test_an_object_comes_whole_or_not_at_all(sent: SentObject, way: Way, seed: int) -> None:
    chance = random.Random(seed)
    signed = sent.description.hashes is not None
    sent.short = [chance.randrange(3) for _ in range(chance.randrange(4))]
    receiving = Receiving(sent, chance.choice([2000, PLENTY]))
    for _ in range(3):
        for sbn, esis in sent_once(sent, chance, way):
            run = [sent.symbol(sbn, esi) for esi in esis]
            if signed and chance.random() < way.forged:
                at = chance.randrange(len(run))
                run[at] = bytes([run[at][0], run[at][1] ^ 1]) + run[at][2:]
            receiving.give(sbn, esis[0], run)
            if chance.random() < way.killed:
                receiving.assembly.close()
                if not signed:
                    os.ftruncate(receiving.fd, 0)
                receiving.begin(found=signed)
            if receiving.assembly.complete:
                assert receiving.content == sent.data
    for _ in range(2 + sent.blocks.count):  # a block may be thrown away, or find no memory, while others do
        for sbn in range(sent.blocks.count):
            receiving.give_block(sbn)
    receiving.require_whole()
    receiving.close()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(-1, 4) | st.integers(),
            st.integers(-1, 20) | st.integers(),
            st.lists(st.binary(max_size=18), max_size=5),
        ),
        max_size=12,
    )
)
def test_whatever_is_sent_is_counted_and_takes_no_more_than_is_allowed(
    runs: list[tuple[int, int, list[bytes]]],
) -> None:
    allowed = 3 * (8 + OVERHEAD_BYTES)
    receiving = Receiving(SentObject(400), allowed)
    for sbn, esi, symbols in runs:
        receiving.give(sbn, esi, symbols)
        assert 0 <= receiving.allowance.left <= allowed
    receiving.assembly.close()
    assert receiving.allowance.left == allowed
    receiving.close()
