"""Our AMT gateway beside a relay that nobody here wrote: Linux's own driver, in an emulated machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.emulated import GUEST, Guest
from support.host import Host

pytestmark = pytest.mark.root
GUESTS = Path(__file__).parents[1] / "support" / "guests"
WANTED = "172.17.0.2"  # the one of two senders that the subscription to a source names
CONFIG = f"""[amt]
relay = "{GUEST}"
[inbound.ssm]
group = "232.1.1.1"
sources = ["{WANTED}"]
port = 4000
via = "amt"
output = "DIR/ssm"
[inbound.asm]
group = "239.1.1.1"
port = 4000
via = "amt"
output = "DIR/asm"
[inbound.six]
group = "ff3e::1"
port = 4000
via = "amt"
output = "DIR/six"
"""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with Host() as host, Guest(host, tmp_path / "shared", GUESTS / "amt_relay.py") as guest:
        yield guest


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def numbers(found: list[str], sender: str) -> list[int]:
    return [int(line.split()[2]) for line in found if line.split()[0] == sender]


def test_groups_come_from_linux_as_they_were_sent_and_only_what_is_wanted(
    guest: Guest, tmp_path: Path
) -> None:
    config = CONFIG.replace("DIR", str(tmp_path))
    (tmp_path / "daemon").mkdir()
    with RunningDaemon(tmp_path / "daemon", config, enter=guest.host.enter([])) as daemon:
        files = {name: tmp_path / name for name in ("ssm", "asm", "six")}
        guest.wait(lambda: all(len(lines(path)) >= 40 for path in files.values()), "forty of each")
        status = daemon.worker("inbound/ssm")["status"]

        def is_answered() -> bool:  # it may just ask again
            nonlocal status
            status = daemon.worker("inbound/ssm")["status"]
            return bool(status["link"]["tunnel"]["unanswered"] == 0)

        guest.wait(is_answered, "an answer")
        tunnel = status["link"]["tunnel"]
        assert (tunnel["phase"], tunnel["relay"]) == ("open", GUEST)
        assert tunnel["dropped"].keys() == {"foreign"}, "this relay ignores sources"
        assert status["memberships"][0]["actual"] == f"include {WANTED}"
        # Off, and on again by another filter: the tunnel goes on for the others
        daemon.write(config.replace(f'sources = ["{WANTED}"]\n', ""))
        assert daemon.ctl("reload").returncode == 0
        both = rf"{WANTED} |172\.17\.0\.3 "
        senders_heard = {f"{WANTED} ", "172.17.0.3 "}
        guest.wait(lambda: {*re.findall(both, files["ssm"].read_text())} == senders_heard, "both senders")
    for name, senders in (("ssm", (WANTED,)), ("asm", (WANTED, "172.17.0.3")), ("six", ("six",))):
        for sender in senders:
            got = numbers(lines(files[name]), sender)
            assert got == [*range(got[0], got[0] + len(got))], f"each once, in order: {name} of {sender}"
