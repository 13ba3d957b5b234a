"""What a check says: a finding with its evidence, or why it could not look."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad it is, worst first."""

    BROKEN = "broken"  # datagrams do not go where they should
    WARNING = "warning"  # they do, or did, but not all, or not for long
    HINT = "hint"  # nothing is wrong that could be seen; worth knowing when something is

    @classmethod
    def _missing_(cls, value: object) -> Severity:
        """A word of another version: as bad as can be."""
        return cls.BROKEN


@dataclass(frozen=True, slots=True)
class Way:
    """A part of a fix that a program can carry out: the command, then the lines, then a reload or restart.

    Each is in the words of the fix, too.
    """

    command: str = ""  # for a shell of root on this host
    table: str = ""  # of the configuration, that gets ``lines`` instead of those with the same keys
    lines: tuple[str, ...] = ()
    unit: str = ""  # a service, whose drop-in gets ``service`` as a line of [Service], and which restarts
    service: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may go wrong."""

    cause: str  # a stable id, see causes.py: "firewall-drop"
    severity: Severity
    what: str  # one plain sentence, without a full stop
    evidence: tuple[str, ...]  # each a value that was read, and where: "rp_filter = 1 (/proc/sys/net/...)"
    fix: str  # a command or a line of the configuration
    worker: str = ""  # "inbound/news"; "" is the host as a whole
    ways: tuple[Way, ...] = ()  # alternatives, each of which mends it; none: it takes a person
    part: str = ""  # of the worker, that it is about: an output, a leg; "" is the worker as a whole


@dataclass(frozen=True, slots=True)
class Skipped:
    """A check, or a part of one, that could not look."""

    check: str  # its name: see examine.name_of
    reason: str  # "needs root (CAP_NET_RAW)"
    worker: str = ""
    privileged: bool = False  # somebody with more privileges could look


Said = Finding | Skipped


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, each worker's together and worst first; what could not be looked at; and what was."""

    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    workers: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    watched: float = 0.0  # seconds
