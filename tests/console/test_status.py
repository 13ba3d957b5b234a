"""``mcastctl status`` as lines; what it prints in all is in control/test_ctl.py."""

from __future__ import annotations

from mcastd.codec import from_json
from mcastd.console.status import overview
from mcastd.views import DaemonView, WorkerView


def test_a_table_fits_its_terminal_and_cuts_nothing() -> None:
    reason = "cannot join 239.1.1.2 on eth7: no such interface (have: eth0, eth1, lo); waiting for it"
    workers = [
        {"name": "inbound/news", "state": "auto-restart", "since": 86399, "detail": reason},
        {"name": "outbound/news", "state": "active", "since": 5, "detail": "on eth0"},
    ]
    views = [from_json(WorkerView, worker) for worker in workers]
    daemon = from_json(DaemonView, {"summary": f"1 of 2 workers active; inbound/news: {reason}"})
    lines = list(overview(daemon, views, 80))
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines).count(reason) == 2
    assert lines[-1].endswith("0  on eth0")
    assert len(list(overview(daemon, views, None))) == 4  # in a pipe, one line each
