"""Another user, and directories that they may write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STRANGER = 65_534


@pytest.fixture(params=["sticky", "group's", pytest.param("stranger's", marks=pytest.mark.root)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory that others than we may write."""
    path = tmp_path / "shared"
    path.mkdir()
    match request.param:
        case "sticky":
            path.chmod(0o1777)
        case "group's":
            path.chmod(0o775)
        case "stranger's":
            give_away(path)
    return path


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
