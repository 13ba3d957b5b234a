"""The gallery's labs, and its count at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from support import gallery


@pytest.fixture(scope="module")
def lab() -> Iterator[Callable[[str], gallery.Lab]]:
    yield from gallery.labs()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Causes made / causes named / false alarms, over all workers of a parallel run."""
    count: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, value in getattr(report, "user_properties", ()):
                if key in ("made", "named", "mended"):
                    count[key] += 1
                elif key == "false alarms":
                    count[key] += value
    if count["made"]:
        terminalreporter.write_line(
            f"doctor's gallery: {count['made']} causes made, {count['named']} named first,"
            f" {count['mended']} mended by the fix, {count['false alarms']} false alarms"
        )
