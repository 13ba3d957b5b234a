"""A channel of the daemon that sends a file when told to, with nothing else in the account."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

from bench.daemon import Checkout, Daemon, channel
from bench.lab import MIB, Address, Lab

BLOCK = 64 * MIB


class Sent(NamedTuple):
    """What one sending took."""

    cpu: int  # ns of the daemon
    datagrams: int
    seconds: float


def random_file(path: Path, size: int) -> Path:
    """A file that no compression helps with."""
    with path.open("wb") as file:
        while size:
            size -= file.write(os.urandom(min(size, BLOCK)))
    return path


class Channel:
    """``mcastd run`` with one outbound channel, whose source is a few bytes until :meth:`send`.

    So the cost of starting the daemon, of its configuration and of its imports is over before a file is sent.
    """

    def __init__(
        self,
        lab: Lab,
        checkout: Checkout,
        to: Address,
        stack: contextlib.ExitStack,
        *,
        size: int,
        **settings: object,
    ) -> None:
        """``size``: of a chunk in bytes; ``settings``: of the channel, as TOML values."""
        self._lab = lab
        self._size = size
        self._to = to
        self._source = lab.new_path("source")
        self._place(None)
        self.daemon = Daemon(lab, checkout, self._config(settings), stack, host=lab.sender)
        self._finished()

    def _config(self, settings: dict[str, object]) -> str:
        always = {"framing": '"chunk"', "max_datagram": self._size}
        return channel("one", *self._to, self._source, {**always, **settings})

    def _place(self, file: Path | None) -> None:
        new = self._source.with_suffix(".new")
        if file is None:
            new.write_bytes(b"first\n")
        else:
            os.link(file, new)
            self._source.unlink()  # rename(2) does nothing if both are the same file already
        new.rename(self._source)

    def _finished(self) -> int:
        """Wait for the end of what is sent; the daemon's count of datagrams."""
        worker = self.daemon.wait_state("outbound/one", "finished")
        count: int = worker["status"]["counters"]["sent"]
        return count

    def set(self, **settings: object) -> None:
        """Have other settings in force."""
        self._place(None)
        self.daemon.write(self._config(settings))
        self.daemon.reload()
        time.sleep(0.1)
        self._finished()

    def send(self, file: Path, timeout: float = 60) -> Sent:
        """Send ``file`` once."""
        self._place(file)
        size, before = file.stat().st_size, self._finished()
        datagrams = -(-size // self._size)
        program, lab = self.daemon.program, self._lab
        lab.wait_quiet(program.cpu, [], timeout, "the channel")
        bytes_before, cpu = lab.sent_bytes(), program.cpu()
        started = time.monotonic()
        self.daemon.call("Start", name="outbound/one")
        while (
            lab.sent_bytes() - bytes_before < size
        ):  # the interface tells: the daemon is not asked meanwhile
            if time.monotonic() > started + timeout:
                raise RuntimeError(f"not sent within {timeout} s: {self.daemon.worker('outbound/one')}")
            time.sleep(0.002)
        seconds = time.monotonic() - started
        lab.wait_quiet(program.cpu, [], timeout, "the channel")
        cpu = program.cpu() - cpu
        counted = self._finished()  # it may begin anew with each start
        if datagrams not in (counted, counted - before):
            raise RuntimeError(f"{datagrams} datagrams to send, and the daemon counts {counted}")
        return Sent(cpu, datagrams, seconds)
