"""Each call of the operating system fails once while files are received: they come all the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.secured import Receiver, Sender
from support.trees import files_below, grow_tree

from mcastd.config import DirectoryOutput
from mcastd.delivery.keys import make_signing_pair
from mcastd.inbound.sinks import FORMATS, StreamFacts
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.directory import DirectorySink
from mcastd.log import get_logger

pytest.importorskip("cryptography")
pytestmark = pytest.mark.usefixtures("no_fd_leak")

CALLS = (
    *(
        "copy_file_range",
        "dup",
        "fchmod",
        "fstat",
        "fstatvfs",
        "fsync",
        "ftruncate",
        "link",
        "listdir",
        "mkdir",
    ),
    *("open", "preadv", "pwrite", "pwritev", "readlink", "rename", "rmdir", "stat", "symlink", "unlink"),
    "utime",
)
# More than a reception makes: the test ends with the first call that there is not.
CALLS_MAX = 1000


@pytest.mark.parametrize("atomic", ["file", "tree"])
def test_files_come_whichever_call_lacks_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    make_signing_pair(tmp_path / "a")
    source = grow_tree(tmp_path / "source", {"empty": 0, "one": 1, "deep/even": 2896, "deep/large": 100_001})
    sender = Sender(tmp_path, sign="a")
    first = sender.a_pass()
    (source / "deep" / "even").write_bytes(b"another")
    (source / "one").unlink()
    second = sender.a_pass()
    sender.source.restart()
    number = 0
    while _come(tmp_path, first, second, atomic, number):
        number += 1
        assert number < CALLS_MAX
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        shutil.rmtree(tmp_path / "received", ignore_errors=True)
    assert number > 50


def _come(place: Path, first: list[bytes], second: list[bytes], atomic: str, number: int) -> bool:
    """Receive two passes while the ``number``-th call fails, and then the second again.

    Returns False if there was no such call.
    """
    now = 1000.0
    receiver = Receiver(place, verify_keys=["a.pub"])
    receiver.sink.close(for_good=True)
    config = DirectoryOutput.model_validate({"path": receiver.path, "atomic": atomic})
    account = Account(config, get_logger())
    raw = FORMATS["raw"](StreamFacts(lambda: "239.255.1.2", str))
    receiver.sink = DirectorySink(config, raw, account, now=lambda: now)
    with pytest.MonkeyPatch.context() as patch:
        has_failed = _fail(number, patch)
        receiver.sink.open()
        receiver.take([*first, *second])
    for _ in range(3):
        now += 6.0  # what could not be done is tried again
        receiver.sink.tick(now)
        receiver.take(second)
    found = files_below(receiver.path / "current" if atomic == "tree" else receiver.path)
    found.pop("one", None)  # it has landed: what is removed at the sender stays
    assert found == files_below(place / "source")
    assert receiver.sink.problem == ""
    receiver.sink.close(for_good=True)
    return has_failed()


def _fail(number: int, patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Have the ``number``-th call fail, from 0; what is returned tells whether there was one."""
    left = number

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(*args, **more)

        return call

    for name in CALLS:
        patch.setattr(os, name, failing(getattr(os, name)))
    return lambda: left < 0
