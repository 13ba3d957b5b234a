"""A file system in memory whose calls hang on demand, as those of a dead NFS server do.

``python3 hung.py DIRECTORY`` mounts it there (fuse(4), needs root) and obeys lines on standard input: ``hang
NAME ...`` lets calls of these names (see OPERATIONS) wait from then on, ``answer`` answers all. It ends with
standard input, and what still hangs fails then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OPERATIONS = {  # linux/fuse.h
    1: "lookup",
    3: "getattr",
    4: "setattr",
    14: "open",
    15: "read",
    16: "write",
    18: "release",
    20: "fsync",
    25: "flush",
    26: "init",
    35: "create",
}
INTERRUPT = 36
UNANSWERED = {2, INTERRUPT, 42}  # forget, batch_forget
FOPEN_DIRECT_IO = 1
FATTR_SIZE = 8
MNT_DETACH = 2
ROOT = 1
_in_header = struct.Struct("=IIQQ16x")
_out_header = struct.Struct("=IiQ")
_attr = struct.Struct("=6Q10I")
_entry = struct.Struct("=4Q2I")

libc = ctypes.CDLL(None, use_errno=True)


class FileSystem:
    def __init__(self, directory: str) -> None:
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        if libc.mount(b"hung", directory.encode(), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._names = {b"": ROOT}
        self._files: dict[int, bytearray] = {}
        self._hanging: set[str] = set()
        self._waiting: list[bytes] = []

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd, 0], [], [])
            if 0 in ready:
                command, *names = os.read(0, 4096).decode().split() or [""]
                if not command:
                    return
                self._hanging = set(names)
                if command == "answer":
                    waiting, self._waiting = self._waiting, []
                    for request in waiting:
                        self._answer(request)
                print(command, flush=True)
            elif self._fd in ready:
                request = os.read(self._fd, 1 << 18)
                if OPERATIONS.get(_in_header.unpack_from(request)[1]) in self._hanging:
                    self._waiting.append(request)
                else:
                    self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, operation, unique, node = _in_header.unpack_from(request)
        if operation == INTERRUPT:
            self._interrupted(*struct.unpack_from("=Q", request, 40))
        if operation in UNANSWERED:
            return
        try:
            perform = getattr(self, "_" + OPERATIONS.get(operation, "unknown"))
            error, body = 0, perform(node, request[40:])
        except OSError as failure:
            error, body = -(failure.errno or errno.EIO), b""
        self._reply(unique, error, body)

    def _reply(self, unique: int, error: int, body: bytes = b"") -> None:
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.write(self._fd, _out_header.pack(16 + len(body), error, unique) + body)

    def _interrupted(self, unique: int) -> None:
        """The caller is killed: as with NFS, it need not wait for the answer."""
        for request in self._waiting.copy():
            if _in_header.unpack_from(request)[2] == unique:
                self._waiting.remove(request)
                self._reply(unique, -errno.EINTR)

    def _unknown(self, node: int, body: bytes) -> bytes:
        raise OSError(errno.ENOSYS, "")

    def _init(self, node: int, body: bytes) -> bytes:
        return struct.pack("=4I2H2I2HI28x", 7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 0, 0, 0)

    def _attributes(self, node: int) -> bytes:
        size = len(self._files.get(node, b""))
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
        return _attr.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, node: int) -> bytes:
        return _entry.pack(node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _lookup(self, node: int, body: bytes) -> bytes:
        if (name := body.rstrip(b"\0")) not in self._names:
            raise OSError(errno.ENOENT, "")
        return self._entry(self._names[name])

    def _getattr(self, node: int, body: bytes) -> bytes:
        return bytes(16) + self._attributes(node)

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("=IIQQ", body)
        if valid & FATTR_SIZE:
            self._files[node] = self._files[node][:size].ljust(size, b"\0")
        return bytes(16) + self._attributes(node)

    def _open(self, node: int, body: bytes) -> bytes:
        return struct.pack("=QII", node, FOPEN_DIRECT_IO, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        made = self._names.setdefault(body[16:].rstrip(b"\0"), ROOT + len(self._names))
        self._files[made] = bytearray()
        return self._entry(made) + self._open(made, b"")

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        return bytes(self._files[node][offset : offset + size])

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        self._files[node][offset : offset + size] = body[40 : 40 + size]
        return struct.pack("=II", size, 0)

    def _nothing(self, node: int, body: bytes) -> bytes:
        return b""

    _release = _flush = _fsync = _nothing


class Mount:
    """The same, as a test has it: ``path`` is where it is mounted."""

    def __init__(self, path: Path, server: subprocess.Popen[str]) -> None:
        self.path = path
        self._server = server

    def hang(self, *names: str) -> None:
        self._tell(" ".join(["hang", *names]))

    def answer(self) -> None:
        self._tell("answer")

    def _tell(self, line: str) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(line, file=self._server.stdin, flush=True)
        assert self._server.stdout.readline().split() == line.split()[:1]


@contextmanager
def mounted(path: Path) -> Iterator[Mount]:
    path.mkdir()
    command = [sys.executable, __file__, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            mount = Mount(path, server)
            mount.answer()  # it is there
            yield mount
        finally:
            server.kill()  # what hangs fails
            server.wait()
            libc.umount2(str(path).encode(), MNT_DETACH)


if __name__ == "__main__":
    FileSystem(sys.argv[1]).serve()
