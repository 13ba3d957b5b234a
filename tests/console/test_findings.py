"""How a report looks."""

from __future__ import annotations

from typing import Any

import pytest

from mcastd.codec import from_json
from mcastd.console.findings import exit_status, lines
from mcastd.doctor.finding import Report


def finding(severity: str = "broken", worker: str = "inbound/news", **more: Any) -> dict[str, Any]:
    return {
        "cause": "interface-down",
        "severity": severity,
        "what": "eth0 is down",
        "evidence": ["flags of eth0 have no UP (rtnetlink)"],
        "fix": "ip link set eth0 up",
        "worker": worker,
        **more,
    }


def report(*findings: dict[str, Any], skipped: tuple[dict[str, Any], ...] = ()) -> Report:
    told = {
        "findings": list(findings),
        "skipped": list(skipped),
        "workers": ["inbound/news", "outbound/news"],
        "checks": ["interface", "wire"],
        "watched": 1.0,
    }
    return from_json(Report, told)


@pytest.mark.parametrize(
    ("severities", "status"),
    [((), 0), (("hint",), 0), (("hint", "warning"), 1), (("broken", "hint"), 2), (("unheard-of",), 2)],
)
def test_exit_status(severities: tuple[str, ...], status: int) -> None:
    assert exit_status(report(*map(finding, severities))) == status


def test_all_well_names_what_was_looked_at() -> None:
    assert list(lines(report())) == [
        "All well. Looked at inbound/news, outbound/news for 1 s: interface, wire."
    ]


def test_findings_by_worker_and_what_was_not_looked_at() -> None:
    skip = {
        "check": "wire",
        "reason": "needs root (CAP_NET_RAW)",
        "worker": "inbound/news",
        "privileged": True,
    }
    again = {**skip, "worker": "outbound/news"}
    assert list(lines(report(finding(), finding("hint", ""), skipped=(skip, again)))) == [
        "inbound/news",
        "  broken: eth0 is down [interface-down]",
        "    - flags of eth0 have no UP (rtnetlink)",
        "    fix: ip link set eth0 up",
        "",
        "this host",
        "  hint: eth0 is down [interface-down]",
        "    - flags of eth0 have no UP (rtnetlink)",
        "    fix: ip link set eth0 up",
        "",
        "Not looked at:",
        "  wire: needs root (CAP_NET_RAW)",
        "1 broken, 1 hint. Looked at inbound/news, outbound/news for 1 s.",
    ]


def test_long_lines_are_wrapped_but_a_command_stays_whole() -> None:
    long = finding(what="a word " * 30, evidence=["b word " * 30], fix="nft " * 30)
    shown = list(lines(report(long), 80))
    assert all(len(line) <= 80 for line in shown if "fix:" not in line)
    assert sum("nft nft" in line for line in shown) == 1
    (first,) = [line for line in shown if line.startswith("  broken: ")]
    assert shown[shown.index(first) + 1].startswith("    a word")


def test_colours_are_around_the_words_alone() -> None:
    shown = "\n".join(lines(report(finding("warning")), 80, colour=True))
    assert "  \x1b[1;33mwarning\x1b[0m: eth0 is down" in shown
    assert "\x1b" not in "\n".join(lines(report(finding("warning")), 80))


def test_what_others_have_named_cannot_steer_the_terminal() -> None:
    evil = finding(what="\x1b[2J", evidence=["\x07"], fix="\x9b1m", cause="\x1b", worker="\n")
    assert not any(set(line) & set("\x1b\x07\x9b\n") for line in lines(report(evil), 80, colour=False))


def test_a_hint_is_told_once_and_what_is_broken_of_each_worker() -> None:
    workers = ("inbound/a", "inbound/b", "outbound/c")
    hints = [finding("hint", worker, what="eth0 is wireless") for worker in workers]
    broken = [finding("broken", worker) for worker in workers]
    shown = list(lines(report(*hints, *broken)))
    text = "\n".join(shown)
    assert text.count("eth0 is wireless") == 1
    assert shown[shown.index("    fix: ip link set eth0 up") + 1] == "    likewise: inbound/b, outbound/c"
    assert text.count("eth0 is down") == 3
    assert text.count("likewise") == 1
    assert "3 broken, 3 hints" in text


def test_counts_are_in_the_plural() -> None:
    one, two = ("warning", "hint"), ("warning", "warning", "broken", "broken", "hint", "hint")
    assert "1 warning, 1 hint. " in "\n".join(lines(report(*map(finding, one))))
    assert "2 broken, 2 warnings, 2 hints. " in "\n".join(lines(report(*map(finding, two))))
    assert "All well (2 hints). " in "\n".join(lines(report(finding("hint"), finding("hint", ""))))
