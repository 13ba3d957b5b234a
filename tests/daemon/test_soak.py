"""A busy daemon: 200 reloads, reopens, deleted outputs; nothing unaccounted, nothing leaked."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.wait import wait_for

PAIRS = 50
KEPT = 5  # the first pairs are never touched: they must not lose a datagram
ROUNDS = 200
LINES = 40


def channel(number: int, source: Path, interval: float) -> str:
    where = f'group = "239.255.10.{number}"\nport = 9200\ninterface = "lo"\nttl = 0'
    return f'[outbound.c{number}]\n{where}\nsource = "{source}"\ninterval = {interval}\nrepeat = "forever"\n'


def subscription(number: int, directory: Path, kind: int) -> str:
    path = directory / f"{number}.log"
    output = [
        f'"{path}"',
        f'{{ kind = "file", path = "{path}", format = "json" }}',
        f'{{ kind = "file", path = "{path}", format = "lines", rotate_size = "4KiB", keep = 1 }}',
        f'[{{ kind = "fifo", path = "{directory}/{number}.pipe" }}, {{ kind = "file", path = "{path}" }}]',
    ][kind]
    where = f'group = "239.255.10.{number}"\nport = 9200\ninterface = "lo"'
    return f"[inbound.s{number}]\n{where}\noutput = {output}\n"


class Plan:
    """Which workers are configured, and how; changed at random."""

    def __init__(self, directory: Path, source: Path) -> None:
        self._directory = directory
        self._source = source
        self.channels = dict.fromkeys(range(PAIRS), 0.01)
        self.subscriptions = {number: number % 4 for number in range(PAIRS)}

    def text(self) -> str:
        channels = [channel(number, self._source, interval) for number, interval in self.channels.items()]
        subscriptions = [subscription(n, self._directory, kind) for n, kind in self.subscriptions.items()]
        return "\n".join(channels + subscriptions)

    def mutate(self, dice: random.Random) -> None:
        for _ in range(dice.randint(1, 10)):
            number = dice.randrange(KEPT, PAIRS)
            match dice.randrange(4):
                case 0:
                    self.channels[number] = dice.choice([0.005, 0.01, 0.02])
                case 1:
                    self.channels.pop(number, None)
                case 2:
                    self.subscriptions[number] = dice.randrange(4)
                case 3:
                    self.subscriptions.pop(number, None)


def accounted(output: Mapping[str, Any]) -> int:
    return int(output["written"] + sum(output["dropped"].values()) + output.get("queued", 0))


def assert_accounted(received: int, output: Mapping[str, Any]) -> None:
    assert received == accounted(output), output


def is_settled(workers: Mapping[str, Any], number: int) -> bool:
    """Return True if all that was sent to a subscription is received, and each datagram is accounted for."""
    status = workers[f"inbound/s{number}"]["status"]
    got = status["counters"]
    if number < KEPT:
        sent = workers[f"outbound/c{number}"]["status"]["counters"]["sent"]
        if sent != got["received"] + got["overflow"]:
            return False
    return all(
        got["received"] - output["received_before"] == accounted(output["counters"])
        for output in status["outputs"]
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_soak(tmp_path: Path) -> None:
    seed = int(os.environ.get("MCASTD_SOAK_SEED", "20261123"))
    dice = random.Random(seed)
    source, outputs = tmp_path / "news.txt", tmp_path / "out"
    source.write_text("".join(f"line {number} of the news\n" for number in range(LINES)))
    subscriptions_first = "\n".join(subscription(number, outputs, number % 4) for number in range(PAIRS))
    with RunningDaemon(tmp_path, subscriptions_first) as daemon:
        start = Plan(outputs, source)
        daemon.write(start.text())
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: all(worker["state"] == "active" for worker in daemon.workers().values()))
        threads, fds = daemon.settled()
        plan, reloads, reopens, deletions = Plan(outputs, source), 0, 0, 0
        for _ in range(ROUNDS):
            match dice.randrange(3):
                case 0:
                    plan.mutate(dice)
                    daemon.write(plan.text())
                    daemon.call("Reload")
                    reloads += 1
                case 1:
                    daemon.send(signal.SIGUSR1)
                    reopens += 1
                case 2:
                    present = sorted(outputs.glob("*.log"))
                    for path in dice.sample(present, min(5, len(present))):
                        path.unlink(missing_ok=True)
                        deletions += 1
        daemon.write(start.text())
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: all(worker["state"] == "active" for worker in daemon.workers().values()))
        wait_for(
            lambda: (daemon.threads(), daemon.fds()) == (threads, fds), f"{threads} threads, {fds} fds again"
        )
        for number in range(PAIRS):  # senders first, so that all that was sent has arrived
            daemon.call("Stop", name=f"outbound/c{number}")

        def settled() -> dict[str, dict[str, Any]] | None:
            """All workers, once what was sent has been taken, and told."""
            workers = daemon.workers()
            return workers if all(is_settled(workers, number) for number in range(PAIRS)) else None

        with contextlib.suppress(AssertionError):  # what is missing is told below
            wait_for(settled, "all accounted for")
        workers = daemon.workers()
        for number in range(KEPT):
            sent = workers[f"outbound/c{number}"]["status"]["counters"]
            got = workers[f"inbound/s{number}"]["status"]["counters"]
            assert sent["sent"] == got["received"] + got["overflow"]
            assert not sent["refused"]
            assert got["overflow"] == 0
        for number in range(PAIRS):
            status = workers[f"inbound/s{number}"]["status"]
            for output in status["outputs"]:
                received = status["counters"]["received"] - output["received_before"]
                assert_accounted(received, output["counters"])
        assert daemon.stop() == 0
        closed = daemon.events("subscription.closed")
        assert len(closed) >= PAIRS
        for event in closed:
            for output in event["outputs"].values():
                assert_accounted(event["received"] - output["received_before"], output)
        assert not daemon.events("worker.crashed")
        assert not daemon.events("worker.abandoned")
    print(f"seed {seed}: {reloads} reloads, {reopens} reopens, {deletions} deletions, {len(closed)} closed")
