"""The examination itself: order, consequences, what others look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mcastd.codec import as_json, from_json
from mcastd.config import InboundSubscription, WorkerSettings
from mcastd.doctor import examine
from mcastd.doctor.causes import CAUSES, RANK
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.examine import CHECKS, HOST_CHECKS, completed, in_order, name_of
from mcastd.doctor.finding import Finding, Report, Said, Severity, Skipped
from mcastd.doctor.subject import Subject, named
from mcastd.errors import LinkError
from mcastd.net.interfaces import Host

BROKEN, WARNING, HINT = Severity
NEWS = Subject(
    "inbound/news", InboundSubscription(group="239.255.6.1", port=9190, output="/dev/null"), "active"
)


def finding(cause: str, severity: Severity = BROKEN, worker: str = "inbound/news") -> Finding:
    return Finding(cause, severity, cause, ("read",), "fix", worker)


def told(*said: Said) -> list[tuple[str, str]]:
    return [(one.worker, one.cause) for one in in_order(said, (), (), 0.0).findings]


def test_a_cause_explains_only_causes_that_there_are_and_that_come_after_it() -> None:
    assert len(RANK) == len(CAUSES)
    for cause in CAUSES:
        for other in cause.explains:
            assert RANK[cause.id] < RANK[other], (cause.id, other)


def test_every_check_has_a_name_of_its_own() -> None:
    checks = {*(check for check, _ in CHECKS), *HOST_CHECKS}
    assert len({name_of(check) for check in checks}) == len(checks)


def test_the_worst_comes_first_and_each_workers_findings_stay_together() -> None:
    other = "outbound/news"
    assert told(
        finding("ttl-one", HINT, other),
        finding("overflow-now"),
        finding("two-senders", HINT),
        finding("disk-full", worker=other),
        finding("no-address", WARNING),
        finding("no-carrier"),
    ) == [
        ("inbound/news", "no-carrier"),
        ("inbound/news", "overflow-now"),
        ("inbound/news", "no-address"),
        ("inbound/news", "two-senders"),
        (other, "disk-full"),
        (other, "ttl-one"),
    ]


def test_what_another_cause_explains_is_not_told_but_only_for_that_worker() -> None:
    other = finding("worker-waiting", worker="inbound/other")
    assert told(finding("worker-waiting"), finding("interface-down"), other) == [
        ("inbound/news", "interface-down"),
        ("inbound/other", "worker-waiting"),
    ]


def test_what_is_wrong_with_one_output_or_leg_explains_nothing_of_another() -> None:
    pipe, other = (
        replace(finding("fifo-no-reader", HINT), part="/a"),
        replace(finding("output-failing"), part="b"),
    )
    assert told(pipe, other) == [("inbound/news", "output-failing"), ("inbound/news", "fifo-no-reader")]
    assert told(pipe, replace(other, part="/a")) == [("inbound/news", "fifo-no-reader")]
    down = replace(finding("interface-down"), part="leg 1")
    for part, left in (("leg 1", []), ("leg 2", ["no-carrier"]), ("", [])):
        found = told(down, replace(finding("no-carrier"), part=part))
        assert found == [("inbound/news", cause) for cause in ("interface-down", *left)]
    whole = replace(down, part="")
    assert told(whole, replace(finding("no-carrier"), part="leg 2")) == [("inbound/news", "interface-down")]


def test_outputs_that_fail_are_all_told(tmp_path: Path) -> None:
    settings = InboundSubscription.model_validate(
        {
            **NEWS.settings.model_dump(include={"group", "port"}),
            "output": [
                {"kind": "fifo", "path": str(tmp_path / "pipe")},
                {"kind": "tcp", "to": "192.0.2.7:9000"},
            ],
        }
    )
    pipe, program = (output.label for output in settings.output)
    status = {
        "outputs": [
            {"path": pipe, "error": "nobody reads it", "reason": "no-reader"},
            {"path": program, "error": "cannot write to it: connection refused", "reason": "unreachable"},
        ]
    }
    subject = Subject("inbound/news", settings, "active", status=status, earlier=status)
    report = examine.examine([subject], Evidence(look=lambda: Host({}, 0.0)), ["outputs"])
    assert [(one.cause, one.part) for one in report.findings] == [
        ("output-failing", program),
        ("fifo-no-reader", pipe),
    ]


def test_that_a_worker_is_degraded_is_told_where_nothing_else_is_wrong_with_it() -> None:
    degraded = finding("worker-degraded", WARNING)
    assert told(degraded, finding("no-carrier", worker="inbound/other")) == [
        ("inbound/other", "no-carrier"),
        ("inbound/news", "worker-degraded"),
    ]
    assert told(degraded, finding("two-senders", HINT))[0] == ("inbound/news", "worker-degraded")
    assert told(degraded, finding("overflow-earlier", WARNING)) == [("inbound/news", "overflow-earlier")]


def test_where_it_runs_is_told_only_beside_trouble() -> None:
    here = finding("container", HINT, "")
    assert told(here, finding("ttl-one", HINT)) == [("inbound/news", "ttl-one")]
    assert told(here, finding("no-address", WARNING)) == [("inbound/news", "no-address"), ("", "container")]


def test_a_check_that_breaks_costs_no_other_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_subject: Subject, _evidence: Evidence) -> Iterator[Said]:
        yield finding("ttl-one", HINT)
        raise ZeroDivisionError("no interface has three legs")

    def works(_subject: Subject, _evidence: Evidence) -> Iterator[Said]:
        yield finding("no-route")

    monkeypatch.setattr(
        examine,
        "CHECKS",
        (
            (breaks, WorkerSettings),
            (works, WorkerSettings),
        ),
    )
    monkeypatch.setattr(examine, "HOST_CHECKS", ())
    report = examine.examine([NEWS], Evidence([NEWS]))
    assert [one.cause for one in report.findings] == ["no-route", "ttl-one"]
    reason = "failed: ZeroDivisionError: no interface has three legs"
    assert report.skipped == (Skipped("breaks", reason, "inbound/news"),)
    assert report.checks == ("breaks", "works")


def test_a_report_survives_the_way_to_a_client() -> None:
    report = in_order(
        [finding("no-route"), Skipped("wire", "needs root", "", True)], ["inbound/news"], ["a"], 1
    )
    assert from_json(Report, as_json(report)) == report


def test_somebody_with_more_privileges_completes_a_report() -> None:
    daemon = in_order(
        [
            finding("worker-waiting"),
            finding("overflow-earlier", WARNING),
            Skipped("wire", "needs root", "inbound/news", privileged=True),
            Skipped("source", "failed", "inbound/news"),
        ],
        ["inbound/news"],
        ["source", "wire", "worker"],
        1.0,
    )
    deeper = in_order([finding("no-route"), finding("overflow-earlier")], ["inbound/news"], ["wire"], 1.2)
    whole = completed(daemon, deeper)
    assert [(one.cause, one.severity) for one in whole.findings] == [
        ("no-route", BROKEN),
        ("overflow-earlier", BROKEN),
    ]
    assert [one.check for one in whole.skipped] == ["source"]
    assert whole.checks == daemon.checks
    assert whole.watched == 1.2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, {"inbound/a", "outbound/a", "inbound/b"}),
        ("a", {"inbound/a", "outbound/a"}),
        ("inbound/b", {"inbound/b"}),
        ("c", set()),
        ("", set()),
    ],
)
def test_a_name_means_a_worker_or_two(name: str | None, found: set[str]) -> None:
    assert named(name, ["inbound/a", "outbound/a", "inbound/b"]) == found


def test_a_check_whose_disk_hangs_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(_subject: Subject, _evidence: Evidence) -> Iterator[Said]:
        threading.Event().wait(60)
        yield from ()

    monkeypatch.setattr(examine, "CHECKS", ((outputs, WorkerSettings),))
    monkeypatch.setattr(examine, "HOST_CHECKS", ())
    monkeypatch.setattr(examine, "TOUCH_PATHS", {outputs})
    monkeypatch.setattr(examine, "PATH_SECONDS", 0.05)
    (skipped,) = examine.examine([NEWS], Evidence()).skipped
    assert skipped.check == "outputs"
    assert skipped.reason == "no answer for 0.05 s: a disk or mount hangs"


def test_a_check_that_cannot_ask_now_is_left_out_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def delivery(_subject: Subject, _evidence: Evidence) -> Iterator[Said]:
        raise LinkError("cannot ask the kernel", "too many open files", errno=24)
        yield

    monkeypatch.setattr(examine, "CHECKS", ((delivery, WorkerSettings),))
    monkeypatch.setattr(examine, "HOST_CHECKS", ())
    with capture_logs() as logs:
        (skipped,) = examine.examine([NEWS], Evidence()).skipped
    assert skipped.reason == "cannot ask the kernel: too many open files"
    assert logs == []
