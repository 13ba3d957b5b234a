"""RaptorQ in a process of its own.

The library holds the interpreter lock for 4 ms a block, in which no other worker of this process could move.

```
  a thread of the daemon                             the process
      block or symbols           --- memory of both --->
      request                    ------- socket ------->  calls protocols/raptorq.py
      waits, without the lock    <------ socket --------  answer
      symbols or block           <-- memory of both ----      a block is completed where it lies
```

Symbols are received while it decodes a block: :meth:`CodecProcess.decode_meanwhile` asks, and is called again
for the answer.

The process ends when the daemon's end of the socket is closed, however the daemon ends. If it dies, as for
want of memory, the call under way fails, and the next one begins another process.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from itertools import chain, compress
from operator import add, not_
from typing import NamedTuple

from mcastd import clock
from mcastd.delivery import blockfile
from mcastd.delivery.block import NotYetDecodedError, PartialBlock
from mcastd.errors import reason_of
from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import NUMBER_BYTES, CodecError, CodecReason, NotInstalledError

# A block takes milliseconds. A process that has not answered after this long is given up.
ANSWER_SECONDS = 30.0

_REPAIR, _DECODE = 1, 2
# Bytes of the memory that both have: a part for what is asked, which may be a block and as many repair
# symbols, and behind it one for repair symbols that are made. What no call has touched takes no room.
ASKED_MAX_BYTES = 2 * raptorq.BLOCK_MAX_BYTES
ANSWER_MAX_BYTES = raptorq.BLOCK_MAX_BYTES
MEMORY_BYTES = ASKED_MAX_BYTES + ANSWER_MAX_BYTES

_REQUEST = struct.Struct("=Bqqqqq")
_DONE, _TOO_FEW, _REFUSED, _NOT_INSTALLED = range(4)
# How it went; bytes of the answer: symbols one after the other, or a block, in the memory; or of a text that
# follows, if it is a refusal.
_ANSWER = struct.Struct("=BQ")

_PROGRAM = "import sys; sys.path[:] = sys.argv[3:]; from mcastd.delivery.codec_process import serve; serve()"


class _FailedError(Exception):
    """The process cannot be had, or does not answer."""


class _Request(NamedTuple):
    what: int
    symbol_size: int
    source_symbols: int  # of the block that is to be decoded
    repair_symbols: int  # that are to be made, or that have come
    skip: int  # repair symbols before these
    size: int  # bytes of what is asked: a block, or what has come of one (see _put_symbols)


class CodecProcess:
    """``repair`` as in :mod:`mcastd.protocols.raptorq`, and a :class:`~mcastd.delivery.block.Decode`.

    For any thread, one call at a time. A process that cannot be had, or fails, is a CodecError with the
    reason ``LIBRARY``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for a call
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._memory: mmap.mmap | None = None  # as long as there is a process
        self._decoding: PartialBlock | None = None  # what the process was asked for, and has to answer
        self._answer_by = 0.0  # monotonic time
        self._is_told = False  # that it has answered

    @property
    def pid(self) -> int | None:
        """Of the process; None while none was needed."""
        process = self._process
        return None if process is None else process.pid

    def repair(self, block: bytes | memoryview, symbol_size: int, count: int, skip: int = 0) -> list[bytes]:
        request = _Request(_REPAIR, symbol_size, 0, count, skip, len(block))
        with self._lock, self._memory_for(request) as memory:
            memory[: len(block)] = block
            made = bytes(self._ask(request) or b"")
        return [made[at : at + symbol_size] for at in range(0, len(made), symbol_size)]

    def decode(self, block: PartialBlock, fd: int, symbol_size: int) -> memoryview | None:
        request = _request_for(block, symbol_size)
        with self._lock, self._memory_for(request) as memory:
            _put_symbols(memory, block, fd, symbol_size)
            return self._ask(request)

    def decode_meanwhile(self, block: PartialBlock, fd: int, symbol_size: int) -> memoryview | None:
        """The same in several calls: raises NotYetDecodedError until the process has answered.

        It decodes one block at a time; those that were ``closed`` meanwhile are not waited for. What comes of
        a block after the first call is not decoded with the rest.
        """
        with self._lock:
            asked = self._decoding
            with self._failures_told():
                if asked is not None and not self._has_answered():
                    raise NotYetDecodedError
                if asked is block:
                    self._decoding, block.with_codec = None, False
                    return self._take_answer(_DECODE)
            if asked is not None and not asked.closed:
                raise NotYetDecodedError
            request = _request_for(block, symbol_size)
            with self._memory_for(request) as memory:
                _put_symbols(memory, block, fd, symbol_size)
                self._send(request)
                self._decoding, self._answer_by = block, clock.monotonic() + ANSWER_SECONDS
                self._is_told = False
                block.give_to_codec()
        raise NotYetDecodedError

    @property
    def awaits(self) -> int | None:
        """The fd that is readable when :meth:`has_decoded` returns True; None: it does not decode a block.

        For the thread that decodes.
        """
        connection = self._socket
        return None if self._decoding is None or self._is_told or connection is None else connection.fileno()

    def has_decoded(self) -> bool:
        """Return True, once, if :meth:`decode_meanwhile` has an answer. For the thread that decodes."""
        if (fd := self.awaits) is None or not _ready(fd):
            return False
        # If the file was given up, nobody reads the answer, and the socket stays readable
        self._is_told = True
        return True

    def prepare(self) -> None:
        """Begin the process now, which takes a fifth of a second, so that the first call waits for less."""
        with self._lock:
            try:
                self._begin()
            except _FailedError:  # the first call meets it again, and says so
                self._end()

    def close(self) -> None:
        """End the process. The next call begins another one."""
        with self._lock:
            self._end()

    @contextmanager
    def _memory_for(self, request: _Request) -> Iterator[memoryview]:
        """The memory for what is asked. Raises CodecError.

        An answer that was not taken is given up.
        """
        asked = request.size
        symbols = request.repair_symbols if request.what == _REPAIR else request.source_symbols
        made = symbols * request.symbol_size
        if asked > ASKED_MAX_BYTES or made > ANSWER_MAX_BYTES:
            raise CodecError(
                CodecReason.BLOCK_SIZE, f"the codec's process does not make {made} bytes of {asked}"
            )
        with self._failures_told():
            if self._decoding is not None:
                self._decoding = None
                with suppress(CodecError, NotInstalledError):
                    self._take_answer(_DECODE)
            with memoryview(self._begin()[1]) as memory:
                yield memory

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """End a process that fails, with a CodecError."""
        try:
            yield
        except _FailedError as error:
            self._end()
            raise CodecError(CodecReason.LIBRARY, f"the codec's process failed: {error}") from error

    def _has_answered(self) -> bool:
        """Return True if the process has answered, or has ended. Raises _FailedError once it is overdue."""
        if _ready(self._begin()[0].fileno()):
            return True
        if clock.monotonic() >= self._answer_by:
            raise _FailedError("it does not answer")
        return False

    def _ask(self, request: _Request) -> memoryview | None:
        """Have done what stands in the memory. Raises CodecError, NotInstalledError, _FailedError."""
        self._send(request)
        return self._take_answer(request.what)

    def _send(self, request: _Request) -> None:
        """Raises _FailedError."""
        try:
            self._begin()[0].sendall(_REQUEST.pack(*request))
        except OSError as error:
            raise _FailedError(reason_of(error)) from error

    def _take_answer(self, what: int) -> memoryview | None:
        """Wait for the answer to what was asked. Raises CodecError, NotInstalledError, _FailedError."""
        connection, memory = self._begin()
        try:
            status, size = _ANSWER.unpack(_take(connection, _ANSWER.size))
            text = "" if status == _DONE else _take(connection, size).decode()
        except (OSError, EOFError) as error:
            raise _FailedError(reason_of(error)) from error
        if status == _DONE:
            start = ASKED_MAX_BYTES if what == _REPAIR else 0
            return memoryview(memory)[start : start + size]
        if status == _NOT_INSTALLED:
            raise NotInstalledError(text)
        if status == _REFUSED:
            reason, _, cause = text.partition(" ")
            raise CodecError(CodecReason(reason), cause)
        return None

    def _begin(self) -> tuple[socket.socket, mmap.mmap]:
        """Have a process. Raises _FailedError."""
        if self._socket is not None and self._memory is not None:
            return self._socket, self._memory
        try:
            with ExitStack() as undo:
                ours, theirs = map(undo.enter_context, socket.socketpair())
                memory = undo.enter_context(self._start(theirs))
                undo.pop_all()
        except (OSError, subprocess.SubprocessError) as error:
            raise _FailedError(reason_of(error)) from error
        theirs.close()
        ours.settimeout(ANSWER_SECONDS)
        self._socket, self._memory = ours, memory
        return ours, memory

    def _start(self, connection: socket.socket) -> mmap.mmap:
        """Start the process. Returns the memory. Raises OSError, subprocess.SubprocessError."""
        fd = os.memfd_create("mcastd-codec")
        try:
            os.truncate(fd, MEMORY_BYTES)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(connection.fileno()), str(fd), *sys.path],
                pass_fds=(connection.fileno(), fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where the library prints the place of a panic
                process_group=0,  # Ctrl-C on a terminal is for us: we end it when it is not needed
            )
            return mmap.mmap(fd, MEMORY_BYTES)
        finally:
            os.close(fd)

    def _end(self) -> None:
        process, connection, memory = self._process, self._socket, self._memory
        self._process = self._socket = self._memory = self._decoding = None
        if connection is not None:
            connection.close()
        if memory is not None:
            with suppress(BufferError):  # an answer is in use: then it ends with that
                memory.close()
        if process is not None:
            process.kill()
            process.wait()


def _ready(fd: int) -> list[tuple[int, int]]:
    """What poll(2) says of an fd now, if something has come, or it has ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(0)


def _request_for(block: PartialBlock, symbol_size: int) -> _Request:
    """To decode what has come of a block."""
    count, repair = len(block.have), len(block.repair)
    size = count * (symbol_size + 1) + repair * (NUMBER_BYTES + symbol_size)
    return _Request(_DECODE, symbol_size, count, repair, 0, size)


def _take(connection: socket.socket, size: int) -> bytearray:
    """The next ``size`` bytes. Raises EOFError if the other end is closed before, and OSError."""
    data, filled = bytearray(size), 0
    with memoryview(data) as view:
        while filled < size:
            if not (count := connection.recv_into(view[filled:])):
                raise EOFError("it has ended")
            filled += count
    return data


def _put_symbols(memory: memoryview, block: PartialBlock, fd: int, symbol_size: int) -> None:
    """Write what has come of a block: its bytes in the file, which of its symbols are there, repair symbols.

    ``fd`` is the file. Raises OSError.
    """
    end = len(block.have) * symbol_size
    with memory[: block.size] as place:
        blockfile.read(fd, place, block.offset)
    memory[block.size : end] = bytes(end - block.size)
    pieces: list[bytes | bytearray] = [block.have]
    for number, symbol in block.repair.items():
        pieces += number.to_bytes(NUMBER_BYTES), symbol
    rest = b"".join(pieces)
    memory[end : end + len(rest)] = rest


def _numbered(request: _Request, memory: memoryview, have: bytes) -> Iterator[bytes]:
    """The symbols that stand in the memory, each behind its number; ``have`` tells which of the source."""
    size, count = request.symbol_size, request.source_symbols
    end, width = count * size, NUMBER_BYTES + size
    source = [memory[at : at + size] for at in compress(range(0, end, size), have)]
    repair = (memory[at : at + width].tobytes() for at in range(end + count, request.size, width))
    return chain(map(add, compress(_numbers(count), have), source), repair)


@lru_cache(maxsize=2)
def _numbers(count: int) -> list[bytes]:
    """Of the source symbols of a block."""
    return [number.to_bytes(NUMBER_BYTES) for number in range(count)]


def serve() -> None:
    """The process: answer on the socket whose descriptor is the first argument, until it is closed.

    The second argument is the descriptor of the memory.
    """
    descriptor = int(sys.argv[2])
    with (
        socket.socket(fileno=int(sys.argv[1])) as connection,
        mmap.mmap(descriptor, MEMORY_BYTES) as memory,
        suppress(EOFError, ConnectionError),
    ):
        os.close(descriptor)
        while True:
            request = _Request(*_REQUEST.unpack(_take(connection, _REQUEST.size)))
            with memoryview(memory) as view:
                connection.sendall(_answer(request, view))


def _answer(request: _Request, memory: memoryview) -> bytes:
    """Do what is asked, in the memory. Returns what is to be sent."""
    size, count = request.symbol_size, request.source_symbols
    try:
        if request.what == _REPAIR:
            made = b"".join(
                raptorq.repair(memory[: request.size], size, request.repair_symbols, request.skip)
            )
            memory[ASKED_MAX_BYTES : ASKED_MAX_BYTES + len(made)] = made
            return _ANSWER.pack(_DONE, len(made))
        have = memory[count * size : count * (size + 1)].tobytes()
        block = raptorq.decode_numbered(size, count, _numbered(request, memory, have))
    except NotInstalledError as error:
        return _refusal(_NOT_INSTALLED, error.what)
    except CodecError as error:
        return _refusal(_REFUSED, f"{error.reason} {error}")
    if block is None:
        return _ANSWER.pack(_TOO_FEW, 0)
    for at in compress(range(0, count * size, size), map(not_, have)):
        memory[at : at + size] = block[at : at + size]
    return _ANSWER.pack(_DONE, count * size)


def _refusal(status: int, text: str) -> bytes:
    data = text.encode()
    return _ANSWER.pack(status, len(data)) + data
