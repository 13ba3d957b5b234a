"""The codec in a process of its own: what it gives, how it refuses, what happens when it dies or hangs."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd.delivery import codec_process
from mcastd.delivery.block import NotYetDecodedError, PartialBlock
from mcastd.delivery.codec_process import CodecProcess
from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import CodecError, NotInstalledError

SIZE = 96  # bytes of a symbol
BLOCK = random.Random(7).randbytes(40 * SIZE - 5)


@pytest.fixture
def codec(no_fd_leak: None) -> Iterator[CodecProcess]:
    codec = CodecProcess()
    yield codec
    codec.close()


class File:
    """A file with a block in it, behind other bytes."""

    OFFSET = 1234

    def __init__(self) -> None:
        self.fd = os.memfd_create("object")

    def partial(
        self, block: bytes, symbol_size: int, *, lost: set[int], repair: dict[int, bytes]
    ) -> PartialBlock:
        """Write the block but for what is ``lost`` of it."""
        have = bytearray(at not in lost for at in range(-(-len(block) // symbol_size)))
        os.ftruncate(self.fd, self.OFFSET + len(block))
        os.pwrite(self.fd, block, self.OFFSET)
        for at in lost:
            hole = bytes(len(block[at * symbol_size :][:symbol_size]))
            os.pwrite(self.fd, hole, self.OFFSET + at * symbol_size)
        return PartialBlock(self.OFFSET, len(block), have, len(lost), repair)


@pytest.fixture
def file(no_fd_leak: None) -> Iterator[File]:
    file = File()
    yield file
    os.close(file.fd)


needs_raptorq = pytest.mark.skipif(not raptorq.available(), reason="needs raptorq: pip install raptorq")


@needs_raptorq
def test_it_gives_what_the_library_gives(codec: CodecProcess, file: File) -> None:
    assert codec.pid is None
    made = codec.repair(BLOCK, SIZE, 9, skip=3)
    assert made == raptorq.repair(BLOCK, SIZE, 9, skip=3)
    assert codec.repair(memoryview(BLOCK), SIZE, 0) == []
    pid = codec.pid
    partial = file.partial(BLOCK, SIZE, lost={0, 7, 12, 13, 22, 29, 38, 39}, repair={})
    partial.repair = dict(enumerate(made, 43))
    assert codec.decode(partial, file.fd, SIZE) == BLOCK + bytes(5)
    partial = file.partial(BLOCK, SIZE, lost={3}, repair={44: made[1]})
    assert codec.decode(partial, file.fd, SIZE) == BLOCK + bytes(5), "with the last one, which is shorter"
    assert codec.pid == pid, "it is one process"


@needs_raptorq
def test_it_says_that_symbols_do_not_suffice(codec: CodecProcess, file: File) -> None:
    source = [BLOCK[at * SIZE :][:SIZE] for at in range(2)]
    partial = file.partial(BLOCK, SIZE, lost={0, 1, 30}, repair=dict(enumerate([*source, source[0]])))
    assert codec.decode(partial, file.fd, SIZE) is None, "one of them is there twice"


@needs_raptorq
def test_a_file_that_ends_before_the_block_is_an_error_of_the_file(codec: CodecProcess, file: File) -> None:
    repair = dict(enumerate(raptorq.repair(BLOCK, SIZE, 1), 40))
    partial = file.partial(BLOCK, SIZE, lost={3}, repair=repair)
    os.ftruncate(file.fd, partial.offset + partial.size - 1)
    with pytest.raises(OSError, match="shorter"):
        codec.decode(partial, file.fd, SIZE)
    os.pwrite(file.fd, BLOCK, partial.offset)
    assert codec.decode(partial, file.fd, SIZE) == BLOCK + bytes(5)


@needs_raptorq
def test_it_can_begin_before_it_is_needed(codec: CodecProcess) -> None:
    codec.prepare()
    process = codec.pid
    assert process is not None
    codec.prepare()
    assert len(codec.repair(BLOCK, SIZE, 2)) == 2
    assert codec.pid == process


def test_where_none_can_begin_the_first_call_says_so(
    codec: CodecProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    codec.prepare()
    assert codec.pid is None
    with pytest.raises(CodecError):
        codec.repair(BLOCK, SIZE, 1)


@needs_raptorq
def test_a_block_as_large_as_there_can_be(codec: CodecProcess, file: File) -> None:
    size = 1440
    count = raptorq.source_symbols_max(size)
    block = random.Random(8).randbytes(count * size)
    repair = dict(enumerate(codec.repair(block, size, 3), count))
    assert codec.decode(file.partial(block, size, lost={17}, repair=repair), file.fd, size) == block
    with pytest.raises(CodecError) as caught:
        codec.repair(block, size, count + 1)
    assert caught.value.reason == "block-size"


@needs_raptorq
def test_it_refuses_as_the_library_does(codec: CodecProcess, file: File) -> None:
    for ask, reason in (
        (lambda: codec.repair(BLOCK, 0, 1), "symbol-size"),
        (lambda: codec.repair(BLOCK, SIZE, -1), "symbol-number"),
        (lambda: codec.repair(b"", SIZE, 1), "block-size"),
        (lambda: codec.decode(PartialBlock(0, 0, bytearray(), 0), file.fd, SIZE), "block-size"),
    ):
        with pytest.raises(CodecError) as caught:
            ask()
        assert caught.value.reason == reason
    assert len(codec.repair(BLOCK, SIZE, 2)) == 2, "it goes on"


def test_without_the_library_it_says_so(
    codec: CodecProcess, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        codec_process, "_PROGRAM", f"import sys; sys.modules['raptorq'] = None; {codec_process._PROGRAM}"
    )
    with pytest.raises(NotInstalledError, match="cannot make repair symbols: raptorq is not installed"):
        codec.repair(BLOCK, SIZE, 1)
    with pytest.raises(NotInstalledError, match="cannot repair"):
        codec.decode(file.partial(BLOCK, SIZE, lost={3}, repair={41: bytes(SIZE)}), file.fd, SIZE)


@needs_raptorq
def test_one_that_dies_fails_the_call_and_the_next_has_another(codec: CodecProcess) -> None:
    codec.repair(BLOCK, SIZE, 1)
    pid = codec.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", "its death")
    with pytest.raises(CodecError, match="process failed") as caught:
        codec.repair(BLOCK, SIZE, 1)
    assert caught.value.reason == "library"
    assert len(codec.repair(BLOCK, SIZE, 4)) == 4
    assert codec.pid != pid


@needs_raptorq
def test_one_that_hangs_is_given_up(codec: CodecProcess) -> None:
    codec.repair(BLOCK, SIZE, 1)
    assert codec.pid is not None
    assert codec._socket is not None
    codec._socket.settimeout(0.2)
    os.kill(codec.pid, signal.SIGSTOP)
    with pytest.raises(CodecError, match="timed out"):
        codec.repair(BLOCK, SIZE, 1)
    assert len(codec.repair(BLOCK, SIZE, 5)) == 5


class Asked:
    """Blocks that are decoded while others are received."""

    def __init__(self, codec: CodecProcess, file: File) -> None:
        self.codec, self.file = codec, file
        self.repair = dict(enumerate(raptorq.repair(BLOCK, SIZE, 3), 40))

    def partial(self, *lost: int) -> PartialBlock:
        some = dict(list(self.repair.items())[: len(lost)])
        block = self.file.partial(BLOCK, SIZE, lost={*lost}, repair=some)
        os.pwrite(self.file.fd, BLOCK, File.OFFSET)  # all are of one place: what they lack differs
        return block

    def answered(self, block: PartialBlock) -> bytes | None:
        """What the process says of a block, once it does."""
        answer: list[memoryview | None] = []

        def ask() -> bool:
            with suppress(NotYetDecodedError):
                answer.append(self.codec.decode_meanwhile(block, self.file.fd, SIZE))
            return bool(answer)

        wait_for(ask, "the answer")
        return None if answer[0] is None else bytes(answer[0])


@pytest.fixture
def asked(codec: CodecProcess, file: File) -> Asked:
    return Asked(codec, file)


@needs_raptorq
def test_a_block_is_decoded_while_others_wait_for_their_turn(asked: Asked) -> None:
    first, second, third = asked.partial(3), asked.partial(3, 5), asked.partial(7, 8)
    for block in (first, second, third, first):
        if block is not first or asked.codec.pid is None:
            with pytest.raises(NotYetDecodedError):
                asked.codec.decode_meanwhile(block, asked.file.fd, SIZE)
    assert [block.with_codec for block in (first, second, third)] == [True, False, False]
    assert asked.answered(first) == BLOCK + bytes(5)
    assert not first.with_codec
    with pytest.raises(NotYetDecodedError):
        asked.codec.decode_meanwhile(third, asked.file.fd, SIZE)
    third.closed = True  # nobody waits for it any more
    assert asked.answered(second) == BLOCK + bytes(5)
    assert asked.codec.decode(second, asked.file.fd, SIZE) == BLOCK + bytes(5)


@needs_raptorq
def test_it_tells_once_that_a_block_is_decoded(asked: Asked) -> None:
    codec, block = asked.codec, asked.partial(3)
    assert (codec.awaits, codec.has_decoded()) == (None, False)
    for _ in range(2):
        with pytest.raises(NotYetDecodedError):
            codec.decode_meanwhile(block, asked.file.fd, SIZE)
        fd = codec.awaits
        assert fd is not None
        wait_for(lambda fd=fd: select.select([fd], [], [], 0)[0], "the answer")
        assert (codec.has_decoded(), codec.has_decoded(), codec.awaits) == (True, False, None)
        assert asked.answered(block) == BLOCK + bytes(5)
        assert codec.awaits is None


@needs_raptorq
def test_symbols_that_do_not_suffice_are_said_to_who_has_asked(asked: Asked) -> None:
    source = [BLOCK[at * SIZE :][:SIZE] for at in range(2)]
    short = asked.file.partial(BLOCK, SIZE, lost={0, 1, 30}, repair=dict(enumerate([*source, source[0]])))
    assert asked.answered(short) is None, "one of them is there twice"
    assert asked.answered(asked.partial(3)) == BLOCK + bytes(5)


@needs_raptorq
def test_one_that_dies_while_it_decodes_fails_the_block_and_the_next_has_another(asked: Asked) -> None:
    block = asked.partial(3)
    asked.codec.prepare()
    pid = asked.codec.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NotYetDecodedError):
        asked.codec.decode_meanwhile(block, asked.file.fd, SIZE)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(CodecError, match="process failed") as caught:
        asked.answered(block)
    assert caught.value.reason == "library"
    assert asked.answered(block) == BLOCK + bytes(5)
    assert asked.codec.pid != pid


@needs_raptorq
def test_one_that_hangs_while_it_decodes_is_given_up(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_process, "ANSWER_SECONDS", 0.3)
    asked.codec.prepare()
    assert asked.codec.pid is not None
    os.kill(asked.codec.pid, signal.SIGSTOP)
    block, other = asked.partial(3), asked.partial(4)
    with pytest.raises(NotYetDecodedError):
        asked.codec.decode_meanwhile(block, asked.file.fd, SIZE)
    with pytest.raises(CodecError, match="does not answer"):
        asked.answered(other)
    monkeypatch.undo()
    assert asked.answered(block) == BLOCK + bytes(5)


@needs_raptorq
def test_a_call_that_waits_gives_up_what_is_decoded_meanwhile(asked: Asked) -> None:
    with pytest.raises(NotYetDecodedError):
        asked.codec.decode_meanwhile(asked.partial(3), asked.file.fd, SIZE)
    assert asked.codec.repair(BLOCK, SIZE, 3) == [*asked.repair.values()]
    assert asked.answered(asked.partial(6)) == BLOCK + bytes(5)


def test_where_no_process_can_be_had_it_is_an_error_of_the_call(
    codec: CodecProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python3")
    with pytest.raises(CodecError, match="no such file") as caught:
        codec.repair(BLOCK, SIZE, 1)
    assert caught.value.reason == "library"


@needs_raptorq
def test_threads_have_their_own_answers(codec: CodecProcess) -> None:
    blocks = [random.Random(number).randbytes(SIZE * (5 + number)) for number in range(4)]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for skip in range(20):
            if codec.repair(blocks[number], SIZE, 2, skip) != raptorq.repair(blocks[number], SIZE, 2, skip):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_raptorq
def test_it_ends_with_the_daemon_however_that_ends(tmp_path: Path) -> None:
    program = (
        "from mcastd.delivery.codec_process import CodecProcess; import os, signal;"
        "codec = CodecProcess(); codec.repair(bytes(99), 96, 1); print(codec.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    pid = int(said.stdout)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the codec's process")
