"""Configurations as text: written to a file, loaded, and what is said against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcastd.config import Config, load
from mcastd.errors import ConfigError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Make ``mcastd.toml`` of a text, with drop-ins by name; returns its path."""

    def write(text: str | bytes, **drop_ins: str | bytes) -> Path:
        path = tmp_path / "mcastd.toml"
        (tmp_path / "mcastd.toml.d").mkdir(exist_ok=True)
        for name, content in {"": text, **drop_ins}.items():
            file = tmp_path / "mcastd.toml.d" / f"{name}.toml" if name else path
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def loaded(write: Write) -> Callable[..., Config]:
    """The Config of a text and its drop-ins."""
    return lambda text, **drop_ins: load(write(text, **drop_ins))


@pytest.fixture
def refused(write: Write, tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of a text and its drop-ins, one line each, without the directory."""

    def refused(text: str | bytes, **drop_ins: str | bytes) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(write(text, **drop_ins))
        lines = str(caught.value).splitlines()
        assert len(lines) == len(caught.value.problems), "a problem is one line"
        return [line.removeprefix(f"{tmp_path}/") for line in lines]

    return refused


@pytest.fixture
def refusal(refused: Callable[..., list[str]]) -> Callable[..., str]:
    """The same in one piece, to look for words in."""
    return lambda text, **drop_ins: "\n".join(refused(text, **drop_ins))
