"""The daemon and its workers as seen over the control socket: one definition for both ends.

As JSON (the control socket, ``mcastctl status --json``) each class is an object of its fields, in their
order: see codec.py. The status of a worker has a class for each kind: see status.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mcastd.codec import as_json, from_json


@dataclass(frozen=True, slots=True)
class Status:
    """The settings and counters of a worker at one moment: the base of each kind's own dataclass."""


AnyStatus = Mapping[str, object] | Status
"""A status as JSON from another process, maybe of another version, or as an object of this one."""
S = TypeVar("S", bound=Status)


def as_kind(kind: type[S], status: AnyStatus | None) -> S:
    """Return ``status`` as one of this kind; fields that it lacks get their empty values."""
    if isinstance(status, kind):
        return status
    return from_json(kind, as_json(status) if isinstance(status, Status) else status)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as it is seen from outside at one moment."""

    name: str  # its table and its name there: "outbound/tv"
    kind: str  # its table: "outbound", "inbound" and so on
    state: str  # "inactive", "activating", "active", "deactivating", "auto-restart", "failed" or "finished"
    since: float  # seconds in this state
    detail: str  # why it is not active, or what it does
    restarts: int  # runs that failed
    troubled: bool = False  # not as it should be, for the reason in the detail
    errno: str = ""  # of the error that the detail describes: "EPERM"; "" if the kernel has no part in it
    way_out: str = ""  # what a person can do
    waits: str = ""  # what the worker does meanwhile: "waiting for it"
    status: AnyStatus  # its settings and counters, which are those of its kind


@dataclass(frozen=True, slots=True)
class DaemonView:
    """The daemon itself."""

    version: str  # of the program
    pid: int  # its process
    config: str  # path
    since: float  # seconds that it has run
    summary: str  # "3 of 4 workers active; inbound/news waiting for eth7"
    disabled: Sequence[str] = ()  # workers that the configuration has, and that do not run
    notes: Sequence[str] = ()  # what differs between the daemon and its configuration on disk


@dataclass(frozen=True, slots=True)
class ReloadView:
    """What a reload did: workers by name, and notes for people."""

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    changed: Sequence[str] = ()
    unchanged: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class VitalsView:
    """What a worker has done: see worker.Vitals."""

    name: str
    datagrams: int
    payload_bytes: int
    dropped: int
    overflow: int
    refused: int
    late: int
    stale: bool
    last_source: str
    last_datagram_age: float | None  # seconds
    held: int = 0
    files: int = 0
    files_percent: float | None = None
    lost: int = 0
    players: int = 0


@dataclass(frozen=True, slots=True)
class MonitorView:
    """What has changed of all workers since the reply before: made in control/monitor.py."""

    at: float  # seconds, on a clock of the daemon's
    states: Sequence[WorkerView]  # without a status
    vitals: Sequence[VitalsView] | None
    removed: Sequence[str]  # names
