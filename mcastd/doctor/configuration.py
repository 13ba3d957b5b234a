"""The daemon beside its workers: the configuration that the next start would find, its metrics, its log."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.errors import LOW_PORTS


def configuration(evidence: Evidence) -> Iterator[Said]:
    cause, what = evidence.configuration
    seen = ("compared with the running one (mcastd)",)
    match cause:
        case "config-refused":
            fix = "mcastd check names every problem; mend them, then mcastctl reload"
            yield Finding("config-refused", Severity.WARNING, what, seen, fix)
        case "config-silent":
            yield Finding("config-silent", Severity.WARNING, what, seen, "see why it hangs: dmesg, mount")
        case "config-differs":
            reload = "mcastctl reload"
            yield Finding("config-differs", Severity.HINT, what, seen, reload, ways=(Way(command=reload),))


def daemon(evidence: Evidence) -> Iterator[Said]:
    """Trouble of the daemon itself and not of a worker: its metrics, its log."""
    if problem := evidence.troubles.metrics:
        fix = f"see who has the address: ss -ltnp; {LOW_PORTS}; or give another as metrics in [daemon]"
        yield Finding("metrics-unavailable", Severity.WARNING, problem, ("summary (status)",), fix)
    if problem := evidence.troubles.log:
        fix = (
            "have what reads the daemon's stderr go on: under systemd, see systemctl status systemd-journald"
        )
        yield Finding("log-stalled", Severity.WARNING, problem, ("summary (status)",), fix)
