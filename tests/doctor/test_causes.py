"""The list of causes: each is in the manual with its severities, and made for real, or the reason why not."""

from __future__ import annotations

import re
from pathlib import Path

from mcastd.doctor.causes import CAUSES

HERE = Path(__file__).parent
MANUAL = HERE.parent.parent / "packaging" / "man" / "mcastctl.1"


def documented() -> dict[str, set[str]]:
    """Causes with their severities, in the order of the manual."""
    section = MANUAL.read_text().partition(".Sh CAUSES")[2].partition(".Sh ")[0]
    entries = re.findall(r"^\.It Cm ([a-z-]+) Pq ([a-z, ]+)\n\S.*", section, re.MULTILINE)
    return {cause: set(severities.split(", ")) for cause, severities in entries}


def shown() -> dict[str, set[str]]:
    """Causes with the severities that the gallery shows."""
    found: dict[str, set[str]] = {}
    for path in HERE.glob("test_*gallery*.py"):
        for cause, severity in re.findall(r'Case\(\s*"([a-z-]+)",\s*"(\w+)"', path.read_text()):
            found.setdefault(cause, set()).add(severity)
    return found


def test_the_manual_has_every_cause_in_the_order_of_the_path() -> None:
    assert list(documented()) == [cause.id for cause in CAUSES]


def test_what_the_gallery_shows_is_as_bad_as_the_manual_says() -> None:
    manual = documented()
    for cause, severities in shown().items():
        assert severities <= manual[cause], cause


def test_every_cause_is_in_the_gallery_or_the_reason_why_not() -> None:
    table = (HERE / "README.md").read_text().partition("## Causes without a case")[2]
    excused = set(re.findall(r"^\| `([a-z-]+)` \| \S", table, re.MULTILINE))
    assert shown().keys() | excused == {cause.id for cause in CAUSES}
    assert not shown().keys() & excused


def test_every_cause_that_the_code_names_is_listed() -> None:
    import mcastd.doctor

    (room,) = mcastd.doctor.__path__
    named = {
        cause
        for path in Path(room).glob("*.py")
        for cause in re.findall(r'[Ff]inding\(\s*"([a-z-]+)"', path.read_text())
    }
    assert named == {cause.id for cause in CAUSES}
