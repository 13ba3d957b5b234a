"""What the commands say of whole files, made of statuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mcastd.adhoc import file_report
from mcastd.adhoc.file_report import Hints
from mcastd.adhoc.outcomes import FileOutcomes
from mcastd.adhoc.report import Summary
from mcastd.codec import from_json
from mcastd.status import NO_MANIFEST, ChannelStatus, SubscriptionStatus


def channel(repeat: int | str, rounds: int = 0, **files: Any) -> ChannelStatus:
    told = {"files": 41, "total_bytes": 30_000, "pass_number": 0, **files}
    counters = {"sent": 7, "sent_bytes": 700, "rounds": rounds}
    return from_json(
        ChannelStatus,
        {"repeat": repeat, "files": told, "counters": counters, "source_state": "scanning: 12 files so far"},
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (channel(1), "scanning: 12 files so far"),
        (
            channel(1, pass_number=1, pass_percent=25.0),
            "[#####---------------]  25%  41 files  9,000 bit/s  30s to go",
        ),
        (
            channel(4, pass_number=3, pass_percent=50.0),
            "[############--------]  62%  pass 3 of 4  41 files  9,000 bit/s  6s to go",
        ),
        (
            channel("forever", pass_number=3, pass_percent=50.0),
            "[##########----------]  50%  of pass 3  9,000 bit/s",
        ),
        (channel(1, pass_number=1, pass_percent=100.0), "[####################] 100%  41 files  9,000 bit/s"),
    ],
)
def test_how_far_a_sender_is(status: ChannelStatus, line: str) -> None:
    assert file_report.going(status, 9_000, 10.0) == line


def test_what_was_sent_and_what_was_not() -> None:
    refusals = [f"{letter}: it is a symbolic link" for letter in "abcdef"]
    before = channel(
        3,
        pass_number=2,
        pass_percent=45.4,
        repair_percent=11.6,
        given_up=2,
        refused={"link": 8},
        refusals=refusals,
    )
    result = file_report.sent(channel(3, rounds=1), before, 0.0)
    assert not file_report.all_sent(result)
    assert list(file_report.sent_lines(result)) == [
        "sent 41 files, 30,000 bytes, once, with 12% of repair",
        "stopped at 45% of pass 2 of 41 files, 30,000 bytes",
        "sent 7 datagrams, 700 bytes",
        *(f"not sent: {refusal}" for refusal in refusals[:5]),
        "not sent: 3 more",
        "not sent whole in the last pass: 2 files that changed under way",
    ]


def test_what_keeps_a_sender_from_having_sent_all() -> None:
    def result(**files: Any) -> Summary:
        status = channel(2, rounds=2, pass_number=2, **files)
        return file_report.sent(status, status, 0.0)

    assert file_report.all_sent(result())
    assert list(file_report.sent_lines(result())) == [
        "sent 41 files, 30,000 bytes, 2 times",
        "sent 7 datagrams, 700 bytes",
    ]
    assert not file_report.all_sent(result(given_up=1))
    assert not file_report.all_sent(result(refused={"link": 1}))
    assert not file_report.all_sent(result() | {"dropped": {"EPERM": 1}})
    assert not file_report.all_sent(result() | {"sent": 0})


def test_what_keeps_a_listener_from_having_all() -> None:
    result: Summary = {"landed": 3, "refused": {}, "incomplete": 0, "not_begun": 0}
    assert file_report.all_landed(result)
    for lacking in ({"landed": 0}, {"refused": {"a": "too-large"}}, {"incomplete": 1}, {"not_begun": 1}):
        assert not file_report.all_landed(result | lacking)


def subscription(
    received: int, age: float | None, unrepaired: str = "", **objects: Any
) -> SubscriptionStatus:
    told = {"states": {}, "total_bytes": 0, "unrepaired": unrepaired, **objects}
    return from_json(
        SubscriptionStatus,
        {
            "group": "239.255.1.2",
            "port": 9190,
            "last_datagram_age": age,
            "counters": {"received": received, "dropped": {"no-fdt": 3}},
            "outputs": [{"objects": told, "counters": {"dropped": {"no-space": 4}}}],
        },
    )


def test_what_a_manifest_lists_and_of_which_nothing_came_is_told() -> None:
    states = {"landed": 3, "receiving": 2, "waiting": 1, "refused": 5, "expired": 9}
    listed = replace(NO_MANIFEST, files=15, total_bytes=80_000)
    status = replace(subscription(12, 3.0, states=states, receiving=[]), manifest=listed)
    outcomes = FileOutcomes(lambda: None)
    outcomes.landed = 3
    result = file_report.received(outcomes, status, status, 7.0)
    assert (result["incomplete"], result["not_begun"]) == (3, 4)
    assert not file_report.all_landed(result | {"incomplete": 0, "refused": {}})
    assert "nothing came of 4 files that the manifest lists" in list(file_report.received_lines(result))
    (over, _) = Hints(3.0, repairs=True).lines(status, 7.0)
    assert over == "nothing came for 3 s, and 7 files are incomplete"


def test_how_far_a_listener_is() -> None:
    assert file_report.coming(subscription(12, 0.1), 8_000) == "12 datagrams received  8,000 bit/s"
    receiving = [{"name": "images/a\x1b.img", "state": "receiving"}, {"name": "other"}]
    states = {"landed": 3, "receiving": 2, "waiting": 1, "refused": 5, "expired": 9}
    status = subscription(
        12, 0.1, states=states, total_bytes=40_000, present_bytes=10_000, receiving=receiving
    )
    assert file_report.coming(status, 8_000) == (
        "[#####---------------]  25%  3 of 6 files  8,000 bit/s  30s to go  images/a\\x1b.img"
    )
    told = {"files": 16, "total_bytes": 80_000}
    assert file_report.coming(replace(status, manifest=replace(NO_MANIFEST, **told)), 8_000) == (
        "[##------------------]  12%  3 of 16 files  8,000 bit/s  1min 10s to go  images/a\\x1b.img"
    )
    done = subscription(12, 0.1, states={"landed": 1}, total_bytes=40_000, present_bytes=40_000)
    assert file_report.coming(done, 0) == "[####################] 100%  1 of 1 file  0 bit/s  Ctrl-C ends it"


def test_each_hint_is_given_once_and_in_its_time() -> None:
    hints = Hints(3.0, repairs=False)
    assert hints.lines(subscription(0, None), 2.9) == []
    assert hints.lines(subscription(0, None), 3.0)[0] == "nothing received in 3 s. What there is:"
    assert hints.lines(subscription(0, None), 4.0) == []
    first, _ = hints.lines(subscription(9, 0.1), 5.0)
    assert first == "9 datagrams came, and none tells of a file (dropped: no-fdt 3, no-space 4)"
    assert hints.lines(subscription(9, 0.1), 6.0) == []
    begun = {"states": {"landed": 4, "receiving": 2}}
    assert hints.lines(subscription(9, 2.9, **begun), 7.0) == []
    (library,) = hints.lines(subscription(9, 0.1, "cannot repair: it lacks", **begun), 8.0)
    assert "pip install 'mcastd[files]'" in library
    for _ in range(2):  # it is said again once something has come meanwhile
        over = hints.lines(subscription(9, 3.0, "cannot repair: it lacks", **begun), 9.0)
        assert over[0] == "nothing came for 3 s, and 2 files are incomplete"
        assert hints.lines(subscription(9, 4.0, **begun), 10.0) == []
        assert hints.lines(subscription(10, 0.1, **begun), 11.0) == []
    assert hints.lines(subscription(10, 9.0, states={"landed": 6, "refused": 1}), 12.0) == []
    assert Hints(3.0, repairs=True).lines(subscription(9, 0.1, "cannot repair", **begun), 8.0) == []
