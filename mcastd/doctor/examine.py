"""The examination: watch, run every check, and put what was found in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mcastd import log
from mcastd.doctor.causes import EXPLAINS, RANK
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped
from mcastd.doctor.subject import Subject

Check = Callable[[Subject, Evidence], Iterator[Said]]
HostCheck = Callable[[Evidence], Iterator[Said]]

CHECKS: tuple[Check, ...] = ()  # in the order of the path that a datagram takes
HOST_CHECKS: tuple[HostCheck, ...] = ()

SEVERITIES = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, worst first and each worker's together, and what could not be looked at."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]


def name_of(check: Check | HostCheck) -> str:
    return check.__name__.replace("_", "-")


def examine(subjects: Sequence[Subject], evidence: Evidence, only: Collection[str] | None = None) -> Report:
    """Run the checks, those named ``only`` if given, on each of the subjects and on the host."""
    said: list[Said] = []
    for subject in subjects:
        for check in CHECKS:
            if only is None or name_of(check) in only:
                said += (replace(one, worker=subject.name) for one in _run(check, subject, evidence))
    for host_check in HOST_CHECKS:
        if only is None or name_of(host_check) in only:
            said += _run(host_check, evidence)
    return report(said)


def report(said: Iterable[Said]) -> Report:
    """In order, without what others explain."""
    said = list(dict.fromkeys(said))
    return Report(
        tuple(_in_order([one for one in said if isinstance(one, Finding)])),
        tuple(one for one in said if isinstance(one, Skipped)),
    )


def _run(check: Callable[..., Iterator[Said]], *arguments: object) -> list[Said]:
    said: list[Said] = []
    try:
        said.extend(check(*arguments))
    except Exception as error:  # a host that nobody thought of must not cost the user the other checks
        log.get_logger().exception("check.crashed", check=name_of(check))
        said.append(Skipped(name_of(check), f"failed: {type(error).__name__}: {error}"))
    return said


def _in_order(findings: list[Finding]) -> list[Finding]:
    def rank(finding: Finding) -> tuple[int, int]:
        return SEVERITIES.index(finding.severity), RANK[finding.cause]

    told = [finding for finding in findings if not any(_explains(other, finding) for other in findings)]
    by_worker: dict[str, list[Finding]] = {}
    for finding in sorted(told, key=rank):
        by_worker.setdefault(finding.worker, []).append(finding)
    return [finding for of_worker in by_worker.values() for finding in of_worker]


def _explains(one: Finding, other: Finding) -> bool:
    return other.cause in EXPLAINS[one.cause] and one.worker in ("", other.worker)
