"""From TOML files to a Config, or to everything that is wrong with them; and back to TOML."""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from mcastd.bounded import ask
from mcastd.config.advice import advise
from mcastd.config.description import DescriptionFile
from mcastd.config.explain import Complaint, as_written, explain
from mcastd.config.positions import nearest, positions
from mcastd.config.whole import Config
from mcastd.errors import ConfigError, ConfigProblem, reason_of
from mcastd.log import get_logger
from mcastd.printable import printable, toml_escaped

STDIN = Path("-")
# Enough for a hundred thousand workers; a larger file is the wrong one.
FILE_MAX_BYTES = 16 << 20
# A description of a session on a disk that has not answered after this long is not read.
DESCRIPTION_SECONDS = 2.0
# Parts of a dotted key, or of a table's header: tomllib's time grows with the square of their number.
MAX_KEY_PARTS = 32
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")
# Where the files of mcastd.service and mcastd@.service are.
UNIT_DIRECTORIES = (Path("/etc"), Path("/etc/mcastd"))
_BARE_VALUE = re.compile(r"""\s*[\w.-]+\s*=\s*([^\s"'\[{#,]+)""")
_NUMBER = re.compile(r"[+-]?(\d[\d_]*(\.\d+)?|0[xob][0-9a-fA-F_]+)|true|false")
# What tomllib says, in words for people.
PLAIN_WORDS = {
    "Cannot overwrite a value": "this key is set twice",
    "Invalid value": "a value is missing or unfinished, or lacks quotes",
}


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    text: str
    tables: dict[str, Any]


def load(path: Path) -> Config:
    """Read ``path`` and its drop-ins, ``PATH.d/*.toml`` in name order: tables merge, a later value wins.

    Raises ConfigError with every problem, in the order of the text. Problems of reading and syntax hide
    those of meaning: with a part unread, a key that seems missing may not be.
    """
    return examine(path)[0]


def examine(path: Path) -> tuple[Config, Sequence[ConfigProblem]]:
    """The same, with what is unwise in it: warnings, in the order of the text."""
    try:
        files = _read_all(path)
        tables = _merge_all(files)
        if not tables:
            raise _refusal(path, "declares nothing; add an [outbound.NAME] or [inbound.NAME] table")
        _read_descriptions(tables)
        config = _validate(tables, files)
        warnings = [
            Complaint(as_written(advice.location, tables), advice.reason)
            for advice in advise(config, for_unit=Path(os.path.abspath(path)).parent in UNIT_DIRECTORIES)
        ]
        located = _locate(warnings, files, warning=True) if warnings else []
        return config, [*(_open_to_all(path, files) if path != STDIN else ()), *located]
    except RecursionError:
        raise _refusal(path, "tables or arrays are nested too deeply") from None


def _validate(tables: dict[str, Any], files: Sequence[_File]) -> Config:
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_locate(explain(error, tables), files)) from None


def _read_descriptions(tables: dict[str, Any]) -> None:
    """Put the file in place of each path that ``sdp`` of a subscription names."""
    subscriptions = tables.get("inbound")
    for table in subscriptions.values() if isinstance(subscriptions, dict) else ():
        path = table.get("sdp") if isinstance(table, dict) else None
        if isinstance(path, str) and path.startswith("/"):
            table["sdp"] = _description(path)


def _description(path: str) -> DescriptionFile:
    try:
        return DescriptionFile(path, ask(lambda: _content(Path(path)), DESCRIPTION_SECONDS, "sdp"))
    except TimeoutError:
        return DescriptionFile(path, b"", "cannot be read: its disk or mount does not answer")
    except OSError as error:
        return DescriptionFile(path, b"", f"cannot be read: {reason_of(error)}")
    except ConfigError as error:
        return DescriptionFile(path, b"", error.problems[0].reason)


def dump(config: Config) -> str:
    """The configuration as TOML, defaults included; it loads to an equal one."""
    tables = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = tomli_w.dumps({name: table for name, table in tables.items() if table})
    return "".join(c if c == "\n" or c.isprintable() else toml_escaped(c) for c in text)


def _refusal(path: Path, reason: str, line: int = 0) -> ConfigError:
    return ConfigError([ConfigProblem(str(path), line, "", reason)])


# -- reading


def _read_all(path: Path) -> list[_File]:
    files: list[_File] = []
    problems: list[ConfigProblem] = []
    if path == STDIN:
        return [_read(path)]
    directory = Path(f"{path}.d")
    try:
        drop_ins = sorted(name for name in os.listdir(directory) if re.fullmatch(r"[^.].*\.toml", name))
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        problems += _refusal(directory, f"cannot be read: {reason_of(error)}").problems
        drop_ins = []
    for file in (path, *(directory / name for name in drop_ins)):
        try:
            files.append(_read(file))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return files


def _standard_input() -> bytes:
    try:
        data = sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise _refusal(STDIN, f"cannot be read: {reason_of(error)}") from None
    if len(data) > FILE_MAX_BYTES:
        raise _refusal(STDIN, f"is larger than {FILE_MAX_BYTES >> 20} MiB: not a configuration")
    return data


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _refusal(path, "is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(path, "is not a regular file")
        # Files of /proc have the size 0 and may be endless, or wait for more
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise _refusal(path, f"cannot be read: {reason_of(error)}") from None
    if data is None:
        raise _refusal(path, "has nothing to read now: not a configuration")
    if len(data) > FILE_MAX_BYTES:
        raise _refusal(path, f"is larger than {FILE_MAX_BYTES >> 20} MiB: not a configuration")
    return data


def _read(path: Path) -> _File:
    data = _standard_input() if path == STDIN else _content(path)
    try:
        text = data.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refusal(path, f"is not UTF-8 text: byte 0x{data[error.start]:02x}", line) from None
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _refusal(path, f"has a key of more than {MAX_KEY_PARTS} parts: not a configuration", line)
    try:
        return _File(str(path), text, tomllib.loads(text))
    except ValueError as error:
        raise _syntax_error(path, text, str(error)) from None
    except RecursionError:
        raise _refusal(path, "arrays or inline tables are nested too deeply") from None


def _syntax_error(path: Path, text: str, message: str) -> ConfigError:
    """tomllib's message ends with where it is, except when Python refuses to read a very long number."""
    where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if not where:
        return _refusal(path, "has a number of too many digits")
    reason = message[: where.start()]
    if twice := re.fullmatch(r"Cannot declare \((.*?),?\) twice", reason):
        reason = f"the table {twice[1].replace(', ', '.')} is declared twice".replace("'", "")
    if where[1]:
        line, place = int(where[1]), f"column {where[2]}"
    else:
        line, place = text.rstrip().count("\n") + 1, "at the end"
    reason = PLAIN_WORDS.get(reason, reason[:1].lower() + reason[1:])
    bare = _BARE_VALUE.match(text.split("\n")[line - 1])
    if bare and not _NUMBER.fullmatch(bare[1]):
        reason = f'a value that is no plain number needs quotes: "{printable(bare[1])}"'
    return _refusal(path, f"not valid TOML: {reason} ({place})", line)


def _open_to_all(path: Path, files: Sequence[_File]) -> Iterator[ConfigProblem]:
    """Warnings on the files and directories of the configuration that everybody may write."""
    directory = Path(f"{path}.d")
    for file in (*(Path(file.name) for file in files), directory):
        if _mode(file) & stat.S_IWOTH:
            reason = "everybody may write it, and so decide what the daemon does; chmod o-w"
            yield ConfigProblem(str(file), 0, "", reason, warning=True)
    above = _mode(path.parent)
    # In a directory with the sticky bit (chmod +t) others cannot replace what exists
    if above & stat.S_IWOTH and not (above & stat.S_ISVTX and directory.exists()):
        reason = (
            f"everybody may write in {path.parent}, and put {directory.name}/*.toml there, which is read too;"
            " take a directory of your own"
        )
        yield ConfigProblem(str(path), 0, "", reason, warning=True)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


# -- merging


def _merge_all(files: Sequence[_File]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for file in files:
        for section in Config.kinds():
            for name in _keys(file.tables.get(section)) & _keys(tables.get(section)):
                get_logger().debug("worker.overridden", worker=f"{section}/{name}", file=file.name)
        tables = _merge(tables, file.tables)
    return tables


def _keys(table: object) -> set[str]:
    return set(table) if isinstance(table, dict) else set()


def _merge(base: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """``later`` over ``base``; an output of another kind replaces the old one, as their keys do not mix."""
    kind = later.get("kind")
    if isinstance(kind, str) and base.get("kind", "file") != kind:
        return later
    merged = base | later
    for key in base.keys() & later.keys():
        if isinstance(base[key], dict) and isinstance(later[key], dict):
            merged[key] = _merge(base[key], later[key])
    return merged


# -- locating


def _locate(
    complaints: Sequence[Complaint], files: Sequence[_File], *, warning: bool = False
) -> list[ConfigProblem]:
    """Each complaint with the file that has the last word on its key, or on the table it is missing from."""
    lines = [(file.name, positions(file.text)) for file in reversed(files)]
    problems = set()
    for complaint in complaints:
        location = complaint.location[:-1] if complaint.missing else complaint.location
        found = [(*nearest(of_file, location), name) for name, of_file in lines]
        _, line, file = max(found, key=lambda candidate: candidate[0])
        problems.add(ConfigProblem(file, line, complaint.path(), complaint.reason, warning))
    return sorted(problems)
