"""Objects become files, whatever is described, sent, in the way or full."""

from __future__ import annotations

import errno
import gzip
import hashlib
import math
import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mounts import tmpfs
from support.objects import NO_CODE, RAPTORQ, SentObject, decode_of

from mcastd.delivery import register as module
from mcastd.delivery import settling
from mcastd.delivery.block import Decode, NotYetDecodedError, by_symbols
from mcastd.delivery.description import ObjectDescription, Run
from mcastd.delivery.landing import Landing
from mcastd.delivery.names import PARTIAL_DIRECTORY
from mcastd.delivery.received import ObjectState, Outcome
from mcastd.delivery.reception import (
    OVERDUE,
    REFUSED_SECONDS,
    RETRY_SECONDS,
    TOO_MANY,
    Reception,
)
from mcastd.delivery.refused import IN_THE_WAY, TOO_LARGE, UNSAFE_NAME, WRONG_DIGEST
from mcastd.delivery.room import GIVE_WAY_SECONDS
from mcastd.protocols.fec import REED_SOLOMON, SMALL_BLOCK, Oti
from mcastd.protocols.raptorq import CodecError, CodecReason, NotInstalledError

LARGEST = 1 << 20


class Output:
    """A reception into a directory, and all that it said."""

    def __init__(
        self,
        path: Path,
        senders: Sequence[SentObject] = (),
        *,
        mode: int | None = None,
        receiving_max: int = 3,
        decode: Decode | None = None,
    ) -> None:
        self.path = path
        self.decode = decode or decode_of(senders)
        self.now, self.wall = 1000.0, 1e9
        self.outcomes: list[Outcome] = []
        self.given = self.untaken = 0
        self._settings = (LARGEST, mode)
        self._receiving_max = receiving_max
        self.open()

    def open(self) -> None:
        self.landing = Landing(self.path)
        self.landing.open()
        self.landing.sweep(self.wall)
        self.reception = Reception(
            self.landing,
            self.decode,
            *self._settings,
            on_outcome=self.outcomes.append,
            receiving_max=self._receiving_max,
        )
        self.given = self.untaken = 0

    def close(self) -> None:
        self.reception.close()
        self.landing.close()

    def give(
        self, sent: SentObject, sbn: int, esi: int = 0, symbols: list[bytes] | None = None
    ) -> OSError | None:
        symbols = sent.run(sbn, esi) if symbols is None else symbols
        left, trouble = self.reception.take(Run(sent.description, sbn, esi, symbols), self.now, self.wall)
        self.given += len(symbols)
        self.untaken += left
        counts = self.reception.counts
        taken = counts.source + counts.repair + counts.duplicate + counts.surplus + counts.dropped.total()
        assert taken + self.untaken == self.given
        return trouble

    def give_all(self, sent: SentObject) -> None:
        for sbn in range(sent.blocks.count):
            self.give(sent, sbn)

    def work(self) -> float | None:
        return self.reception.work(self.now, lambda: False)

    def receive(self, sent: SentObject) -> Outcome:
        self.give_all(sent)
        self.work()
        return self.outcomes[-1]

    def file(self, sent: SentObject) -> Path:
        return self.path.joinpath(*sent.description.name)

    def has(self, sent: SentObject) -> bool:
        return self.file(sent).read_bytes() == sent.data

    @property
    def partials(self) -> list[str]:
        return os.listdir(self.path / PARTIAL_DIRECTORY)

    def states(self) -> dict[ObjectState, int]:
        return {state: number for state, number in self.reception.states.items() if number}


@pytest.fixture
def output(tmp_path: Path, no_fd_leak: None) -> Iterator[Output]:
    output = Output(tmp_path / "out")
    yield output
    output.close()


@pytest.mark.parametrize("length", [0, 1, 16, 1000])
@pytest.mark.parametrize("signed", [True, False])
def test_an_object_becomes_a_file(output: Output, length: int, signed: bool) -> None:
    sent = SentObject(length, signed=signed, mode=0o604, mtime_ns=1_234_567_890_000_000_001)
    output.reception.describe(sent.description, output.now)
    assert output.states() == {ObjectState.WAITING: 1}
    output.give_all(sent)
    output.work()
    assert output.has(sent)
    found = output.file(sent).stat()
    assert stat.S_IMODE(found.st_mode) == 0o604
    assert found.st_mtime_ns == 1_234_567_890_000_000_001
    assert output.outcomes == [Outcome(sent.description)]
    assert output.states() == {ObjectState.LANDED: 1}
    assert output.reception.receiving == {}
    assert output.partials == []
    assert output.work() is None
    output.give_all(sent)
    assert output.reception.counts.surplus == sent.blocks.total


@pytest.mark.parametrize(
    ("own", "told", "mode"), [(0o600, 0o644, 0o600), (None, 0o644, 0o644), (None, None, 0o640)]
)
def test_the_mode_is_that_of_the_output_or_of_the_sender(
    tmp_path: Path, own: int | None, told: int | None, mode: int
) -> None:
    output = Output(tmp_path, mode=own)
    sent = SentObject(10, mode=told)
    output.receive(sent)
    assert stat.S_IMODE(output.file(sent).stat().st_mode) == mode
    output.close()


def test_an_object_goes_through_its_states(output: Output) -> None:
    sent = SentObject(256, md5=hashlib.md5(SentObject(256).data).digest(), signed=False)
    output.give(sent, 0)
    (received,) = output.reception.receiving.values()
    assert (received.state, received.percent) == (ObjectState.RECEIVING, 50.0)
    output.give(sent, 1)
    seen = []
    while received.state is not ObjectState.LANDED:
        output.reception.work(output.now, lambda: True)
        seen.append(received.state)
    assert seen == [ObjectState.COMPLETE, ObjectState.VERIFIED, ObjectState.LANDED]
    assert received.percent == 100.0


def test_hundreds_of_empty_files_come_by_their_descriptions_alone(output: Output) -> None:
    for seed in range(200):
        output.reception.describe(SentObject(0, seed=seed).description, output.now)
    output.work()
    assert len(os.listdir(output.path / "images")) == 200
    assert output.states() == {ObjectState.LANDED: 200}


# -- what is refused, for now


def test_an_unsafe_name_or_too_much_is_refused_and_said_once(output: Output) -> None:
    for sent, reason in (
        (SentObject(20, seed=1, name=("..", "a")), UNSAFE_NAME),
        (SentObject(20, seed=2, content_length=LARGEST + 1, encoding="gzip"), TOO_LARGE),
    ):
        for _ in range(3):
            output.give_all(sent)
            output.now += REFUSED_SECONDS + 1
            output.work()
        assert output.reception.counts.dropped[reason] == 3 * sent.blocks.total
        assert [outcome.refused and outcome.refused.reason for outcome in output.outcomes] == [reason]
        output.outcomes.clear()
    assert output.states() == {ObjectState.REFUSED: 2}
    assert output.partials == []


def test_what_is_in_the_way_is_looked_at_again_later(output: Output) -> None:
    sent = SentObject(100)
    output.file(sent).mkdir(parents=True)
    output.give_all(sent)
    assert output.reception.counts.dropped == {IN_THE_WAY: sent.blocks.total}
    output.file(sent).rmdir()
    output.give_all(sent)
    assert output.reception.counts.source == 0
    output.now += REFUSED_SECONDS
    output.receive(sent)
    assert output.has(sent)


def test_what_comes_in_the_way_meanwhile_is_refused_at_the_end(output: Output) -> None:
    sent = SentObject(100)
    output.give_all(sent)
    output.file(sent).mkdir(parents=True)
    output.work()
    assert output.outcomes[-1].refused is not None
    assert output.outcomes[-1].refused.reason == IN_THE_WAY
    assert output.partials == []


def test_an_empty_file_that_was_refused_is_tried_again(output: Output) -> None:
    sent = SentObject(0)
    output.file(sent).mkdir(parents=True)
    output.reception.describe(sent.description, output.now)
    assert output.work() == output.now + REFUSED_SECONDS
    output.file(sent).rmdir()
    output.now += REFUSED_SECONDS
    assert output.work() is None
    assert output.has(sent)


def test_a_wrong_digest_is_refused_and_a_right_one_verified(output: Output) -> None:
    sent = SentObject(100, signed=False)
    sent.description = sent.described(md5=hashlib.md5(sent.data).digest())
    damaged = sent.run(0)
    damaged[3] = bytes(16)
    output.give(sent, 0, 0, damaged)
    output.work()
    (refused,) = output.outcomes
    assert refused.refused is not None
    assert refused.refused.reason == WRONG_DIGEST
    assert output.states() == {ObjectState.REFUSED: 1}
    assert not output.file(sent).exists()
    assert output.receive(sent).refused is None  # with the next symbols it begins anew
    assert output.has(sent)


def test_files_that_come_together_wait_for_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = [SentObject(20, seed=number) for number in range(7)]
    large = SentObject(100_001, 4096, 128, seed=7)
    monkeypatch.setattr(settling, "TOGETHER_MAX_BYTES", 100_000)
    output = Output(tmp_path / "out", tree, receiving_max=10)
    called: list[str] = []
    for name in ("posix_fadvise", "fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda *args, name=name, real=real, **more: (called.append(name), real(*args, **more))[1],
        )
    for sent in [*tree, large]:
        output.give_all(sent)
    output.work()
    assert all(output.has(sent) for sent in [*tree, large])
    assert called[:7] == ["posix_fadvise"] * 7  # on their way to the disk, before the first is waited for
    assert called.count("rename") == 8
    assert called.count("fsync") == 1 + 8 + 1  # the directory that was made, each file, and their directory
    assert called[-1] == "fsync"
    output.close()


@pytest.mark.parametrize("signed", [True, False])
def test_an_encoded_object_becomes_the_file_that_was_encoded(output: Output, signed: bool) -> None:
    content = bytes(5000) + b"end"
    packed = gzip.compress(content)
    sent = SentObject(packed, signed=signed, encoding="gzip", content_length=len(content))
    assert output.receive(sent).refused is None
    assert output.file(sent).read_bytes() == content
    assert output.partials == []
    wrong = SentObject(packed, seed=1, signed=signed, encoding="gzip", content_length=len(content) - 1)
    refused = output.receive(wrong).refused
    assert refused is not None
    assert refused.reason == TOO_LARGE
    assert output.partials == []


# -- many


def test_the_object_that_was_silent_longest_gives_up_its_place(output: Output) -> None:
    many = [SentObject(256, seed=seed) for seed in range(4)]
    for sent in (*many[:3], many[0]):
        output.give(sent, 0)
    output.give(many[3], 0)
    assert list(output.reception.receiving) == [3, 1, 4]  # by their TOI, one more than the seed
    assert output.states() == {ObjectState.RECEIVING: 3, ObjectState.WAITING: 1}
    output.give(many[1], 1)
    output.work()
    for sent in many:
        output.receive(sent)
        assert output.has(sent)
    assert output.reception.counts.surplus >= many[1].blocks.symbols(0)  # its first block was found again


def test_what_is_complete_lands_before_it_gives_up_its_place(output: Output) -> None:
    many = [SentObject(20, seed=seed, signed=False) for seed in range(9)]
    for sent in many:
        output.give_all(sent)
    assert output.states() == {ObjectState.LANDED: 6, ObjectState.RECEIVING: 3}
    output.work()
    assert all(output.has(sent) for sent in many)


def test_too_many_objects_are_not_kept_in_mind(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTS_MAX", 2)
    many = [SentObject(100, seed=seed) for seed in range(3)]
    for sent in many:
        output.give_all(sent)
    output.work()
    assert output.reception.counts.dropped == {TOO_MANY: many[2].blocks.total}
    assert output.states() == {ObjectState.LANDED: 2}


@pytest.mark.parametrize("other", [{"sender": "10.0.0.9"}, {"session": 9}])
def test_what_landed_of_a_session_that_is_over_keeps_no_other_one_out(
    output: Output, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """Else a burst of small files from anybody would close the directory to all who come later."""
    monkeypatch.setattr(module, "OBJECTS_MAX", 3)
    for seed in range(3):
        output.receive(SentObject(100, seed=seed))
    real = [SentObject(100, seed=seed, **other) for seed in range(3, 7)]
    for sent in real:
        output.receive(sent)
    assert all(output.has(sent) for sent in real[:3])
    assert not (output.path / "images/6.img").exists(), "the bound holds in one session"
    assert output.reception.counts.dropped == {TOO_MANY: real[3].blocks.total}
    assert output.states() == {ObjectState.LANDED: 3}


def test_of_one_name_the_object_that_was_described_last_is_received(output: Output) -> None:
    old, new = SentObject(256), SentObject(256, seed=7, name=("images", "0.img"))
    output.give(old, 0)
    output.reception.describe(new.description, output.now)
    output.give_all(old)
    assert output.reception.counts.dropped == {OVERDUE: old.blocks.total}
    assert output.states() == {ObjectState.EXPIRED: 1, ObjectState.WAITING: 1}
    output.receive(new)
    assert output.has(new)


def test_a_name_goes_back_to_the_object_that_is_described_again(output: Output) -> None:
    old, new = SentObject(256), SentObject(200, seed=7, name=("images", "0.img"))
    for sent in (old, new, old, new):
        output.reception.describe(sent.description, output.now)
        output.receive(sent)
        assert output.has(sent)
        assert output.states()[ObjectState.LANDED] == 1
    assert output.reception.counts.dropped == {}


@pytest.mark.parametrize(("bound", "most"), [("OBJECTS_MAX", 3), ("NAMES_MAX_BYTES", 1000)])
def test_what_waits_gives_its_place_to_what_is_described_later(
    output: Output, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Whoever describes what never comes keeps nobody out."""
    monkeypatch.setattr(module, bound, most)
    landed, real = SentObject(100), SentObject(100, seed=1)
    output.receive(landed)
    for seed in range(2, 60):
        output.reception.describe(SentObject(100, seed=seed).description, output.now)
    output.receive(real)
    assert output.has(real)
    assert output.reception.counts.dropped == {}
    states = output.states()
    assert states[ObjectState.LANDED] == 2
    assert 0 < states[ObjectState.WAITING] < 10


def test_what_nothing_describes_any_more_is_forgotten(output: Output) -> None:
    landed, half, refused = (SentObject(256, seed=seed, expires=output.wall + 10 + seed) for seed in range(3))
    output.receive(landed)
    output.give(half, 0)
    output.reception.expire(output.wall + 10)
    assert output.states() == {ObjectState.RECEIVING: 1}
    output.wall += 12
    output.give(refused, 0)
    assert output.reception.counts.dropped == {OVERDUE: refused.blocks.symbols(0)}
    output.reception.expire(output.wall)
    assert output.states() == {ObjectState.EXPIRED: 2}
    assert output.reception.receiving == {}
    output.give(SentObject(256, seed=1), 1)  # described anew
    output.work()
    assert output.has(half)


# -- described again


def test_hashes_that_come_while_a_file_is_finished_keep_it_from_landing_unverified(output: Output) -> None:
    signed = SentObject(256)
    sent = SentObject(256, signed=False, md5=hashlib.md5(bytes(256)).digest())
    output.give(sent, 0, symbols=[bytes(16)] * 8)
    output.give(sent, 1, symbols=[bytes(16)] * 8)
    output.reception.work(output.now, lambda: True)
    assert output.states() == {ObjectState.COMPLETE: 1}
    output.reception.describe(signed.described(md5=sent.description.md5), output.now)
    output.work()
    assert output.states() == {ObjectState.RECEIVING: 1}
    output.receive(signed)
    assert output.has(signed)


def test_a_landed_file_is_verified_when_hashes_come(output: Output) -> None:
    output.receive(SentObject(256, signed=False))
    signed = SentObject(256)
    output.give(signed, 0)
    output.work()
    assert output.outcomes[-1] == Outcome(signed.description, unchanged=True)


def test_other_content_of_the_same_number_begins_anew(output: Output) -> None:
    old, new = SentObject(256), SentObject(bytes(300))
    output.give(old, 0)
    output.receive(new)
    assert output.has(new)
    assert output.states() == {ObjectState.LANDED: 1}


@pytest.mark.parametrize("changes", [{"session": 8}, {"md5": hashlib.md5(bytes(256)).digest()}])
def test_what_only_its_session_or_digest_tells_from_another_begins_anew(
    output: Output, changes: dict[str, Any]
) -> None:
    old = SentObject(256, signed=False)
    told = {"md5": hashlib.md5(old.data).digest()} if "md5" in changes else {}
    output.receive(SentObject(old.data, signed=False, **told))
    new = SentObject(bytes(256), signed=False, **changes)
    output.receive(new)
    assert output.has(new)


def test_hashes_that_do_not_fit_are_refused(output: Output) -> None:
    output.give(SentObject(256, signed=False), 0)
    output.reception.describe(SentObject(256).described(hashes=(bytes(32),)), output.now)
    assert output.states() == {ObjectState.REFUSED: 1}


# -- restarts


def test_a_restart_goes_on_where_the_last_run_was(output: Output) -> None:
    sent = SentObject(512)
    output.give(sent, 0)
    output.give(sent, 1)
    output.give(sent, 2, symbols=sent.run(2, 0, 3))
    output.close()
    output.open()
    for sbn in (2, 3):
        output.give(sent, sbn)
    output.work()
    assert output.has(sent)
    assert output.reception.counts.source == 16


def test_what_was_found_does_not_tell_how_fast_the_rest_comes(output: Output) -> None:
    sent = SentObject(256)  # 16 symbols
    output.give(sent, 0)
    output.close()
    output.open()
    output.give(sent, 1, 0, sent.run(1, 0, 2))
    output.work()
    (received,) = output.reception.receiving.values()
    assert received.percent == 100 * 10 / 16
    assert received.seconds_left(output.now + 4) == 12, "2 came in 4 s, and 6 are missing"


def test_why_nothing_is_repaired_is_told_when_the_codec_says_so_late(tmp_path: Path) -> None:
    """No symbol comes any more by which it would be noticed."""
    sent = SentObject(128)
    answers: list[Exception] = [NotInstalledError("cannot repair"), NotYetDecodedError()]

    def decode(*_: Any) -> None:
        raise answers.pop()

    output = Output(tmp_path / "out", decode=decode)
    output.give(sent, 0, 1, sent.run(0, 1, 8))
    assert not output.reception.unrepaired
    output.work()
    (one,) = output.reception.unrepaired.values()
    assert one.unrepaired == "cannot repair: raptorq is not installed"
    output.close()


def test_a_block_is_repaired_when_the_code_is_back(tmp_path: Path) -> None:
    """No symbol comes any more that would have it tried again."""
    sent = SentObject(128)
    failing = [CodecError(CodecReason.LIBRARY, "the codec's process failed: cannot allocate memory")] * 3

    def decode(*asked: Any) -> bytes | None:
        if failing:
            raise failing.pop()
        return sent.decode(*asked)

    output = Output(tmp_path / "out", decode=by_symbols(decode))
    output.give(sent, 0, 1, sent.run(0, 1, 8))
    output.work()
    assert next(iter(output.reception.unrepaired.values())).unrepaired
    assert output.work() == output.now + RETRY_SECONDS
    for _ in range(2):
        output.now += RETRY_SECONDS
        output.work()
    assert output.has(sent)
    assert not output.reception.unrepaired
    output.close()


def test_what_an_earlier_run_left_outlives_an_attempt_that_fails(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentObject(512)
    output.give(sent, 0)
    output.close()
    output.open()

    def short(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Landing, "current", short)
    assert output.give(sent, 1) is not None
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    for sbn in (1, 2, 3):
        output.give(sent, sbn)
    output.work()
    assert output.has(sent)
    assert output.reception.counts.source == 24


def test_a_file_that_cannot_be_as_long_leaves_nothing_open(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.receive(SentObject(128))
    longer = SentObject(512, toi=7)  # a new version

    def limited(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "ftruncate", limited)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert output.give(longer, 0) is not None
        output.now += RETRY_SECONDS
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_there_already_is_not_received_again(output: Output) -> None:
    sent = SentObject(512, mode=0o600, mtime_ns=5_000_000_000)
    output.receive(sent)
    before = output.file(sent).stat().st_ino
    output.file(sent).chmod(0o644)
    output.close()
    output.open()
    output.give(sent, 3, symbols=sent.run(3, 0, 1))
    output.work()
    assert output.outcomes[-1] == Outcome(sent.description, unchanged=True)
    found = output.file(sent).stat()
    assert (found.st_ino, stat.S_IMODE(found.st_mode)) == (before, 0o600)
    assert output.partials == []


def test_of_a_new_version_only_what_differs_is_received(output: Output) -> None:
    old = SentObject(512)
    output.receive(old)
    new = SentObject(old.data[:200] + b"?" + old.data[201:], toi=9)
    output.give(new, 0, symbols=new.run(0, 0, 1))
    output.work()
    output.give(new, 1)
    output.work()
    assert output.has(new)
    assert output.reception.counts.source == old.blocks.total + 8


# -- what the file system does not take


def failing(number: int, times: list[int]) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        times.append(1)
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_that_cannot_be_made_is_tried_again(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = SentObject(100)
    times: list[int] = []
    monkeypatch.setattr(Landing, "begin", failing(errno.EMFILE, times))
    for _ in range(3):
        trouble = output.give(sent, 0)
        assert trouble is not None
        assert trouble.errno == errno.EMFILE
    assert len(times) == 1
    assert output.untaken == 3 * sent.blocks.symbols(0)
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    output.receive(sent)
    assert output.has(sent)


def test_a_file_that_cannot_land_waits_for_room(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = SentObject(100)
    times: list[int] = []
    monkeypatch.setattr(Landing, "land", failing(errno.ENOSPC, times))
    output.give_all(sent)
    assert output.work() == output.now + RETRY_SECONDS
    assert output.work() == output.now + RETRY_SECONDS
    assert len(times) == 1
    (received,) = output.reception.receiving.values()
    assert received.trouble is not None
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    assert output.work() is None
    assert output.has(sent)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("signed", [True, False])
def test_what_keeps_a_file_from_landing_is_told_until_it_has_landed(
    output: Output, monkeypatch: pytest.MonkeyPatch, number: int, signed: bool
) -> None:
    """Also while its symbols come again, which are surplus."""
    sent = SentObject(256, signed=signed)
    times: list[int] = []
    monkeypatch.setattr(os, "rename", failing(number, times))
    output.give_all(sent)
    output.work()
    for attempts in range(1, 4):
        for _ in range(2):
            assert output.reception.trouble is not None
            assert output.reception.trouble.errno == number
            assert len(times) == attempts
            output.give_all(sent)
        output.now += RETRY_SECONDS
        output.work()
    assert not output.file(sent).exists()
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    output.receive(sent)
    assert output.has(sent)
    assert output.reception.trouble is None


def test_what_cannot_land_for_want_of_room_gets_that_of_others(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = SentObject(256), SentObject(400, seed=1)
    monkeypatch.setattr(Landing, "land", failing(errno.ENOSPC, []))
    output.give_all(small)
    output.work()
    output.give(large, 0)
    output.give_all(small)
    output.work()
    assert output.states() == {ObjectState.VERIFIED: 1, ObjectState.WAITING: 1}
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    output.work()
    assert output.has(small)


def test_what_is_refused_again_is_no_longer_a_trouble_of_the_disk(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentObject(100)
    output.file(sent).mkdir(parents=True)
    output.give_all(sent)
    output.file(sent).rmdir()
    output.now += REFUSED_SECONDS
    output.give_all(sent)
    monkeypatch.setattr(Landing, "land", failing(errno.ENOSPC, []))
    output.work()
    assert output.reception.trouble is not None
    monkeypatch.undo()
    output.file(sent).mkdir()
    output.now += RETRY_SECONDS
    output.work()
    assert output.states() == {ObjectState.REFUSED: 1}
    assert output.reception.trouble is None


def test_a_file_that_the_disk_has_lost_begins_anew(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = SentObject(256)
    output.give_all(sent)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, []))
    output.work()
    monkeypatch.undo()
    assert output.partials == []
    assert output.states() == {ObjectState.WAITING: 1}
    output.now += RETRY_SECONDS
    output.receive(sent)
    assert output.has(sent)
    assert output.reception.counts.source == 2 * sent.blocks.total


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_somebody_has_removed_begins_anew(output: Output, is_replaced: bool) -> None:
    sent = SentObject(256)
    output.give(sent, 0)
    (name,) = output.partials
    (output.path / PARTIAL_DIRECTORY / name).unlink()
    if is_replaced:
        (output.path / PARTIAL_DIRECTORY / name).write_bytes(b"of somebody else")
    output.give(sent, 1)
    output.work()
    assert output.reception.trouble is not None
    assert "removed" in str(output.reception.trouble)
    assert output.states() == {ObjectState.WAITING: 1}
    assert not output.file(sent).exists()
    output.now += RETRY_SECONDS
    output.receive(sent)
    assert output.has(sent)
    assert output.reception.trouble is None


def test_what_waits_for_room_is_not_decoded_again_with_each_symbol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentObject(256)
    output = Output(tmp_path, [sent])
    output.give(sent, 0, symbols=sent.run(0, 0, 7))
    output.give(sent, 1, symbols=sent.run(1, 0, 3))
    for name in ("pwrite", "pwritev"):
        monkeypatch.setattr(os, name, failing(errno.ENOSPC, []))
    output.give(sent, 0, 8, sent.run(0, 8, 1))
    output.work()
    decodes = sent.decodes
    for _ in range(5):
        output.give(sent, 1, 3, sent.run(1, 3))
        output.work()
    assert sent.decodes == decodes
    monkeypatch.undo()
    output.now += RETRY_SECONDS
    output.give(sent, 1)
    output.work()
    assert output.has(sent)
    output.close()


@pytest.mark.root
def test_a_disk_that_fills_makes_objects_wait_and_nothing_else(tmp_path: Path, no_fd_leak: None) -> None:
    sent = SentObject(100_000, 1000, 20)
    with tmpfs(tmp_path / "small", "256k") as path:
        (path / "filling").write_bytes(bytes(200_000))
        output = Output(path)
        troubles = [output.give(sent, sbn) for sbn in range(sent.blocks.count)]
        assert {trouble.errno for trouble in troubles if trouble is not None} == {errno.ENOSPC}
        output.work()
        assert output.states() == {ObjectState.RECEIVING: 1}
        (path / "filling").unlink()
        output.now += RETRY_SECONDS
        output.receive(sent)
        assert output.has(sent)
        assert output.untaken > 0
        output.close()


@pytest.mark.root
def test_what_gave_way_begins_anew_as_soon_as_there_is_room(tmp_path: Path, no_fd_leak: None) -> None:
    small, large = (
        SentObject(size, 1000, 20, NO_CODE, seed=seed) for seed, size in enumerate((300_000, 420_000))
    )
    with tmpfs(tmp_path / "small", "500k") as path:
        output = Output(path)

        def a_pass() -> None:
            for sbn in range(large.blocks.count):
                for sent in small, large:
                    if sbn < sent.blocks.count:
                        output.give(sent, sbn)
                        output.work()

        a_pass()
        output.now += RETRY_SECONDS
        a_pass()
        assert output.has(small)
        output.now += RETRY_SECONDS
        a_pass()
        assert not output.file(large).exists()  # it waits
        output.file(small).unlink()
        assert 4 * RETRY_SECONDS < GIVE_WAY_SECONDS
        output.now += RETRY_SECONDS
        a_pass()
        assert output.has(large)
        output.close()


@pytest.mark.root
def test_of_files_that_are_too_many_for_the_disk_those_land_that_fit(
    tmp_path: Path, no_fd_leak: None
) -> None:
    sizes = [400_000, 300_000, 350_000, 250_000, 900_000]
    tree = [
        SentObject(size, 1000, 20, NO_CODE, seed=seed, signed=seed != 2) for seed, size in enumerate(sizes)
    ]
    symbols = [
        (sent, sbn, esi)
        for sent in tree
        for sbn in range(sent.blocks.count)
        for esi in range(sent.blocks.symbols(sbn))
    ]
    random.Random(5).shuffle(symbols)  # all of them are on air at once
    with tmpfs(tmp_path / "small", "720k") as path:
        output = Output(path, receiving_max=10)

        def a_pass() -> set[int]:
            for sent, sbn, esi in symbols:
                output.give(sent, sbn, esi, [sent.symbol(sbn, esi)])
                output.work()
            output.now += 2 * GIVE_WAY_SECONDS
            return {
                sent.description.length for sent in tree if output.file(sent).exists() and output.has(sent)
            }

        landed = [a_pass() for _ in range(6)]
        assert landed[-1] == {300_000, 250_000}
        assert output.states()[ObjectState.LANDED] == 2
        for sent in tree[1], tree[3]:
            output.file(sent).unlink()
        for _ in range(6):
            landed.append(a_pass())
        assert landed[-1] & {400_000, 350_000}
        output.reception.close(for_good=True)
        output.close()


@pytest.mark.root
@pytest.mark.parametrize("seed", [2, 4, 5])
def test_no_more_give_way_than_there_is_no_room_for(seed: int, tmp_path: Path, no_fd_leak: None) -> None:
    """The largest alone, whichever is the first that finds no room."""
    sizes = [400_000, 100_000, 150_000, 120_000, 200_000]
    tree = [
        SentObject(size, 1000, 20, NO_CODE, seed=number, signed=False) for number, size in enumerate(sizes)
    ]
    symbols = [
        (sent, sbn, esi)
        for sent in tree
        for sbn in range(sent.blocks.count)
        for esi in range(sent.blocks.symbols(sbn))
    ]
    random.Random(seed).shuffle(symbols)
    with tmpfs(tmp_path / "small", "720k") as path:
        output = Output(path, receiving_max=10)
        begun = 0
        for sent, sbn, esi in [*symbols, *symbols]:
            output.give(sent, sbn, esi, [sent.symbol(sbn, esi)])
            output.work()
            output.now += 0.02
            largest = output.reception.receiving.get(tree[0].description.toi)
            begun += largest is not None and output.now > 1000 + 2 * RETRY_SECONDS
        assert {sent.description.length for sent in tree if output.file(sent).exists()} == {*sizes[1:]}
        assert begun == 0
        output.reception.close(for_good=True)
        output.close()


# -- whatever happens


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 30), loss=st.sampled_from([0.0, 0.1, 0.4]), killed=st.sampled_from([0.0, 0.05])
)
def test_a_directory_has_whole_files_or_none(
    tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float, killed: float
) -> None:
    chance = random.Random(seed)
    tree = [
        SentObject(
            chance.choice([0, 1, 16, 100, 300]),
            chance.choice([8, 16]),
            chance.choice([2, 8]),
            chance.choice([NO_CODE, RAPTORQ]),
            seed=number,
            signed=chance.random() < 0.7,
        )
        for number in range(4)
    ]
    output = Output(tmp_path_factory.mktemp("out"), tree, receiving_max=2)
    for sent in tree:
        output.reception.describe(sent.description, output.now)
    for turn in range(3):
        symbols = [
            (sent, sbn, esi)
            for sent in tree
            for sbn in range(sent.blocks.count)
            for esi in range(sent.blocks.symbols(sbn) + 2)
            if turn == 2 or chance.random() >= loss
        ]
        if turn < 2:
            chance.shuffle(symbols)
        for sent, sbn, esi in symbols:
            output.give(sent, sbn, esi, [sent.symbol(sbn, esi)])
            if chance.random() < 0.3:
                output.work()
            if chance.random() < killed:
                killed_without_a_word(output)
        output.work()
        for sent in tree:
            assert not output.file(sent).exists() or output.has(sent)
    for sent in tree:
        if sent.description.length == 0:
            output.reception.describe(sent.description, output.now)
    output.work()
    for sent in tree:
        output.receive(sent)
        output.receive(sent)
        assert output.has(sent)
    output.close()
    assert PARTIAL_DIRECTORY not in os.listdir(output.path)


NUMBERS = st.sampled_from([0, 1, 7, 100, 1000, LARGEST, LARGEST + 1, (1 << 40) - 1, (1 << 48) - 1])
OTIS = st.builds(
    Oti,
    st.sampled_from([NO_CODE, REED_SOLOMON, SMALL_BLOCK]),
    st.sampled_from([1, 16, 0xFFFF]),
    st.sampled_from([1, 5, 255, 0xFFFFFFFF]),
) | st.builds(
    Oti,
    st.just(RAPTORQ),
    st.sampled_from([8, 16, 0xFFF8]),
    st.just(5),
    st.integers(1, 255),
    st.integers(1, 2),
    st.just(4),
)
PARTS = st.sampled_from(["a", "b", "..", "", ".mcastd-partial", "x/y", "\0", "é", "x" * 256, "\ud800"])
DESCRIPTIONS = st.builds(
    ObjectDescription,
    toi=st.integers(1, 3),
    name=st.lists(PARTS, max_size=3).map(tuple),
    length=NUMBERS,
    content_length=NUMBERS | st.none(),
    oti=OTIS,
    parts=st.just(()) | st.lists(st.tuples(NUMBERS, OTIS), max_size=3).map(tuple),
    session=st.integers(0, 1),
    encoding=st.sampled_from(["", "", "gzip", "deflate", "br"]),
    md5=st.none() | st.just(bytes(16)),
    mode=st.none() | st.sampled_from([0, 0o777, 0o6777, -1]),
    mtime_ns=st.none() | st.integers(),
    hashes=st.none() | st.lists(st.just(bytes(32)), max_size=3).map(tuple),
    expires=st.sampled_from([0.0, 2e9, math.inf]),
)
RUNS = st.builds(
    Run,
    DESCRIPTIONS,
    st.integers(-1, 3),
    st.integers(-1, 9),
    st.lists(st.sampled_from([b"", b"1", bytes(8), bytes(16)]), min_size=1, max_size=6),
)


@settings(max_examples=80)
@given(st.lists(RUNS | DESCRIPTIONS, max_size=8))
def test_whatever_is_described_is_received_or_refused_below_the_directory(
    tmp_path_factory: pytest.TempPathFactory, told: list[Run | ObjectDescription]
) -> None:
    above = tmp_path_factory.mktemp("above")
    output = Output(above / "out", decode=lambda block, _, size: bytes(size * len(block.have)))
    given = untaken = 0
    for each in told:
        if isinstance(each, Run):
            left, _ = output.reception.take(each, output.now, output.wall)
            given, untaken = given + len(each.symbols), untaken + left
        else:
            output.reception.describe(each, output.now)
        output.work()
        output.now += 10
    counts = output.reception.counts
    taken = counts.source + counts.repair + counts.duplicate + counts.surplus + counts.dropped.total()
    assert taken + untaken == given
    assert all(number >= 0 for number in output.reception.states.values())
    output.reception.expire(math.inf)
    assert output.reception.receiving == output.reception.troubled == output.reception.unrepaired == {}
    assert not any(name.startswith("once-") for name in output.partials)
    output.close()
    assert os.listdir(above) == ["out"]


def killed_without_a_word(output: Output) -> None:
    """As after kill -9: the descriptors are closed, and nothing else is done."""
    for received in output.reception.receiving.values():
        assert received.assembly is not None
        assert received.partial is not None
        received.assembly.close()
        os.close(received.partial.fd)
    os.close(output.landing._partials)
    os.close(output.landing._root)
    output.open()


def test_a_description_without_end_holds_for_ever(output: Output) -> None:
    assert ObjectDescription.__dataclass_fields__["expires"].default == math.inf
    output.receive(SentObject(5))
    output.reception.expire(1e300)
    assert output.states() == {ObjectState.LANDED: 1}
