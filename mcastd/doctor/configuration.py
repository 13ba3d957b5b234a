"""The configuration on disk: what the next start would find."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way


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
