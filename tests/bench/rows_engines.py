"""Rows on engines: messages that are handed over and acknowledged, and messages that are taken and sent.

Both beside the clients that others use.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.engines import EngineServer, NatsServer, RedisServer

from bench.context import Bench
from bench.daemon import Daemon
from bench.engine_clients import BATCH, KEPT, KEPT_STREAM, SIZE
from bench.measure import middle, ratio
from bench.processes import cpu_ns
from bench.report import Check, Result, at_most, times
from bench.rows_relay import OUT, OUT_ADDRESS, arrived, second_wire

CLIENTS = Path(__file__).with_name("engine_clients.py")
TAKERS = Path(__file__).with_name("engine_takers.py")
COUNT = 400 * BATCH
# Acknowledged messages a second, for each processor that the client has: the server wants one, too.
GOAL = 100_000
# CPU of what is handed over, of the library's.
HANDED_GOAL = 1 / 3
# By whose clock of CPU time a rate is told: what a sample calls it.
CLOCKS = {"client": "cpu", "server": "server"}
PEERS = {"nats": "nats-py", "redis": "redis-py"}
# CPU of what is taken, of the library's. Redis answers with each entry in some twenty strings, which both
# read in Python.
TAKEN_GOALS = {"nats": 0.5, "redis": 1.0}
# What is measured begins with this part of the messages: before it the connection is made.
WARM_UP = 0.1
# Between two looks at how many have come, and how long is waited for the next one, in seconds.
LOOK, PATIENCE = 0.002, 15.0


def engines(bench: Bench) -> list[Result]:
    """1316 bytes to the file storage of NATS, and to a stream of Redis that writes each second."""
    return [_result(bench, kind) for kind in PEERS]


def _result(bench: Bench, kind: str) -> Result:
    peer = PEERS[kind]
    count = bench.choose(COUNT, 40 * BATCH)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = _server(bench, kind, directory)
        stack.callback(server.stop)
        contestants = {
            name: partial(_handed, bench, name, server, count) for name in ("mcastd", "mcastd-memory", peer)
        }
        samples = bench.interleave(f"engine {kind}", contestants)
    cpu = middle(samples, "mcastd", "cpu") or math.inf
    less = {name: ratio(samples, name, peer, "cpu") for name in ("mcastd", "mcastd-memory")}
    a_core = {who: 1e9 / (middle(samples, "mcastd", of) or math.inf) for who, of in CLOCKS.items()}
    return Result(
        f"to {kind}, {SIZE} B, acknowledged",
        samples,
        [
            at_most(f"CPU of {peer}", less["mcastd"], HANDED_GOAL),
            Check(f"{GOAL:,} a second and core", f"{a_core['client']:,.0f}", a_core["client"] >= GOAL),
        ],
        cpu=cpu,
        rate=middle(samples, "mcastd", "rate"),
        of_peers=f"{peer} {times(CPU=less['mcastd'], rate=ratio(samples, 'mcastd', peer, 'rate'))}",
        notes=[
            f"without a spool {times(CPU=less['mcastd-memory'])} of {peer}",
            f"the server takes {a_core['server']:,.0f} a second and core",
        ],
    )


def _server(bench: Bench, kind: str, directory: Path) -> EngineServer:
    host = bench.lab.receiver
    if kind == "redis":
        redis = RedisServer(host, directory, "--appendfsync", "everysec")
        redis.start()
        return redis
    nats = NatsServer(host, directory)
    nats.start()
    kept = {"storage": "file", "max_bytes": 512 << 20, "discard": "old"}
    nats.api(f"STREAM.CREATE.{KEPT_STREAM}", {"name": KEPT_STREAM, "subjects": ["bench.>"], **kept})
    return nats


def _handed(bench: Bench, client: str, server: EngineServer, count: int) -> dict[str, float]:
    command = (*bench.checkout.command(), str(CLIENTS), client, server.url, str(count))
    before = cpu_ns(server.pid)
    ran = subprocess.run(
        bench.lab.receiver.enter(command),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **bench.checkout.environment()},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found | {"server": (cpu_ns(server.pid) - before) / count}


# -- what is taken of an engine, and sent


def taken(bench: Bench) -> list[Result]:
    """1316 bytes of the file storage of NATS, and of a stream of Redis, to the wire, each acknowledged."""
    with second_wire(bench):
        return [_taken_result(bench, kind) for kind in PEERS]


def _taken_result(bench: Bench, kind: str) -> Result:
    peer, count = PEERS[kind], bench.choose(COUNT, 16 * BATCH)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = _server(bench, kind, directory)
        stack.callback(server.stop)
        # All take the same messages, each time by another consumer
        _handed(bench, "mcastd-memory", server, count)
        daemon = Daemon(bench.lab, bench.checkout, "", stack)
        contestants = {
            "mcastd": partial(_by_channel, bench, daemon, kind, server.url, count),
            peer: partial(_by_library, bench, peer, server.url, count),
        }
        samples = bench.interleave(f"taken of {kind}", contestants)
    lost = sum(samples["mcastd"]["lost"])
    less = ratio(samples, "mcastd", peer, "cpu")
    rate = middle(samples, "mcastd", "rate")
    return Result(
        f"taken of {kind}, {SIZE} B, sent and acknowledged",
        samples,
        [
            at_most(f"CPU of {peer}", less, TAKEN_GOALS[kind]),
            Check("nothing lost", f"{lost:.0f} lost", not lost),
        ],
        cpu=middle(samples, "mcastd", "cpu"),
        rate=rate,
        of_peers=f"{peer} {times(CPU=less, rate=ratio(samples, 'mcastd', peer, 'rate'))}",
    )


def _by_channel(bench: Bench, daemon: Daemon, kind: str, url: str, count: int) -> dict[str, float]:
    group, port = bench.lab.new_address()
    of_kind = {
        "nats": f'stream = "{KEPT_STREAM}", consumer = "channel-{port}"',
        "redis": f'key = "{KEPT["redis"]}", group = "channel-{port}"',
    }[kind]
    daemon.write(f"""[outbound.one]
source = {{ kind = "{kind}", servers = "{url}", {of_kind}, create = true, start = "first" }}
group = "{group}"
port = {port}
interface = "{OUT}"
ttl = 8
loop = false
""")
    before = arrived(bench)
    daemon.reload()
    found = _passed(bench, daemon.program.cpu, before, count)
    daemon.write("")
    daemon.reload()
    return found


def _by_library(bench: Bench, peer: str, url: str, count: int) -> dict[str, float]:
    lab = bench.lab
    to = lab.new_address()
    command = (*bench.checkout.command(), str(TAKERS), peer, url, f"library-{to.port}")
    with contextlib.ExitStack() as stack:
        before = arrived(bench)
        where = (to.group, str(to.port), OUT_ADDRESS)
        environment = bench.checkout.environment()
        environment["PYTHONPATH"] += f"{os.pathsep}{TAKERS.parents[1]}"
        program = lab.start(lab.receiver, *command, *where, stack=stack, env=environment)
        return _passed(bench, program.cpu, before, count)


def _passed(bench: Bench, cpu: Callable[[], int], before: int, count: int) -> dict[str, float]:
    """CPU ns a message and messages a second, of those after WARM_UP, and how many never came."""

    def passed() -> int:
        return round((arrived(bench) - before) / SIZE)

    def wait(wanted: int) -> tuple[int, int, float]:
        """How many have come, the sender's CPU time, and when, once it is so many or no more come."""
        came, moved_at = passed(), time.monotonic()
        while came < wanted and time.monotonic() - moved_at < PATIENCE:
            time.sleep(LOOK)
            if (now := passed()) > came:
                came, moved_at = now, time.monotonic()
        return came, cpu(), moved_at

    first, at_first, began = wait(round(WARM_UP * count))
    last, at_last, ended = wait(count)
    many = max(1, last - first)
    return {
        "cpu": (at_last - at_first) / many,
        "rate": many / max(LOOK, ended - began),
        "lost": max(0, count - last),
    }
