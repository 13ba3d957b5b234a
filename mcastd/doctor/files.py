"""Sources and outputs, in the eyes of this process's user: there, of the right kind, with room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mcastd.config import FifoOutput, FileOutput, InboundSubscription, OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import (
    Permit,
    by_drop_in,
    own_unit,
    permit,
    permit_directory,
    private_directory,
    refused,
    user,
)
from mcastd.doctor.quoting import command, toml
from mcastd.doctor.subject import Subject
from mcastd.errors import UnsafePathError
from mcastd.inbound.sinks.account import EXPECTED
from mcastd.paths import KINDS, place_of
from mcastd.status import OutputStatus, SubscriptionStatus

PROC = Path("/proc")  # whose files have a size of 0, whatever is in them, and which ProcSubset= hides


def source(subject: Subject[OutboundChannel], _evidence: Evidence) -> Iterator[Said]:
    """Whether a channel's source can be read, and has something in it."""
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
                (said, f"{where}: {why} (stat)", *_seen(private)),
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
    if (kind := stat.S_IFMT(found.st_mode)) not in (stat.S_IFREG, stat.S_IFIFO):
        yield Finding(
            "source-not-a-file",
            Severity.BROKEN,
            f"its source {path} is {KINDS.get(kind, 'something else')}, and cannot be sent",
            (said, f"{path}: {KINDS.get(kind)} (stat)"),
            f"name a file or a FIFO as source in {subject.table}",
        )
    elif kind == stat.S_IFREG and not subject.settings.follow and _is_empty(path, found):
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


def _seen(private: str) -> tuple[str, ...]:
    """The evidence of a directory that is of this service alone, if there is one."""
    return (f"{private} is a mount of this service's own (mountinfo)",) if private else ()


def _is_empty(path: Path, found: os.stat_result) -> bool:
    """A file of /proc or /sys tells its size only to a reader."""
    if found.st_size:
        return False
    with path.open("rb", buffering=0) as file:
        return not file.read(1)


def outputs(subject: Subject[InboundSubscription], _evidence: Evidence) -> Iterator[Said]:
    """Whether each output takes what it is given."""
    told = [
        {output.path: output for output in status.outputs}
        for status in (subject.now(SubscriptionStatus), subject.before(SubscriptionStatus))
    ]
    for output in subject.settings.output:
        state, earlier = (by_path.get(str(output.path)) for by_path in told)
        yield from _output(subject, output, state, earlier)


def _output(
    subject: Subject[InboundSubscription],
    output: FileOutput | FifoOutput,
    state: OutputStatus | None,
    earlier: OutputStatus | None,
) -> Iterator[Said]:
    path = output.path
    said = f"output {str(path)!r} ({subject.table})"
    # What it has open it keeps, whatever becomes of the path
    takes = state is not None and state.error is None
    findings = list(_path(subject, output, said, takes)) or list(_room(output, said))
    if not findings and (private := private_directory(path)):
        yield _unseen(subject, output, said, private)
    if not findings and output.kind == "fifo" and state is not None:
        findings = list(_reader(path, said, state, earlier))
    yield from findings
    if not findings and state is not None and state.error:
        yield Finding(
            "output-failing",
            Severity.BROKEN,
            state.error,
            (said, f"its error and drops: {dict(state.counters.dropped)} (status)"),
            state.way_out or "see the log",
        )


def _unseen(
    subject: Subject[InboundSubscription], output: FileOutput | FifoOutput, said: str, private: str
) -> Finding:
    """An output in the service's private /tmp. The fix is one of its own directories, which all can see."""
    directories = os.environ.get("LOGS_DIRECTORY" if output.kind == "file" else "RUNTIME_DIRECTORY", "")
    line = ""
    if directory := directories.partition(":")[0]:
        line = _moved(subject, output, Path(directory) / output.path.name, output.kind)
    return Finding(
        "output-private",
        Severity.WARNING,
        f"no other program finds its output {output.path}: this service has a {private} of its own",
        (said, *_seen(private)),
        f"{line or 'give a path elsewhere as output'} in {subject.table}",
        ways=(Way(table=subject.table, lines=(line,)),) if line else (),
    )


def _path(
    subject: Subject[InboundSubscription], output: FileOutput | FifoOutput, said: str, takes: bool
) -> Iterator[Finding]:
    """Whether it can be opened, or made."""
    path = output.path
    wanted = stat.S_IFREG if output.kind == "file" else stat.S_IFIFO
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:  # told below, with the directory that refuses
        pass
    else:
        if kind != wanted:
            there = {stat.S_IFREG: "file", stat.S_IFIFO: "fifo"}.get(kind)
            line = _moved(subject, output, path, there) if there else ""
            yield Finding(
                "output-wrong-kind",
                Severity.BROKEN,
                f"its output {path} is not {KINDS[wanted]} but {KINDS.get(kind, 'something else')}",
                (said, f"{path}: {KINDS.get(kind)} (stat)"),
                f"give another path as output in {subject.table}"
                + (f", or write to what is there: {line}" if line else ""),
                ways=(Way(table=subject.table, lines=(line,)),) if line else (),
            )
        elif refusal := refused(path, os.W_OK):
            where, why = refusal
            fix = permit(where, os.W_OK if where == path else os.X_OK)
            yield Finding(
                "output-unwritable",
                Severity.WARNING if takes else Severity.BROKEN,
                f"user {user()} may not write to its output {path}"
                + (": it goes on only until it is opened again" if takes else ""),
                (said, f"{where}: {why} (access)"),
                fix.words,
                ways=fix.ways,
            )
        return
    nearest = next(parent for parent in path.parents if os.path.exists(parent) or parent == parent.parent)
    if refusal := refused(nearest, os.W_OK | os.X_OK):
        where, why = refusal
        fix, directory = permit(where, os.X_OK), path.parent
        if where == nearest:
            fix, directory = permit_directory(path.parent)
        words, way = fix.words, fix.way
        if directory != path.parent:
            line = _moved(subject, output, directory / path.name, output.kind)
            there = f"{line or f'give a path in {directory} as output'} in {subject.table}"
            words = f"{words}; then {there}" if words else there
            way = replace(way, table=subject.table, lines=(line,)) if line else Way()
        yield Finding(
            "output-directory",
            Severity.BROKEN,
            f"user {user()} may not create its output {path} in {where}",
            (said, f"{where}: {why} (access)"),
            words,
            ways=Permit(words, way).ways,
        )
    elif not nearest.is_dir():
        yield Finding(
            "output-directory",
            Severity.BROKEN,
            f"its output {path} cannot be created: {nearest} is no directory",
            (said, f"{nearest}: {KINDS.get(stat.S_IFMT(nearest.stat().st_mode))} (stat)"),
            f"give another path as output in {subject.table}",
        )


def _moved(
    subject: Subject[InboundSubscription], output: FileOutput | FifoOutput, path: Path, kind: str
) -> str:
    """A line that names another path or kind for an output, if that is all which is said of it."""
    if len(subject.settings.output) != 1 or output.model_fields_set - {"kind", "path"}:
        return ""
    if kind == "file":
        return f"output = {toml(str(path))}"
    return f'output = {{ kind = "{kind}", path = {toml(str(path))} }}'


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
            f"make room: {command('du', '-x', path.parent)}; rotate_size and keep bound what an output takes",
        )
    elif room.f_files and not room.f_ffree and not output.path.exists():
        yield Finding(
            "disk-full",
            Severity.BROKEN,
            f"the file system of its output {output.path} has no inode left for a new file",
            (said, f"free: 0 of {room.f_files} inodes (statvfs {path})"),
            "remove files there: each takes an inode, however small",
        )


def _reader(path: Path, said: str, state: OutputStatus, earlier: OutputStatus | None) -> Iterator[Finding]:
    """What the worker met. To open the pipe ourselves would wake a reader that waits, and then end it."""
    if state.reason not in EXPECTED:
        return
    now = state.counters.dropped
    before = now if earlier is None else earlier.counters.dropped
    lost = sum(now[reason] - before[reason] for reason in EXPECTED)
    yield Finding(
        "fifo-no-reader",
        Severity.WARNING if lost else Severity.HINT,
        f"nobody reads the pipe {path}: what comes is dropped"
        if lost
        else f"nobody read the pipe {path} when it was last tried; nothing came since",
        (said, f"error: {state.error}; dropped: {dict(now)} (status)"),
        f"start its reader: {command('cat', path)}",
    )
