"""Sources and outputs, in the eyes of this process's user: there, of the right kind, with room."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcastd.config import FifoOutput, FileOutput, OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.subject import Subject
from mcastd.inbound.sinks.account import EXPECTED
from mcastd.inbound.sinks.paths import KINDS

UNIT = "systemctl edit mcastd"


def source(subject: Subject, _evidence: Evidence) -> Iterator[Said]:
    """Whether a channel's source can be read, and has something in it."""
    if not isinstance(subject.settings, OutboundChannel):
        return
    path = subject.settings.source
    said = f"source = {str(path)!r} ({subject.table})"
    if refusal := refused(path, os.R_OK):
        where, why = refusal
        missing = not os.path.exists(where) and os.access(where.parent, os.X_OK, effective_ids=True)
        if missing:
            yield Finding(
                "source-missing",
                Severity.BROKEN,
                f"its source {path} is not there" + ("" if where == path else f": {where} is missing"),
                (said, f"{where}: {why} (stat)"),
                f"create it, or name another source in {subject.table}",
            )
        else:
            yield Finding(
                "source-unreadable",
                Severity.BROKEN,
                f"user {user()} may not read its source {path}",
                (said, f"{where}: {why} (access)"),
                permit(where, "x" if where != path else "r"),
            )
        return
    found = path.stat()
    if (kind := stat.S_IFMT(found.st_mode)) not in (stat.S_IFREG, stat.S_IFIFO):
        yield Finding(
            "source-not-a-file",
            Severity.BROKEN,
            f"its source {path} is {KINDS.get(kind, 'something else')}, and cannot be sent",
            (said, f"{path}: {KINDS.get(kind)} (stat)"),
            f"name a file or a FIFO as source in {subject.table}",
        )
    elif kind == stat.S_IFREG and not found.st_size and not subject.settings.follow:
        yield Finding(
            "source-empty",
            Severity.BROKEN,
            f"its source {path} is empty: there is nothing to send",
            (said, f"{path}: 0 bytes (stat)"),
            f"write something into it; for a file that is to grow: follow = true in {subject.table}",
        )


def outputs(subject: Subject, _evidence: Evidence) -> Iterator[Said]:
    """Whether each output takes what it is given."""
    if isinstance(subject.settings, OutboundChannel):
        return
    told = [
        {output["path"]: output for output in status.get("outputs", ())}
        for status in (subject.status, subject.earlier)
    ]
    for output in subject.settings.output:
        state, earlier = (by_path.get(str(output.path), {}) for by_path in told)
        yield from _output(subject, output, state, earlier)


def _output(
    subject: Subject, output: FileOutput | FifoOutput, state: Mapping[str, Any], earlier: Mapping[str, Any]
) -> Iterator[Said]:
    path = output.path
    said = f"output {str(path)!r} ({subject.table})"
    takes = bool(state) and state["error"] is None  # what it has open it keeps, whatever becomes of the path
    findings = list(_path(output, said, takes)) or list(_room(output, said))
    if not findings and output.kind == "fifo":
        findings = list(_reader(path, said, state, earlier))
    yield from findings
    if not findings and (error := state.get("error")):
        what, _, way_out = str(error).rpartition("; ")
        yield Finding(
            "output-failing",
            Severity.BROKEN,
            what or str(error),
            (said, f"its error and drops: {state.get('counters', {}).get('dropped')} (status)"),
            way_out or "see the log",
        )


def _path(output: FileOutput | FifoOutput, said: str, takes: bool) -> Iterator[Finding]:
    """Whether it can be opened, or made."""
    path = output.path
    wanted = stat.S_IFREG if output.kind == "file" else stat.S_IFIFO
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:  # told below, with the directory that refuses
        pass
    else:
        if kind != wanted:
            yield Finding(
                "output-wrong-kind",
                Severity.BROKEN,
                f"its output {path} is not {KINDS[wanted]} but {KINDS.get(kind, 'something else')}",
                (said, f"{path}: {KINDS.get(kind)} (stat)"),
                f"remove it, or give another path, or kind = {'fifo' if kind == stat.S_IFIFO else 'file'!r}",
            )
        elif refusal := refused(path, os.W_OK):
            where, why = refusal
            yield Finding(
                "output-unwritable",
                Severity.WARNING if takes else Severity.BROKEN,
                f"user {user()} may not write to its output {path}"
                + (": it goes on only until it is opened again" if takes else ""),
                (said, f"{where}: {why} (access)"),
                permit(where, "w"),
            )
        return
    nearest = next(parent for parent in path.parents if os.path.exists(parent) or parent == parent.parent)
    if refusal := refused(nearest, os.W_OK | os.X_OK):
        where, why = refusal
        yield Finding(
            "output-directory",
            Severity.BROKEN,
            f"user {user()} may not create its output {path} in {where}",
            (said, f"{where}: {why} (access)"),
            permit(where, "wx"),
        )
    elif not nearest.is_dir():
        yield Finding(
            "output-directory",
            Severity.BROKEN,
            f"its output {path} cannot be created: {nearest} is no directory",
            (said, f"{nearest}: {KINDS.get(stat.S_IFMT(nearest.stat().st_mode))} (stat)"),
            "remove it, or give another path",
        )


def _room(output: FileOutput | FifoOutput, said: str) -> Iterator[Finding]:
    if output.kind != "file":
        return
    path = next(one for one in (output.path, *output.path.parents) if os.path.exists(one))
    room = os.statvfs(path)
    free = (room.f_bfree if os.geteuid() == 0 else room.f_bavail) * room.f_frsize
    if room.f_blocks and free < room.f_frsize:
        yield Finding(
            "disk-full",
            Severity.BROKEN,
            f"the file system of its output {output.path} is full: datagrams are dropped until there is room",
            (said, f"free: {free} of {room.f_blocks * room.f_frsize} bytes (statvfs {path})"),
            f"make room: du -x {path.parent}; rotate_size and keep bound what an output takes",
        )
    elif room.f_files and not room.f_ffree and not output.path.exists():
        yield Finding(
            "disk-full",
            Severity.BROKEN,
            f"the file system of its output {output.path} has no inode left for a new file",
            (said, f"free: 0 of {room.f_files} inodes (statvfs {path})"),
            "remove files there: each takes an inode, however small",
        )


def _reader(path: Path, said: str, state: Mapping[str, Any], earlier: Mapping[str, Any]) -> Iterator[Finding]:
    """What the worker met. To open the pipe ourselves would wake a reader that waits, and then end it."""
    if state.get("reason") not in EXPECTED:
        return
    now, before = (one.get("counters", {}).get("dropped", {}) for one in (state, earlier))
    lost = sum(now.get(reason, 0) - before.get(reason, 0) for reason in EXPECTED) if earlier else 0
    yield Finding(
        "fifo-no-reader",
        Severity.WARNING if lost else Severity.HINT,
        f"nobody reads the pipe {path}: what comes is dropped"
        if lost
        else f"nobody read the pipe {path} when it was last tried; nothing came since",
        (said, f"error: {state['error']}; dropped: {now} (status)"),
        f"start its reader: cat {path}",
    )


# -- who may what


def refused(path: Path, mode: int) -> tuple[Path, str] | None:
    """The part of ``path`` at which access ends, as namei(1) shows it, and why; None if it is granted."""
    for directory in reversed(path.parents):
        if not os.path.exists(directory):
            return directory, "no such directory"
        if not os.access(directory, os.X_OK, effective_ids=True):
            return directory, f"not to be entered: {permissions(directory)}"
    if not os.path.exists(path):
        return path, "no such file or directory"
    if os.access(path, mode, effective_ids=True):
        return None
    if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
        return path, "on a file system that is mounted read-only"
    return path, permissions(path)


def permissions(path: Path) -> str:
    found = path.stat()
    return f"{stat.filemode(found.st_mode)} {_name(found.st_uid)} {_group(found.st_gid)}"


def permit(path: Path, letters: str) -> str:
    """A command that lets this process's user do it; below systemd a mount may be what refuses."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{UNIT}: [Service] ReadWritePaths={path}"
    return f"setfacl -m u:{user()}:{letters} {path}  (or chown, chmod)"


def user() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
