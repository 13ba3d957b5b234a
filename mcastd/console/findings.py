"""``doctor``: what is wrong and how it is known, as lines."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

import click

from mcastd import codec
from mcastd.doctor.finding import Finding, Report, Severity, Skipped
from mcastd.printable import printable

EXIT = {Severity.BROKEN: 2, Severity.WARNING: 1, Severity.HINT: 0}
COLOURS = {"broken": "1;31", "warning": "1;33", "hint": "36", "well": "32"}  # SGR, ECMA-48
# A longer line is hard to read.
COLUMNS_MAX = 100


def show(report: Report, *, as_json: bool) -> None:
    """On standard output, in colours if that is a terminal."""
    if as_json:
        click.echo(json.dumps(codec.as_json(report), indent=2))
        return
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    for line in lines(report, width, colour=terminal and "NO_COLOR" not in os.environ):
        click.echo(line)


def exit_status(report: Report) -> int:
    """2: something is broken, 1: there are warnings, 0: all is well."""
    return max((EXIT[finding.severity] for finding in report.findings), default=0)


def lines(report: Report, width: int | None = None, *, colour: bool = False) -> Iterator[str]:
    """The report for a terminal of ``width`` columns (None: any). Commands and settings are not wrapped."""
    worker = None
    findings = report.findings
    for finding in _once(findings):
        if finding.worker != worker:
            if worker is not None:
                yield ""
            worker = finding.worker
            yield _in_colour(printable(worker or "this host"), "1", colour)
        yield from _finding(finding, width, colour)
        if others := _likewise(finding, findings):
            yield from _wrapped(f"likewise: {', '.join(map(printable, others))}", "    ", width)
    if findings:
        yield ""
    if report.skipped:
        yield "Not looked at:"
        for reason, who in _skipped(report.skipped).items():
            yield from _wrapped(f"{', '.join(who)}: {reason}", "  ", width)
    yield from _summary(report, width, colour)


def _once(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, but a hint that several workers have in the same words only with the first of them."""
    told: set[tuple[object, ...]] = set()
    for finding in findings:
        if finding.severity is not Severity.HINT:
            yield finding
        elif (words := _words(finding)) not in told:
            told.add(words)
            yield finding


def _likewise(finding: Finding, findings: Sequence[Finding]) -> list[str]:
    """The other workers that a hint holds for in the same words."""
    if finding.severity is not Severity.HINT:
        return []
    words, worker = _words(finding), finding.worker
    alike = (other.worker for other in findings if other.worker != worker and _words(other) == words)
    return [other or "this host" for other in dict.fromkeys(alike)]


def _words(finding: Finding) -> tuple[object, ...]:
    return finding.severity, finding.cause, finding.what, *finding.evidence


def _finding(finding: Finding, width: int | None, colour: bool) -> Iterator[str]:
    severity = printable(finding.severity)
    text = f"{severity}: {printable(finding.what)} [{printable(finding.cause)}]"
    first, *rest = _wrapped(text, "  ", width)
    yield first.replace(severity, _in_colour(severity, COLOURS.get(severity, "1"), colour), 1)
    yield from rest
    for evidence in finding.evidence:
        yield from _wrapped(printable(evidence), "    - ", width)
    yield f"    fix: {printable(finding.fix)}"


def _skipped(skipped: Sequence[Skipped]) -> dict[str, list[str]]:
    """The checks by the reason why they could not look."""
    found: dict[str, list[str]] = {}
    for one in skipped:
        checks = found.setdefault(printable(one.reason), [])
        if (check := printable(one.check)) not in checks:
            checks.append(check)
    return found


def _summary(report: Report, width: int | None, colour: bool) -> Iterator[str]:
    severities = [finding.severity for finding in report.findings]
    verdict = ", ".join(_counted(severities.count(one), one) for one in EXIT if one in severities)
    workers = ", ".join(map(printable, report.workers)) or "no worker"
    looked = f"Looked at {workers} for {report.watched:.3g} s"
    if exit_status(report) == 0:
        well = _in_colour("All well", COLOURS["well"], colour)
        verdict = f"{well} ({verdict})" if verdict else well
        looked += f": {', '.join(map(printable, report.checks)) or 'no check'}"
    yield from _wrapped(f"{verdict}. {looked}.", "", width)


def _counted(number: int, severity: str) -> str:
    return f"{number} {severity}" + ("s" if number > 1 and severity in ("warning", "hint") else "")


def _wrapped(text: str, indent: str, width: int | None) -> list[str]:
    if width is None:
        return [indent + text]
    more = " " * len(indent) + ("" if indent.endswith("- ") else "  " if indent else "")
    return textwrap.wrap(
        text,
        min(width, COLUMNS_MAX),
        initial_indent=indent,
        subsequent_indent=more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _in_colour(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
