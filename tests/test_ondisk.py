"""The configuration on disk, and what may be there in place of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd.config import load
from mcastd.errors import ConfigError
from mcastd.ondisk import OnDisk

CONFIG = """
[inbound.news]
group = "239.1.1.1"
port = 9190
output = "/var/log/mcastd/news.log"
"""


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
def test_what_is_no_file_is_refused_and_not_read(tmp_path: Path, make: object) -> None:
    """To read it would never end: it was called a disk that does not answer, with a thread lost each time."""
    path = tmp_path / "mcastd.toml"
    path.write_text(CONFIG)
    running = load(path)
    (tmp_path / "mcastd.toml.d").mkdir()
    make(tmp_path / "mcastd.toml.d" / "x.toml")  # type: ignore[operator]
    threads = threading.active_count()
    on_disk = OnDisk(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        on_disk.read()
    wait_for(lambda: on_disk.verdict(running).cause)
    verdict = on_disk.verdict(running)
    assert verdict.cause == "config-refused"
    assert "is not a regular file" in verdict.text
    assert threading.active_count() <= threads + 1  # one may end just now
