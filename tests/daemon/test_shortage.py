"""Every call of the daemon that can fail for want of descriptors, memory or threads fails, one after another.

Whatever it is at then, nothing crashes, no stream that works is lost, and it answers when all is there again.
"""

from __future__ import annotations

import contextlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import ip
from support.ports import free_port
from support.shortage import Shortage
from support.wait import wait_for

from mcastd.control.client import ControlClient
from mcastd.control.protocol import VarlinkError
from mcastd.errors import ControlError
from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

GROUP, PORT = "239.255.9.5", 9196
MOST_CALLS = 400  # of one step: far more than there are

pytestmark = [
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc: apt install gcc"),
    pytest.mark.timeout(600),
]


class Stand:
    """A daemon with a stream that is received, and one that comes and goes."""

    def __init__(self, directory: Path, shortage: Shortage) -> None:
        self.directory = directory
        self.shortage = shortage
        self.kept = directory / "kept.log"
        self.metrics = free_port()
        self.sent = self.round = 0
        self.link = SocketSender(ip_address(GROUP), PORT, interface="lo", ttl=0)
        (directory / "news.txt").write_text("news\n")
        self.daemon: RunningDaemon

    def config(self) -> str:
        where = f'group = "{GROUP}"\ninterface = "lo"\n'
        daemon = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{self.directory}/control"\n'
        daemon += f'metrics = "127.0.0.1:{self.metrics}"\n'
        kept = f'[inbound.kept]\n{where}port = {PORT}\noutput = "{self.kept}"\n'
        name = f"other{self.round % 2}"
        other = f'[inbound.{name}]\n{where}port = {PORT + 1}\noutput = "{self.directory}/{name}.log"\n'
        news = f'[outbound.{name}]\n{where}port = {PORT + 2}\nttl = 0\nrepeat = "forever"\ninterval = 0.05\n'
        return f'{daemon}{kept}{other}{news}source = "{self.directory}/news.txt"\n'

    def call(self, method: str, **parameters: object) -> dict[str, object]:
        with ControlClient(self.daemon.socket, timeout=30) as client:
            answer: dict[str, object] = client.call(f"io.mcastd.{method}", **parameters)
            return answer

    def check(self, what: str) -> None:
        """The stream arrives, on the socket that it always had; the daemon answers; nothing is a bug."""
        assert self.daemon.process.poll() is None, f"{what}\n{self.daemon.log.read_text()}"
        self.link.send(ListPayloads([b"%07d\n" % self.sent]))
        self.sent += 1
        wait_for(lambda: self.kept.exists() and self.kept.stat().st_size >= 8 * self.sent, what, timeout=30)
        worker = self.call("Get", name="inbound/kept")["worker"]
        assert isinstance(worker, dict)
        assert (worker["state"], worker["restarts"]) == ("active", 0), (what, worker)
        log = self.daemon.log.read_text()
        assert "bug in mcastd" not in log, f"{what}\n{log[-3000:]}"
        assert "Traceback" not in log, f"{what}\n{log[-3000:]}"

    # -- what is done while something is short; that it fails is no fault

    def reload(self) -> None:
        self.round += 1
        self.daemon.write(self.config())
        self.call("Reload")

    def reopen(self) -> None:
        self.call("Reopen")

    def network(self) -> None:
        self.round += 1
        ip(f"addr {'replace' if self.round % 2 else 'del'} 10.88.0.1/32 dev lo")
        self.call("List")

    def status(self) -> None:
        self.call("Describe")
        self.call("List")

    def scrape(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            assert b"mcastd_received_datagrams_total" in answer.read()

    def doctor(self) -> None:
        self.call("Doctor", watch=0.01)

    def stop_and_start(self) -> None:
        name = f"inbound/other{self.round % 2}"
        self.call("Stop", name=name)
        self.call("Start", name=name)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with Shortage(tmp_path) as shortage:
        stand = Stand(tmp_path, shortage)
        with (
            contextlib.closing(stand.link),
            RunningDaemon(tmp_path, stand.config(), **shortage.environment) as stand.daemon,
        ):
            yield stand


STEPS: list[Callable[[Stand], None]] = [
    Stand.status,
    Stand.reload,
    Stand.reopen,
    Stand.network,
    Stand.scrape,
    Stand.doctor,
    Stand.stop_and_start,
]


# With these, what works is touched while all calls fail from one on.
AT_LENGTH = [Stand.reload, Stand.network, Stand.stop_and_start]


@pytest.mark.root
@pytest.mark.parametrize(
    ("step", "lasting"),
    [*((step, False) for step in STEPS), *((step, True) for step in AT_LENGTH)],
    ids=lambda value: value.__name__ if callable(value) else ("lasting" if value else "once"),
)
def test_whatever_is_short_nothing_that_works_is_lost(
    stand: Stand, step: Callable[[Stand], None], lasting: bool
) -> None:
    stand.check("before")
    for nth in range(1, MOST_CALLS):
        stand.shortage.begin(nth, lasting=lasting)
        with contextlib.suppress(ControlError, VarlinkError, urllib.error.URLError, OSError):
            step(stand)
        failed = stand.shortage.end()
        stand.check(f"{step.__name__}, call {nth}: {failed}")
        if not failed:
            break
    else:
        pytest.fail("no end of calls")
    assert nth > 1
    wait_for(lambda: _works(stand, step), "it works again", timeout=30)
    assert stand.daemon.stop() == 0


def _works(stand: Stand, step: Callable[[Stand], None]) -> bool:
    try:
        step(stand)
    except (ControlError, VarlinkError, OSError):
        return False
    return True
