"""Small file systems for tests that run as root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """A file system in memory at ``path``, which is made; ``size`` is as mount(8) has it, "256k"."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        # Also if a test that has failed holds files there open
        subprocess.run(["umount", "--lazy", path], check=True)
