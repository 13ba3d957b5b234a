"""A daemon that runs short of something at one call after another, as shortage.c has it."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_suffix(".c")
LAYOUT = struct.Struct("5i32s")  # nth, error, lasting, count, failed, name
# Descriptors of the process and the host, memory, buffers; a thread that cannot be had is EAGAIN always.
ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Shortage:
    """``environment`` is for the process; :meth:`begin` says which call fails there from then on."""

    def __init__(self, directory: Path) -> None:
        library, path = directory / "shortage.so", directory / "shortage"
        subprocess.run(["gcc", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        path.write_bytes(bytes(LAYOUT.size))
        fd = os.open(path, os.O_RDWR)
        self._memory = mmap.mmap(fd, LAYOUT.size)
        os.close(fd)
        self.environment = {"LD_PRELOAD": str(library), "SHORTAGE": str(path)}

    def begin(self, nth: int, *, lasting: bool = False) -> None:
        """Have the ``nth`` call fail, from 1; with ``lasting``, also all after it."""
        error = ERRORS[nth % len(ERRORS)]
        self._memory[4 : LAYOUT.size] = LAYOUT.pack(0, error, lasting, 0, 0, b"")[4:]
        self._memory[0:4] = struct.pack("i", nth)

    def end(self) -> str:
        """All is to be had again. What failed: "" if no call did."""
        self._memory[0:4] = bytes(4)
        _, error, _, count, failed, name = LAYOUT.unpack(self._memory[: LAYOUT.size])
        if not failed:
            return ""
        return f"{name.rstrip(bytes(1)).decode()}: {errno.errorcode[error]} ({failed} of {count} calls)"

    def __enter__(self) -> Shortage:
        return self

    def __exit__(
        self, _1: type[BaseException] | None, _2: BaseException | None, _3: TracebackType | None
    ) -> None:
        self._memory.close()
