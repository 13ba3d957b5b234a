"""The doctor's gallery: a network, a daemon, a fault made for real, and what the doctor must say of it.

To add a case, write a Case: a configuration that is well, and a context manager that makes the fault. To add
a network, write a Lab and name it in LABS; draw it in tests/doctor/README.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs

from mcastd.doctor.deeper import UNKNOWN
from support.daemon import MCASTCTL, RunningDaemon
from support.forked import mcastctl
from support.host import Host, connect
from support.inside import sysctl
from support.meanwhile import meanwhile
from support.peer import Talker
from support.programs import program
from support.wait import wait_for

GROUP, PORT = "239.255.6.1", 9190
WATCH = "0.3s"
# By then a daemon on a loaded machine has taken note of a fault.
NOTICED_SECONDS = 20.0
# As with the drop-in for bridges
WITH_ROUTING = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")
AS_A_SERVICE = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root of its files, with no privilege


class Lab:
    """Two wires: ``here`` (mcastd) has eth0 and eth1, ``there`` their far ends, and talks on the first."""

    def __init__(self, stack: ExitStack) -> None:
        self.here = stack.enter_context(Host())
        self.there = stack.enter_context(Host())
        for host in (self.here, self.there):  # an address that comes later would have mcastd look, and heal
            sysctl(host, ipv6__conf__default__addr_gen_mode=1)
        for number in (0, 1):
            self.plug(number)
        self.talking = threading.Event()
        self.talking.set()
        talker = stack.enter_context(Talker(self.there, "net0", GROUP, PORT, source="10.6.0.2"))
        self.talker = talker
        stack.enter_context(meanwhile(self._talk, 0.02, "talk"))
        self.daemon: RunningDaemon
        self.directory: Path
        self.worn = False  # a fix has changed it: the next case has a new one

    def plug(self, number: int) -> None:
        connect(self.here, f"eth{number}", self.there, f"net{number}")
        for host, name, last in ((self.here, f"eth{number}", 1), (self.there, f"net{number}", 2)):
            host.ip(f"addr add 10.6.{number}.{last}/24 dev {name}")
            host.ip(f"addr add fe80::{last}/64 dev {name} nodad")

    def _talk(self) -> None:
        if self.talking.is_set():
            with contextlib.suppress(OSError):  # a fault may have taken the way from it
                self.talker.send()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """In the block the lab sends nothing of its own."""
        self.talking.clear()
        try:
            yield
        finally:
            self.talking.set()

    # -- what cases do

    def text(self, config: str) -> str:
        return config.replace("DIR", str(self.directory))

    def reload(self, config: str) -> None:
        self.daemon.write(self.text(config))
        answer = self.daemon.ctl("reload")
        assert answer.returncode == 0, answer.stderr

    def shell(self, command: str) -> None:
        """Run a command as root of the network would, beside the daemon."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "MCASTD_CONTROL_SOCKET": str(self.daemon.socket)}
        for word in command.split():  # what a shell runs is missing without a FileNotFoundError
            if word in programs.FOR_TESTS:
                program(word)
        subprocess.run(self.here.enter(["sh", "-ec", command]), check=True, env=environment, timeout=30)

    def doctor(self, *arguments: str, enter: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
        """What ``mcastctl doctor --json`` says, run by root of the network: exit status and report.

        ``enter`` goes in front of the command.
        """
        words = ["--socket", str(self.daemon.socket), "doctor", "--json", "--watch", WATCH, *arguments]
        if enter:
            command = self.here.enter([*enter, *MCASTCTL, *words])
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        else:
            answer = mcastctl(*words, network=f"/proc/{self.here.pid}/ns/net")
        assert answer.stdout, answer.stderr
        return answer.returncode, json.loads(answer.stdout)


LABS: dict[str, Callable[[ExitStack], Lab]] = {"two wires": Lab}

Fault = Callable[[Lab], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """One fault. ``config`` is well without it; DIR stands for the test's directory."""

    cause: str
    severity: str
    config: str
    fault: Fault
    worker: str = "inbound/news"
    prepare: Fault | None = None  # before the daemon starts
    wrap: Sequence[str] = ()  # a command in front of the daemon's
    rights: Sequence[str] = AS_A_SERVICE  # another one, which says what the daemon may
    arguments: Sequence[str] = ()  # for the doctor
    never: Sequence[str] = ()  # causes that would be wrong beside it
    lab: str = "two wires"
    variant: str = ""
    by_hand: str = ""  # why no program can carry out the fix: then ending the fault stands for it, or ...
    hand: Callable[[Lab, str], None] | None = None  # does what a person would, as the fix says
    measured: bool = False  # the fix is as busy as the machine was: it is done again, as it is said by then

    @property
    def name(self) -> str:
        return f"{self.cause}-{self.variant}" if self.variant else self.cause


EXIT = {"broken": 2, "warning": 1, "hint": 0}


def show(
    case: Case, labs: Callable[[str], Lab], directory: Path, record: Callable[[str, object], None]
) -> None:
    """Show that the doctor finds nothing in the healthy twin, then names the fault first, and can mend it."""
    ways = scene(case, labs(case.lab), directory / "0", record)
    for number in range(1, ways):  # the others, each on its own
        scene(case, labs(case.lab), directory / str(number), lambda *_: None, number)


def scene(
    case: Case, lab: Lab, directory: Path, record: Callable[[str, object], None], number: int = 0
) -> int:
    """From the healthy twin to the one mended by way ``number``. Returns how many ways the fix has."""
    directory.mkdir()
    lab.directory = directory
    with ExitStack() as stack:
        if case.prepare is not None:
            stack.enter_context(case.prepare(lab))
        enter = lab.here.enter([lab.text(word) for word in (*case.wrap, *case.rights)])
        lab.daemon = stack.enter_context(RunningDaemon(directory, lab.text(case.config), enter=enter))
        status, healthy = lab.doctor(*case.arguments)
        record("false alarms", len(healthy["findings"]))
        alarm = f"false alarm: {healthy}"
        assert (healthy["findings"], left_out(healthy), status) == ([], [], 0), alarm
        fault = case.fault(lab)
        fault.__enter__()
        try:
            record("made", case.name)
            first = named(case, lab)
            record("named", case.name)
            assert bool(first["ways"]) != bool(case.by_hand), first
            if first["ways"]:
                mend(case, lab, first, first["ways"][number])
                record("mended", case.name)
            elif case.hand is not None:
                case.hand(lab, first["fix"])
                require_gone(case, lab)
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # what it undoes may be mended
                fault.__exit__(None, None, None)
    return len(first["ways"])


def named(case: Case, lab: Lab) -> dict[str, Any]:
    """The finding, which is the first of its worker's: once the daemon has taken note of the fault."""
    looks: list[tuple[int, dict[str, Any]]] = []

    def is_named() -> bool:
        looks.append(lab.doctor(*case.arguments))
        found = [one for one in looks[-1][1]["findings"] if one["worker"] == case.worker]
        return bool(found) and (found[0]["cause"], found[0]["severity"]) == (case.cause, case.severity)

    with contextlib.suppress(AssertionError):  # what it says instead is told below
        wait_for(is_named, case.name, timeout=NOTICED_SECONDS)
    status, report = looks[-1]
    of_worker = [one for one in report["findings"] if one["worker"] == case.worker]
    assert of_worker, report
    first: dict[str, Any] = of_worker[0]
    assert (first["cause"], first["severity"]) == (case.cause, case.severity), of_worker
    assert not {one["cause"] for one in of_worker} & set(case.never), of_worker
    worst = max(EXIT[one["severity"]] for one in report["findings"])
    assert status == worst, report["findings"]
    assert first["what"]
    assert first["evidence"]
    assert first["fix"]
    if case.worker:
        assert left_out(report) == [], report
    else:  # mcastctl knows the workers by the file, which is another than what runs
        assert {one["reason"] for one in left_out(report)} == {UNKNOWN}, report
    return first


def mend(case: Case, lab: Lab, finding: dict[str, Any], way: dict[str, Any]) -> None:
    """Carry out one way of the fix, to the letter: the finding goes away."""
    for part in (way["command"], *way["lines"]):
        assert part in finding["fix"], finding
    assert not way["unit"], "no service runs here"
    if way["command"]:
        lab.worn = True
        lab.shell(way["command"])
    follow(lab, way)
    require_gone(case, lab)


def follow(lab: Lab, way: dict[str, Any]) -> None:
    """Write its lines into the configuration."""
    if way["lines"]:
        lab.reload(changed(lab.daemon.config.read_text(), way["table"], way["lines"]))


def require_gone(case: Case, lab: Lab) -> None:
    """Wait until the doctor does not find the fault any more."""

    def gone() -> bool:
        _, report = lab.doctor(*case.arguments)
        left = [
            one for one in report["findings"] if (one["worker"], one["cause"]) == (case.worker, case.cause)
        ]
        for finding in left if case.measured else ():
            follow(lab, finding["ways"][0])
        return not left

    wait_for(gone, f"{case.name} mended", timeout=240)  # each look takes seconds


def changed(config: str, table: str, lines: Sequence[str]) -> str:
    """``config`` with ``lines`` in a table, instead of those that it has for the same keys."""
    before, header, rest = config.partition(table + "\n")
    assert header, config
    body, bracket, after = rest.partition("\n[")
    keys = {line.partition("=")[0].strip() for line in lines}
    kept = [line for line in body.splitlines() if line.partition("=")[0].strip() not in keys]
    return before + header + "\n".join([*kept, *lines]) + bracket + after


def left_out(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was not looked at, but for the querier: that none is there takes a watch of minutes."""
    return [one for one in report["skipped"] if one["check"] != "querier"]


def labs() -> Iterator[Callable[[str], Lab]]:
    """Makes each lab when it is first asked for; all end with the caller."""
    made: dict[str, tuple[Lab, ExitStack]] = {}
    with ExitStack() as stack:

        def lab(name: str) -> Lab:
            if name in made and made[name][0].worn:
                made.pop(name)[1].close()
            if name not in made:
                of_its_own = stack.enter_context(ExitStack())
                made[name] = LABS[name](of_its_own), of_its_own
            return made[name][0]

        yield lab
