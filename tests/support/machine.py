"""A container with a real systemd in it: a host on which mcastd is installed as a package.

Its root is an overlay over layers that are shared and stay as they are; what a test writes is in memory and
gone with it. It has a network of its own, in which there is only the loopback interface at first.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import roots

from support.wait import wait_for

UNIT = "mcastd.service"
_serial = itertools.count()

BOOT = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ "$UPPER" ] || mount -t tmpfs -o mode=755 tmpfs "$SPACE"
UPPER=${UPPER:-$SPACE/upper} WORK=${WORK:-$SPACE/work}
mkdir -p "$UPPER" "$WORK" "$SPACE/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$SPACE/root"
exec systemd-nspawn --quiet --boot -D "$SPACE/root" -M "$NAME" --register=no --keep-unit --private-network \
  --console=pipe --link-journal=no --timezone=off --resolv-conf=off \
  --capability=CAP_BPF --system-call-filter=bpf --bind-ro="$SHARED:/mnt"
"""


class Machine:
    """From boot to power-off. ``layers``, topmost first; with ``upper`` what is written stays there."""

    def __init__(self, space: Path, layers: Sequence[Path], shared: Path, upper: Path | None = None) -> None:
        self.name = f"mcastd-{os.getpid()}-{next(_serial)}"
        self._started: list[subprocess.Popen[Any]] = []
        self._cgroup = roots.cgroup_root() / self.name
        self._console = space / f"{self.name}.log"
        directory = space / self.name
        directory.mkdir(parents=True)
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LOWER": ":".join(map(str, layers)),
            "UPPER": str(upper or ""),
            "WORK": str(upper.with_name(upper.name + ".work") if upper else ""),
            "SPACE": str(directory),
            "NAME": self.name,
            "SHARED": str(shared),
        }
        self._cgroup.mkdir()
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private",
                 "bash", "-ec", f'echo $$ >"{self._cgroup}/cgroup.procs"\n{BOOT}'],
                env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        self.leader = 0
        try:
            self.leader = wait_for(self._find_leader, "systemd in the container", timeout=60)
            self._wait_booted()
        except BaseException:
            self.power_off()
            raise

    def _find_leader(self) -> int:
        assert self._nspawn.poll() is None, f"no container:\n{self._console.read_text()}"
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                parent = int(Path(f"/proc/{int(entry)}/stat").read_text().rpartition(")")[2].split()[1])
                if parent == self._nspawn.pid and os.readlink(f"/proc/{entry}/exe").endswith("/systemd"):
                    return int(entry)
        return 0

    def _wait_booted(self) -> None:
        def booted() -> bool:
            result = self.run("systemctl", "is-system-running", "--wait", check=False)
            return result.stdout.strip() in ("running", "degraded")

        wait_for(booted, f"{self.name} booted", timeout=120)

    # -- commands and files

    def enter(self, *command: str, user: str = "") -> list[str]:
        """The command line that runs ``command`` in here, as root or another user."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        who = ["runuser", "-u", user, "--"] if user else []
        environment = ["env", "-i", path, "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
        return ["nsenter", "-t", str(self.leader), "-a", "--", *environment, *who, *command]

    def run(
        self, *command: str, user: str = "", check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self.enter(*command, user=user),
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            input=input,
        )
        if check:
            assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def shell(self, script: str, *, user: str = "", check: bool = True) -> str:
        """What a shell script prints."""
        return self.run("bash", "-euo", "pipefail", "-c", script, user=user, check=check).stdout

    def start(self, *command: str, user: str = "", **options: Any) -> subprocess.Popen[Any]:
        """A program that runs beside the test; it ends with the machine at the latest."""
        self._started.append(subprocess.Popen(self.enter(*command, user=user), **options))
        return self._started[-1]

    def path(self, path: str) -> Path:
        """A file in here, as seen from outside. Symlinks in it that are absolute lead astray."""
        return Path(f"/proc/{self.leader}/root{path}")

    # -- the service

    def show(self, *properties: str, unit: str = UNIT) -> dict[str, str]:
        output = self.run("systemctl", "show", unit, "-p", ",".join(properties)).stdout
        return dict(line.split("=", 1) for line in output.splitlines())

    def main_pid(self, unit: str = UNIT) -> int:
        """The daemon's pid in here; 0 if it does not run."""
        return int(self.show("MainPID", unit=unit)["MainPID"])

    def wait_active(self, unit: str = UNIT) -> None:
        def active() -> bool:
            state = self.show("ActiveState", "SubState", unit=unit)
            return state == {"ActiveState": "active", "SubState": "running"}

        wait_for(active, f"{unit} active", timeout=60)

    def journal(self, *matches: str, unit: str = UNIT) -> list[dict[str, Any]]:
        """What the journal has of the unit since boot, oldest first."""
        self.run("journalctl", "--sync")
        output = self.run("journalctl", "-u", unit, "-o", "json", "--all", *matches).stdout
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def messages(self, unit: str = UNIT) -> str:
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.journal(unit=unit))

    def workers(self, *options: str) -> dict[str, dict[str, Any]]:
        """``mcastctl status --json``, by worker name; ``options`` come before the command."""
        result = self.run("mcastctl", *options, "status", "--json", check=False)
        assert result.stdout, result.stderr
        return {worker["name"]: worker for worker in json.loads(result.stdout)["workers"]}

    def wait_worker(self, name: str, state: str = "active") -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            worker = self.workers().get(name)
            return worker if worker and worker["state"] == state else None

        worker = wait_for(reached, f"{name} {state}", timeout=60)
        assert worker is not None
        return worker

    def set_drop_in(self, text: str) -> None:
        """Change the unit as `systemctl edit` does, and restart the service."""
        directory = self.path("/etc/systemd/system/mcastd.service.d")
        directory.mkdir()
        (directory / "override.conf").write_text(text)
        self.shell("systemctl daemon-reload; systemctl restart mcastd")

    # -- the end

    def power_off(self) -> None:
        """Ask systemd, then kill; nothing of the container is left."""
        for process in self._started:  # a nsenter stops when what it runs is stopped, and would never go on
            process.kill()
            process.wait()
        for number in (signal.SIGRTMIN + 4, signal.SIGKILL):  # 4: power off, systemd(1)
            with contextlib.suppress(ProcessLookupError):
                if self.leader:
                    os.kill(self.leader, number)
                else:
                    self._nspawn.terminate()
            try:
                self._nspawn.wait(60)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            self._nspawn.kill()
            self._nspawn.wait()
        self._remove_cgroup()

    def _remove_cgroup(self) -> None:
        def gone() -> bool:
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            return not self._cgroup.exists()

        wait_for(gone, f"{self._cgroup} empty")


MANUAL = Path(__file__).parents[2] / "packaging" / "man" / "mcastd.8"


def shown_drop_in(section: str) -> str:
    """The drop-in that a section of the manual shows, word for word."""
    _, _, text = MANUAL.read_text().partition(f".Ss {section}\n")
    (found,) = re.findall(r"^\[Service\]\n(?:.*\n)*?(?=\.Ed)", text.partition("\n.S")[0], re.MULTILINE)
    return str(found)


FEED = """
import select, socket, sys
group, port, address, pause, length, ttl = sys.argv[1:]
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, int(ttl))
link.bind((address, 0))
sent = 0
while not select.select([sys.stdin], [], [], float(pause))[0]:
    link.sendto(b"%d" % sent + b" " * int(length) + b"\\n", (group, int(port)))
    sent += 1
print(sent)
"""


class Feed:
    """Sends numbered lines to a group, in a machine or in a network namespace of it, until stopped."""

    def __init__(
        self,
        machine: Machine,
        group: str,
        port: int,
        *,
        address: str = "127.0.0.1",
        pause: float = 0.001,
        length: int = 0,
        ttl: int = 1,
        namespace: str = "",
    ) -> None:
        arguments = [group, port, address, pause, length, ttl]
        enter = ["ip", "netns", "exec", namespace] if namespace else []
        self._process = machine.start(
            *enter, "python3", "-c", FEED, *map(str, arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop(self) -> int:
        """How many were sent."""
        output, _ = self._process.communicate(timeout=60)
        return int(output)


@contextlib.contextmanager
def running(
    space: Path, layers: Sequence[Path], shared: Path, upper: Path | None = None
) -> Iterator[Machine]:
    machine = Machine(space, layers, shared, upper)
    try:
        yield machine
    finally:
        machine.power_off()
