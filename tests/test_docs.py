"""What the documents point to is there: files, tests, modules."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mcastd import cli, ctl

PROJECT = Path(__file__).parent.parent
DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "SECURITY.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "tests").rglob("README.md")),
]
WITH_TESTS = [path for path in DOCUMENTS if path.name in ("KERNEL.md", "CONTRIBUTING.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", WITH_TESTS, ids=lambda path: path.name)
def test_each_test_that_is_named_is_there(path: Path) -> None:
    named = re.findall(r"`((?:\w+/)?(?:test_|rows_)\w+\.py)(?:::(\w+))?`", path.read_text())
    assert named
    for file, name in named:
        text = (PROJECT / "tests" / file).read_text()
        assert not name or f"def {name}(" in text, f"{file}::{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_each_command_that_is_named_is_one(path: Path) -> None:
    known = {"mcastd": cli.main.commands, "mcastctl": ctl.main.commands}
    for program, command in re.findall(r"(?:`|\$ )(mcastd|mcastctl) ([a-z][a-z-]*)", path.read_text()):
        assert command in known[program], f"{program} {command}"


def test_the_map_names_every_room() -> None:
    text = (PROJECT / "docs" / "ARCHITECTURE.md").read_text()
    for entry in (PROJECT / "mcastd").iterdir():
        room = entry.name if entry.is_file() else f"{entry.name}/"
        if entry.suffix == ".py" or (entry.is_dir() and entry.name != "__pycache__"):
            leaf = entry.stem if entry.is_file() else room
            assert f"`{room}`" in text or f"`{leaf}`" in text or entry.name.startswith("__"), room


def test_the_support_modules_are_all_described() -> None:
    text = (PROJECT / "tests" / "support" / "README.md").read_text()
    for entry in (PROJECT / "tests" / "support").glob("[!_]*.py"):
        assert f"`{entry.name}`" in text, entry.name


def test_the_top_level_holds_what_it_is_to_hold() -> None:
    listed = subprocess.run(
        ["git", "-C", PROJECT, "ls-files"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not listed:
        pytest.skip("needs a git checkout")
    assert {name.partition("/")[0] for name in listed} == {
        *(".ci", ".gitignore", "docs", "etc", "mcastd", "packaging", "systemd", "tests"),
        *(
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "LICENSE",
            "Makefile",
            "README.md",
            "SECURITY.md",
            "pyproject.toml",
        ),
    }


def test_no_line_is_longer_than_packages_may_have() -> None:
    """lintian finds fault with more than 512 characters: very-long-line-length-in-source-file."""
    suffixes = {".md", ".py", ".toml", ".c", ".in", ".sh", ".1", ".8", ".service", ".yml"}
    parts = [PROJECT / name for name in ("docs", "etc", "mcastd", "packaging", "systemd", "tests")]
    files = [*PROJECT.glob("*.*"), *(path for part in parts for path in part.rglob("*.*"))]
    for path in files:
        if path.suffix in suffixes and path.is_file():
            assert max(map(len, path.read_text().splitlines()), default=0) <= 512, path
