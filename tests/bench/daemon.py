"""A real ``mcastd run`` under measurement, on one of the laboratory's hosts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from support.host import Host

from bench.lab import Lab
from bench.processes import Program

START = 60.0  # seconds in which it must be ready


class Checkout(NamedTuple):
    """Which mcastd is measured: an interpreter that has its libraries, and the directory of its sources."""

    python: str
    path: Path

    def command(self) -> tuple[str, ...]:
        """-P: or ``-m`` would import from the current directory, whichever checkout was asked for."""
        return (self.python, "-P")

    def environment(self) -> dict[str, str]:
        """Its modules are compiled once, as those of an installed one are, whoever does without that here."""
        return {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": ""}

    def verify(self) -> None:
        """Raises SystemExit unless it is this checkout's mcastd that would run."""
        probe = "import importlib.util; print(importlib.util.find_spec('mcastd').origin)"
        found = Path(self._ask(probe))
        if not found.is_relative_to(self.path):
            raise SystemExit(f"{self.python} would run {found}, which is not in {self.path}")

    def _ask(self, probe: str) -> str:
        answer = subprocess.run(
            [*self.command(), "-c", probe],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **self.environment()},
        )
        return answer.stdout.strip()

    def has_command(self, name: str) -> bool:
        """Whether its mcastctl has the command."""
        return self._ask(f"from mcastd import ctl; print({name!r} in ctl.main.commands)") == "True"

    def describe(self) -> str:
        """The Python version, and whether optional libraries and a commit are there."""
        probe = "import platform, mcastd; print(platform.python_version(), mcastd.__version__)"
        python, version = self._ask(probe).split()
        commit = subprocess.run(
            ["git", "-C", self.path, "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
        return f"mcastd {version} ({commit.stdout.strip() or 'no commit known'}), Python {python}"


class Daemon:
    """``mcastd run`` with a configuration's workers, ready when it is constructed."""

    def __init__(
        self,
        lab: Lab,
        checkout: Checkout,
        workers: str,
        stack: contextlib.ExitStack,
        host: Host | None = None,
        *,
        metrics: str | None = None,
    ) -> None:
        """``workers``: the configuration but its [daemon]; on the receiver's host unless told otherwise."""
        self._lab = lab
        directory = lab.new_path("mcastd")
        directory.mkdir()
        self._config, self.control = directory / "mcastd.toml", directory / "control"
        self._metrics = f'metrics = "{metrics}"\n' if metrics else ""
        self.write(workers)
        address = directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            notified.settimeout(1)
            started = time.monotonic()
            self.program: Program = lab.start(
                host or lab.receiver,
                *(*checkout.command(), "-m", "mcastd", "run", "--config", str(self._config)),
                env={**checkout.environment(), "NOTIFY_SOCKET": str(address)},
                stack=stack,
            )
            self._wait_ready(notified, started + START)
            self.start_time = time.monotonic() - started  # seconds from its start to READY

    def _wait_ready(self, notified: socket.socket, deadline: float) -> None:
        while self.program.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notified.recv(65536):
                    return
        said = self._lab.log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"mcastd is not ready:\n{said}")

    def write(self, workers: str) -> None:
        settings = f'[daemon]\nlog_level = "warning"\ncontrol_socket = "{self.control}"\n'
        self._config.write_text(f"{settings}{self._metrics}\n{workers}")

    def reload(self) -> None:
        """Take what was written, and return when it is in force."""
        self.call("Reload")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """A varlink call (see ``mcastd/control``), without a Python that starts for it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(30)
            control.connect(str(self.control))
            call = {"method": f"io.mcastd.{method}", "parameters": parameters}
            control.sendall(json.dumps(call).encode() + b"\0")
            reply = b""
            while not reply.endswith(b"\0"):
                piece = control.recv(1 << 20)
                if not piece:
                    raise RuntimeError(f"{method}: the daemon hung up")
                reply += piece
        answer: dict[str, Any] = json.loads(reply[:-1])
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer}")
        found: dict[str, Any] = answer.get("parameters", {})
        return found

    def worker(self, name: str) -> dict[str, Any]:
        """The status of ``inbound/NAME`` or ``outbound/NAME``."""
        found: list[dict[str, Any]] = self.call("List")["workers"]
        return next(worker for worker in found if worker["name"] == name)

    def wait_state(self, name: str, *states: str, timeout: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while (worker := self.worker(name))["state"] not in states:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is {worker['state']} and not {states}: {worker.get('detail')}")
            time.sleep(0.02)
        return worker

    def accounted(self, name: str) -> str:
        """What a subscription counted, for a note; empty if nothing was lost."""
        worker = self.worker(name)
        counters, outputs = worker["status"]["counters"], worker["status"]["outputs"]
        lost = {reason: n for output in outputs for reason, n in output["counters"]["dropped"].items()}
        if counters["overflow"]:
            lost["overflow"] = counters["overflow"]
        return ", ".join(f"{reason} {count:,}" for reason, count in lost.items())

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.program.process.send_signal(signal.SIGTERM)


def subscription(
    name: str, group: str, port: int, output: str, settings: Mapping[str, object] | None = None
) -> str:
    """``[inbound.NAME]``; ``output`` and the other settings as TOML values."""
    lines = [f'group = "{group}"', f"port = {port}", 'interface = "bench0"', f"output = {output}"]
    lines += [f"{key} = {value}" for key, value in (settings or {}).items()]
    return "\n".join([f"[inbound.{name}]", *lines, "", ""])


def channel(name: str, group: str, port: int, source: Path, settings: Mapping[str, object]) -> str:
    """``[outbound.NAME]``; the other settings as TOML values."""
    lines = [f'source = "{source}"', f'group = "{group}"', f"port = {port}", 'interface = "bench0"']
    lines += [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join([f"[outbound.{name}]", *lines, "", ""])
