"""Outputs, in the eyes of this process's user: of the right kind, with room; and what they say themselves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mcastd.config import (
    OUTPUTS,
    DirectoryOutput,
    FifoOutput,
    InboundSubscription,
    KafkaOutput,
    NatsOutput,
    OutputPath,
    OutputSettings,
    RedisOutput,
    TcpServerOutput,
    UnixOutput,
)
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.files import seen
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import Permit, permit, permit_directory, private_directory, refused, user
from mcastd.doctor.quoting import command, counted, toml
from mcastd.doctor.received_files import hindered
from mcastd.doctor.subject import Subject
from mcastd.inbound.sinks.account import EXPECTED, UNREACHABLE
from mcastd.inbound.sinks.returned import CIRCLE
from mcastd.inbound.sinks.stream import NO_READER
from mcastd.paths import KINDS
from mcastd.status import OutputStatus, SubscriptionStatus

# How a program gets what is for it, by the kind of output.
WAYS_TO_PROGRAMS: Mapping[type[OutputSettings], str] = {
    UnixOutput: "start the program that makes the socket; or give the path that it has",
    TcpServerOutput: "have its program connect there: it gets what comes from then on",
}
# The kind of output that writes to what is there.
WRITES = {stat.S_IFREG: "file", stat.S_IFIFO: "fifo"}


class Looked(NamedTuple):
    """An output, as it is configured and as it runs."""

    output: OutputSettings
    said: str  # evidence: where it is configured
    state: OutputStatus | None
    earlier: OutputStatus | None  # when the watch began


def outputs(subject: Subject[InboundSubscription], _evidence: Evidence) -> Iterator[Said]:
    """Whether each output takes what it is given."""
    told = [
        {output.path: output for output in status.outputs}
        for status in (subject.now(SubscriptionStatus), subject.before(SubscriptionStatus))
    ]
    for output in subject.settings.output:
        state, earlier = (by_label.get(output.label) for by_label in told)
        looked = Looked(output, f"output {output.label!r} ({subject.table})", state, earlier)
        yield from (replace(found, part=output.label) for found in _output(subject, looked))


def _output(subject: Subject[InboundSubscription], looked: Looked) -> Iterator[Finding]:
    state, written = looked.state, looked.output.paths()
    findings = [found for one in written for found in _written(subject, looked, one)]
    if not findings:
        for one in written:
            if private := private_directory(one.path):
                yield _unseen(subject, looked, one, private)
        if check := CHECKS.get(type(looked.output)):
            findings = list(check(looked))
    if not findings and state is not None and state.error:
        findings = [_failing(state, looked)]
    yield from findings


def _failing(state: OutputStatus, looked: Looked) -> Finding:
    """What an output says of itself, where nothing else explains it."""
    error = state.error or ""
    way_out = state.way_out
    if not way_out and state.reason in {UNREACHABLE, NO_READER}:
        way_out = WAYS_TO_PROGRAMS.get(type(looked.output), "")
    if not way_out and state.reason == UNREACHABLE:
        way_out = (
            "see whether it runs, its name resolves here (getent hosts NAME), and the network leads there"
            " (ip route)"
        )
    what = error.partition(f"; {state.way_out}")[0] if state.way_out else error
    evidence = (looked.said, f"dropped: {counted(state.counters.dropped)} (status)")
    if state.reason == CIRCLE:
        return Finding("circle", Severity.BROKEN, what, evidence, way_out)
    fix = way_out or "mend the cause: the output is tried again by itself"
    severity = Severity.WARNING if state.reason == NO_READER else Severity.BROKEN  # as of a pipe
    return Finding("output-failing", severity, what, evidence, fix)


def _written(subject: Subject[InboundSubscription], looked: Looked, one: OutputPath) -> list[Finding]:
    findings = list(_path(subject, looked, one))
    if not findings and one.type != stat.S_IFIFO:
        findings = list(_room(one, looked.said))
    return findings


def _unseen(
    subject: Subject[InboundSubscription], looked: Looked, written: OutputPath, private: str
) -> Finding:
    """An output in the service's private /tmp. The fix is one of its own directories, which all can see."""
    path = written.path
    directories = os.environ.get(
        "RUNTIME_DIRECTORY" if written.type == stat.S_IFIFO else "LOGS_DIRECTORY", ""
    )
    line = ""
    if directory := directories.partition(":")[0]:
        line = _moved(subject, looked.output, Path(directory) / path.name)
    return Finding(
        "output-private",
        Severity.WARNING,
        f"no other program finds its output {path}: this service has a {private} of its own",
        (looked.said, *seen(private)),
        f"{line or 'give a path elsewhere as output'} in {subject.table}",
        ways=(Way(table=subject.table, lines=(line,)),) if line else (),
    )


def _path(subject: Subject[InboundSubscription], looked: Looked, written: OutputPath) -> Iterator[Finding]:
    """Whether it can be opened, or made."""
    path, wanted, output, said = written.path, written.type, looked.output, looked.said
    # What it has open it keeps, whatever becomes of the path
    takes = looked.state is not None and looked.state.error is None
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:  # told below, with the directory that refuses
        pass
    else:
        if kind != wanted:
            there = "" if output.takes_objects else WRITES.get(kind, "")
            line = _moved(subject, output, path, there) if there else ""
            yield Finding(
                "output-wrong-kind",
                Severity.BROKEN,
                f"its output {path} is not {KINDS[wanted]} but {KINDS.get(kind, 'something else')}",
                (said, f"{path}: {KINDS.get(kind)} (stat)"),
                f"give another path as {written.setting} in {subject.table}"
                + (f", or write to what is there: {line}" if line else ""),
                ways=(Way(table=subject.table, lines=(line,)),) if line else (),
            )
        elif refusal := refused(path, wants := os.W_OK | (os.X_OK if wanted == stat.S_IFDIR else 0)):
            where, why = refusal
            fix = permit(where, wants if where == path else os.X_OK)
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
        base = path if wanted == stat.S_IFDIR else path.parent
        fix, directory = permit(where, os.X_OK), base
        if where == nearest:
            fix, directory = permit_directory(base)
        words, way = fix.words, fix.way
        if directory != base:
            line = _moved(subject, output, directory / path.name)
            there = f"{line or f'give a path in {directory} as {written.setting}'} in {subject.table}"
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
            f"give another path as {written.setting} in {subject.table}",
        )


def _moved(subject: Subject[InboundSubscription], output: OutputSettings, path: Path, kind: str = "") -> str:
    """A line that names another path or kind for an output, if that is all which is said of it."""
    if len(subject.settings.output) != 1 or output.model_fields_set - {"kind", "path"}:
        return ""
    if (kind := kind or output.kind) == OUTPUTS.first:
        return f"output = {toml(str(path))}"
    return f'output = {{ kind = "{kind}", path = {toml(str(path))} }}'


def _room(written: OutputPath, said: str) -> Iterator[Finding]:
    output = written.path
    path = next(one for one in (output, *output.parents) if os.path.exists(one))
    try:
        room = os.statvfs(path)
    except OSError:  # not every file system tells, as one of FUSE without statfs
        return
    free = (room.f_bfree if os.geteuid() == 0 else room.f_bavail) * room.f_frsize
    if room.f_blocks and free < room.f_frsize:
        yield Finding(
            "disk-full",
            Severity.BROKEN,
            f"the file system of its output {output} is full: datagrams are dropped until there is room",
            (said, f"free: {free} of {room.f_blocks * room.f_frsize} bytes (statvfs {path})"),
            f"make room: {command('du', '-x', path.parent)}"
            + ("; rotate_size and keep bound what an output takes" if written.type == stat.S_IFREG else ""),
        )
    elif room.f_files and not room.f_ffree and not output.exists():
        yield Finding(
            "disk-full",
            Severity.BROKEN,
            f"the file system of its output {output} has no inode left for a new file",
            (said, f"free: 0 of {room.f_files} inodes (statvfs {path})"),
            "remove files there: each takes an inode, however small",
        )


def _reader(looked: Looked) -> Iterator[Finding]:
    """What the worker met. To open the pipe ourselves would wake a reader that waits, and then end it."""
    state, earlier, path = looked.state, looked.earlier, looked.output.label
    if state is None or state.reason not in EXPECTED:
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
        (looked.said, f"error: {state.error} (status)", f"dropped: {counted(now)} (status)"),
        f"start its reader: {command('cat', path)}",
    )


def _files(looked: Looked) -> Iterator[Finding]:
    output, state = looked.output, looked.state
    if isinstance(output, DirectoryOutput) and state is not None and state.objects is not None:
        yield from hindered(output, looked.said, state, state.objects)


def _engine(looked: Looked) -> Iterator[Finding]:
    """Whether a server acknowledges: it is connected, and nothing is refused, or it would be an error."""
    state, earlier = looked.state, looked.earlier
    if state is None or earlier is None or state.error or state.engine is None or earlier.engine is None:
        return
    engine = state.engine
    if engine.server is None or not (engine.in_flight and earlier.engine.in_flight):
        return
    before = earlier.engine
    if (state.counters.written, engine.duplicates) == (earlier.counters.written, before.duplicates):
        yield Finding(
            "engine-silent",
            Severity.WARNING,
            f"{engine.server} acknowledges nothing of what it was sent",
            (
                looked.said,
                f"sent, and not acknowledged: {engine.in_flight} of {engine.waiting} that wait (status)",
                "acknowledged while watched: 0 (status)",
            ),
            "see whether the server is busy, or hangs",
        )


# By the settings of a kind of output: what its paths, and its error, do not tell.
CHECKS: Mapping[type[OutputSettings], Callable[[Looked], Iterator[Finding]]] = {
    DirectoryOutput: _files,
    FifoOutput: _reader,
    NatsOutput: _engine,
    RedisOutput: _engine,
    KafkaOutput: _engine,
}
