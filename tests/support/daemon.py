"""A real ``mcastd run`` in a process of its own, with a service manager's notify socket beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcastd.control.client import ControlClient
from support.forked import mcastctl
from support.wait import DEADLINE_SECONDS, wait_for

MCASTD = (sys.executable, "-m", "mcastd")
MCASTCTL = (sys.executable, "-c", "from mcastd.entry import mcastctl; mcastctl()")

# Gives descriptors to a program as systemd does (sd_listen_fds(3)): a list of them, and its command line.
HAND_OVER = """if True:
    import fcntl, os, sys
    given = [int(fd) for fd in sys.argv[1].split(",")]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1000) for fd in given]
    for fd in given:
        os.close(fd)
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class RunningDaemon:
    """``mcastd run`` on a configuration text; control socket, log and outputs live in ``directory``.

    ``stored`` are the descriptors that the daemon before had the service manager keep: they are taken over.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        ready: bool = True,
        enter: Sequence[str] = (),
        stored: dict[str, int] | None = None,
        **env: str,
    ) -> None:
        self.directory = directory
        self.config = directory / "mcastd.toml"
        self.socket = directory / "control"
        self.log = directory / "mcastd.log"
        self.messages: list[dict[str, str]] = []  # what was notified, oldest first
        self.write(config)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = directory / "notify"
        address.unlink(missing_ok=True)
        self._notify.bind(str(address))
        self._notify.settimeout(0.1)
        self.stored = stored.copy() if stored else {}  # descriptors by name, as systemd keeps them
        if stored:
            enter = (*enter, sys.executable, "-c", HAND_OVER, ",".join(map(str, stored.values())))
            env["LISTEN_FDS"], env["LISTEN_FDNAMES"] = str(len(stored)), ":".join(stored)
            stored.clear()
        self._closing = False
        self._listener = threading.Thread(target=self._listen)  # or the daemon would wait for room
        self._listener.start()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*enter, *MCASTD, "run", "--config", str(self.config)],
                stderr=log,
                stdout=log,
                env={**os.environ, "NOTIFY_SOCKET": str(address), **env},
                pass_fds=list(self.stored.values()),
            )
        if ready:
            self.wait_notified("READY")

    def write(self, config: str) -> None:
        """Put ``config`` in place, with what a test always wants in [daemon] unless it says otherwise."""
        if "[daemon]" not in config:
            config = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{self.socket}"\n\n{config}'
        temporary = self.config.with_suffix(".new")
        temporary.write_text(config)
        temporary.rename(self.config)

    def _listen(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                data, fds, *_ = socket.recv_fds(self._notify, 65536, 1)
                message = dict(line.split("=", 1) for line in data.decode().splitlines())
                if "FDSTORE" in message:
                    self.stored[message["FDNAME"]] = fds[0]
                elif "FDSTOREREMOVE" in message and message["FDNAME"] in self.stored:
                    os.close(self.stored.pop(message["FDNAME"]))
                self.messages.append(message)

    def wait_notified(self, key: str, count: int = 1) -> dict[str, str]:
        """The ``count``-th message that sets ``key``."""

        def found() -> dict[str, str] | None:
            assert self.process.poll() is None, f"mcastd ended:\n{self.log.read_text()}"
            matching = [message for message in self.messages if key in message]
            return matching[count - 1] if len(matching) >= count else None

        message = wait_for(found, f"{key}= notified {count} times")
        assert message is not None
        return message

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return mcastctl("--socket", str(self.socket), *arguments, timeout=DEADLINE_SECONDS)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """What the control socket answers to a method of io.mcastd. Raises VarlinkError and ControlError."""
        with ControlClient(self.socket, timeout=DEADLINE_SECONDS) as client:
            return client.call(f"io.mcastd.{method}", **parameters)

    def workers(self) -> dict[str, dict[str, Any]]:
        """What ``mcastctl status --json`` shows of them, by name; asked without a process of its own."""
        return {worker["name"]: worker for worker in self.call("List")["workers"]}

    def worker(self, name: str) -> dict[str, Any]:
        return self.workers()[name]

    def wait_state(self, name: str, *states: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            worker = self.worker(name)
            return worker if worker["state"] in states else None

        worker = wait_for(reached, f"{name} in {states}")
        assert worker is not None
        return worker

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What was logged as JSON, oldest first; only events of that ``name`` if given."""
        lines = self.log.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in events if not name or event["event"] == name]

    def wait_events(self, name: str, count: int = 1, **fields: str) -> list[dict[str, Any]]:
        """Wait for ``count`` events or more of that name and ``fields``, and return all of them.

        A thread of its own writes the log: an event may be read later than what ``status`` tells of it.
        """

        def logged() -> list[dict[str, Any]]:
            return [e for e in self.events(name) if fields.items() <= e.items()]

        wait_for(lambda: len(logged()) >= count, f"{count} x {name} {fields or ''}")
        return logged()

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def settled(self) -> tuple[int, int]:
        """Threads and file descriptors, once those of the clients before have gone."""
        seen: list[tuple[int, int]] = []

        def same() -> bool:
            seen.append((self.threads(), self.fds()))
            return len(seen) >= 20 and len(set(seen[-20:])) == 1

        wait_for(same, "no thread that ends")
        return seen[-1]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)

    def __enter__(self) -> RunningDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._closing = True
        self._listener.join()
        self._notify.close()
        for fd in self.stored.values():
            os.close(fd)
