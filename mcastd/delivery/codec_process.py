"""RaptorQ in a process of its own.

The library holds the interpreter lock for 4 ms a block, in which no other worker of this process could move.

```
  a thread of the daemon                          the process
      request, block or symbols  ---- socket ---->  calls protocols/raptorq.py
      waits, without the lock    <--- socket -----  answer, symbols or block
```

The process ends when the daemon's end of the socket is closed, however the daemon ends. If it dies, as for
want of memory, the call under way fails, and the next one begins another process.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from mcastd.errors import reason_of
from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import CodecError, NotInstalledError

# A block takes milliseconds. A process that has not answered after this long is given up.
ANSWER_SECONDS = 10.0

_REPAIR, _DECODE = 1, 2
_REQUEST = struct.Struct("=Bqqqqq")
_DONE, _TOO_FEW, _REFUSED, _NOT_INSTALLED = range(4)
# How it went; bytes that follow: symbols one after the other, a block, or a refusal's reason and text
_ANSWER = struct.Struct("=BQ")
_SYMBOL_NUMBER = struct.Struct("=I")

_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from mcastd.delivery.codec_process import serve; serve()"


class _Request(NamedTuple):
    what: int
    symbol_size: int
    source_symbols: int  # of the block that is to be decoded
    repair_symbols: int  # that are to be made
    skip: int  # repair symbols before these
    size: int  # bytes that follow: a block, or symbols, each after its number


class CodecProcess:
    """``repair`` and ``decode`` as in :mod:`mcastd.protocols.raptorq`, for any thread, one call at a time.

    A process that cannot be had, or fails, is a CodecError with the reason ``library``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for a call
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while none was needed."""
        process = self._process
        return None if process is None else process.pid

    def repair(self, block: bytes | memoryview, symbol_size: int, count: int, skip: int = 0) -> list[bytes]:
        made = self._ask(_Request(_REPAIR, symbol_size, 0, count, skip, len(block)), block) or b""
        return [made[at : at + symbol_size] for at in range(0, len(made), symbol_size)]

    def decode(
        self, symbol_size: int, source_symbols: int, symbols: Iterable[tuple[int, bytes | memoryview]]
    ) -> bytes | None:
        pieces: list[bytes | memoryview] = []
        for number, symbol in symbols:
            raptorq.require_symbol(symbol_size, number, symbol)
            pieces += _SYMBOL_NUMBER.pack(number), symbol
        data = b"".join(pieces)
        return self._ask(_Request(_DECODE, symbol_size, source_symbols, 0, 0, len(data)), data)

    def prepare(self) -> None:
        """Begin the process now, which takes a fifth of a second, so that the first call waits for less."""
        with self._lock:
            if self._socket is None:
                with suppress(OSError, subprocess.SubprocessError):  # the first call tries again, and says so
                    self._begin()

    def close(self) -> None:
        """End the process. The next call begins another one."""
        with self._lock:
            self._end()

    def _ask(self, request: _Request, data: bytes | memoryview) -> bytes | None:
        with self._lock:
            try:
                connection = self._socket or self._begin()
                connection.sendall(_REQUEST.pack(*request))
                connection.sendall(data)
                status, size = _ANSWER.unpack(_take(connection, _ANSWER.size))
                answer = bytes(_take(connection, size))
            except (OSError, EOFError, subprocess.SubprocessError) as error:
                self._end()
                raise CodecError("library", f"the codec's process failed: {reason_of(error)}") from error
        if status == _NOT_INSTALLED:
            raise NotInstalledError(answer.decode())
        if status == _REFUSED:
            reason, _, text = answer.decode().partition(" ")
            raise CodecError(reason, text)
        return answer if status == _DONE else None

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # where the library prints the place of a panic
                    process_group=0,  # Ctrl-C on a terminal is for us: we end it when it is not needed
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(ANSWER_SECONDS)
        self._socket = ours
        return ours

    def _end(self) -> None:
        process, connection = self._process, self._socket
        self._process = self._socket = None
        if connection is not None:
            connection.close()
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


def serve() -> None:
    """The process: answer on the socket whose descriptor is the first argument, until it is closed."""
    with socket.socket(fileno=int(sys.argv[1])) as connection, suppress(EOFError, ConnectionError):
        while True:
            request = _Request(*_REQUEST.unpack(_take(connection, _REQUEST.size)))
            status, answer = _answer(request, _take(connection, request.size))
            connection.sendall(_ANSWER.pack(status, len(answer)))
            connection.sendall(answer)


def _answer(request: _Request, data: bytearray) -> tuple[int, bytes]:
    size = request.symbol_size
    try:
        if request.what == _REPAIR:
            return _DONE, b"".join(raptorq.repair(bytes(data), size, request.repair_symbols, request.skip))
        block = raptorq.decode(size, request.source_symbols, _numbered(data, size))
    except NotInstalledError as error:
        return _NOT_INSTALLED, error.what.encode()
    except CodecError as error:
        return _REFUSED, f"{error.reason} {error}".encode()
    return (_TOO_FEW, b"") if block is None else (_DONE, block)


def _numbered(data: bytearray, symbol_size: int) -> Iterable[tuple[int, memoryview]]:
    view, step = memoryview(data), _SYMBOL_NUMBER.size + symbol_size
    for at in range(0, len(view), step):
        (number,) = _SYMBOL_NUMBER.unpack_from(view, at)
        yield number, view[at + _SYMBOL_NUMBER.size : at + step]
