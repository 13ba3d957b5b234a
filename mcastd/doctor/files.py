"""Sources, in the eyes of this process's user: there, of the right kind, with room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mcastd.config import OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import (
    Permit,
    by_drop_in,
    own_unit,
    permit,
    private_directory,
    refused,
    user,
)
from mcastd.doctor.quoting import command, toml
from mcastd.doctor.subject import Subject
from mcastd.errors import UnsafePathError
from mcastd.paths import KINDS, place_of

PROC = Path("/proc")  # whose files have a size of 0, whatever is in them, and which ProcSubset= hides


def source(subject: Subject[OutboundChannel], _evidence: Evidence) -> Iterator[Said]:
    """Check that a channel's source can be read, and is not empty. Of a directory only that it is there."""
    if (path := subject.settings.source.file) is None:
        return
    said = f"source = {str(path)!r} ({subject.table})"
    if unsafe := _unsafe_source(subject, path, said):
        yield unsafe
        return
    if refusal := refused(path, os.R_OK):
        where, why = refusal
        missing = not os.path.exists(where) and os.access(where.parent, os.X_OK, effective_ids=True)
        if missing:
            private, hidden = private_directory(path), _hidden(path)
            yield Finding(
                "source-missing",
                Severity.BROKEN,
                f"its source {path} is not there"
                + ("" if where == path else f": {where} is missing")
                + (f"; this service has a {private} of its own" if private else ""),
                (said, f"{where}: {why} (stat)", *seen(private)),
                hidden.words if hidden else f"create it, or name another source in {subject.table}",
                ways=hidden.ways if hidden else (),
            )
        else:
            fix = permit(where, os.X_OK if where != path else os.R_OK)
            yield Finding(
                "source-unreadable",
                Severity.BROKEN,
                f"user {user()} may not read its source {path}",
                (said, f"{where}: {why} (access)"),
                fix.words,
                ways=fix.ways,
            )
        return
    found = path.stat()
    files = subject.settings.protocol.of_files
    if (kind := stat.S_IFMT(found.st_mode)) not in (stat.S_IFREG, stat.S_IFDIR if files else stat.S_IFIFO):
        may_be_files = kind == stat.S_IFDIR and subject.settings.framing != "capture"
        yield Finding(
            "source-not-a-file",
            Severity.BROKEN,
            f"its source {path} is {KINDS.get(kind, 'something else')}, and cannot be sent",
            (said, f"{path}: {KINDS.get(kind)} (stat)"),
            f"name a file or a {'directory' if files else 'FIFO'} as source in {subject.table}"
            + (', or let it have protocol = "flute", and a rate' if may_be_files else ""),
        )
    elif kind == stat.S_IFREG and not files and not subject.settings.follow and _is_empty(path, found):
        may_grow = subject.settings.repeat == 1 and subject.settings.framing != "file"
        yield Finding(
            "source-empty",
            Severity.BROKEN,
            f"its source {path} is empty: there is nothing to send",
            (said, f"{path}: 0 bytes (stat)"),
            "write something into it"
            + (f"; for a file that is to grow: follow = true in {subject.table}" if may_grow else ""),
            ways=(Way(table=subject.table, lines=("follow = true",)),) if may_grow else (),
        )


def _unsafe_source(subject: Subject[OutboundChannel], path: Path, said: str) -> Finding | None:
    """By a link of others the daemon would read for them what they may not read themselves."""
    try:
        with place_of(path):
            return None
    except OSError:  # told below
        return None
    except UnsafePathError as error:
        cause, owner = error.cause, error.uid
    target = os.path.realpath(path)
    line = ""
    with suppress(OSError):
        if os.stat(target).st_uid == owner:  # they might have put it there themselves
            line = f"source = {toml(target)}"
    return Finding(
        "source-unsafe",
        Severity.BROKEN,
        f"its source {path} leads elsewhere by a link that is not followed: {cause}",
        (said, f"it leads to {target} (readlink)"),
        f"if you mean that: {line} in {subject.table}"
        if line
        else f"see whose link leads where: {command('namei', '-l', path)}; name another source in"
        f" {subject.table}",
        ways=(Way(table=subject.table, lines=(line,)),) if line else (),
    )


def _hidden(path: Path) -> Permit | None:
    """What shows a path that the sandbox of the service hides, if it is one of those."""
    if unit := own_unit():
        if path.is_relative_to(PROC):
            return by_drop_in(unit, "ProcSubset=all")
        if private_directory(path):
            return by_drop_in(unit, "PrivateTmp=no")
    return None


def seen(private: str) -> tuple[str, ...]:
    """The evidence of a directory that is of this service alone, if there is one."""
    return (f"{private} is a mount of this service's own (mountinfo)",) if private else ()


def _is_empty(path: Path, found: os.stat_result) -> bool:
    """A file of /proc or /sys tells its size only to a reader."""
    if found.st_size:
        return False
    with path.open("rb", buffering=0) as file:
        return not file.read(1)
