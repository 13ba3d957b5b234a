"""RaptorQ in a process of its own.

The library holds the interpreter lock for 4 ms a block, in which no other worker of this process could move.

```
  a thread of the daemon                             the process
      block or symbols           --- memory of both --->
      request                    ------- socket ------->  calls protocols/raptorq.py
      waits, without the lock    <------ socket --------  answer
      symbols or block           <-- memory of both ----
```

The process ends when the daemon's end of the socket is closed, however the daemon ends. If it dies, as for
want of memory, the call under way fails, and the next one begins another process.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

from mcastd.delivery import blockfile
from mcastd.delivery.block import PartialBlock
from mcastd.errors import reason_of
from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import NUMBER_BYTES, CodecError, CodecReason, NotInstalledError

# A block takes milliseconds. A process that has not answered after this long is given up.
ANSWER_SECONDS = 30.0

_REPAIR, _DECODE = 1, 2
# Bytes of the memory that both have: a part for what is asked, which may be all symbols of a block with their
# numbers, and behind it one for the answer. What no call has touched takes no room.
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
    repair_symbols: int  # that are to be made
    skip: int  # repair symbols before these
    size: int  # bytes of what is asked: a block, or symbols as raptorq.pack() gives them


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
        count = len(block.have)
        packets = count - block.missing + len(block.repair)
        request = _Request(_DECODE, symbol_size, count, 0, 0, packets * (NUMBER_BYTES + symbol_size))
        with self._lock, self._memory_for(request) as memory:
            _put_symbols(memory, block, fd, symbol_size)
            return self._ask(request)

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
        """The memory for what is asked. Raises CodecError."""
        asked = request.size
        made = max(request.repair_symbols, request.source_symbols) * request.symbol_size
        if asked > ASKED_MAX_BYTES or made > ANSWER_MAX_BYTES:
            raise CodecError(
                CodecReason.BLOCK_SIZE, f"the codec's process does not make {made} bytes of {asked}"
            )
        try:
            with memoryview(self._begin()[1]) as memory:
                yield memory
        except _FailedError as error:
            self._end()
            raise CodecError(CodecReason.LIBRARY, f"the codec's process failed: {error}") from error

    def _ask(self, request: _Request) -> memoryview | None:
        """Have done what stands in the memory. Raises CodecError, NotInstalledError, _FailedError."""
        connection, memory = self._begin()
        try:
            connection.sendall(_REQUEST.pack(*request))
            status, size = _ANSWER.unpack(_take(connection, _ANSWER.size))
            text = "" if status == _DONE else _take(connection, size).decode()
        except (OSError, EOFError) as error:
            raise _FailedError(reason_of(error)) from error
        if status == _DONE:
            return memoryview(memory)[ASKED_MAX_BYTES : ASKED_MAX_BYTES + size]
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
        self._process = self._socket = self._memory = None
        if connection is not None:
            connection.close()
        if memory is not None:
            with suppress(BufferError):  # an answer is in use: then it ends with that
                memory.close()
        if process is not None:
            process.kill()
            process.wait()


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
    """Write the symbols of a block one after another, as raptorq.pack() has them; ``fd`` is the file.

    Its source symbols are read to their places at once, and repair symbols put in the places of those that
    are missing. Raises OSError.
    """
    count, step = len(block.have), NUMBER_BYTES + symbol_size
    places = range(0, count * step, step)
    numbers = _numbers(count)
    for at in range(NUMBER_BYTES):
        memory[at : count * step : step] = numbers[at::NUMBER_BYTES]
    slots = [memory[place + NUMBER_BYTES : place + step] for place in places]
    try:
        blockfile.read(fd, slots, block.offset, block.size)
    finally:
        slots.clear()  # an error has this frame in its traceback, and they keep the memory from being closed
    filling = count * symbol_size - block.size
    memory[count * step - filling : count * step] = bytes(filling)
    holes = [at for at, has in enumerate(block.have) if not has]
    spare = range(count, count + len(block.repair) - len(holes))
    for place, (number, symbol) in zip([*holes, *spare], block.repair.items(), strict=True):
        memory[place * step : (place + 1) * step] = number.to_bytes(NUMBER_BYTES) + symbol


@lru_cache(maxsize=2)
def _numbers(count: int) -> bytes:
    return struct.pack(f">{count}I", *range(count))


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
            status, answer = _answer(request, memory)
            if status == _DONE:
                memory[ASKED_MAX_BYTES : ASKED_MAX_BYTES + len(answer)] = answer
            connection.sendall(_ANSWER.pack(status, len(answer)))
            if status != _DONE:
                connection.sendall(answer)


def _answer(request: _Request, memory: mmap.mmap) -> tuple[int, bytes]:
    size = request.symbol_size
    try:
        if request.what == _REPAIR:
            block = memory[: request.size]
            return _DONE, b"".join(raptorq.repair(block, size, request.repair_symbols, request.skip))
        with memoryview(memory) as view, view[: request.size] as packed:
            decoded = raptorq.decode_packed(size, request.source_symbols, packed)
    except NotInstalledError as error:
        return _NOT_INSTALLED, error.what.encode()
    except CodecError as error:
        return _REFUSED, f"{error.reason} {error}".encode()
    return (_TOO_FEW, b"") if decoded is None else (_DONE, decoded)
