from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a tmpfs of a size until the test ends. For tests marked root."""
    paths: list[Path] = []

    def mount(path: Path, size: str) -> None:
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
        paths.append(path)

    yield mount
    for path in paths:
        subprocess.run(["umount", path], check=True)
