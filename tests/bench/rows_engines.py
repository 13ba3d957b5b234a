"""Row on what is handed to an engine: acknowledged messages, beside the clients that others use."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from support.engines import EngineServer, NatsServer, RedisServer

from bench.context import Bench
from bench.engine_clients import BATCH, SIZE
from bench.measure import middle, ratio
from bench.report import Check, Result, at_least, times

CLIENTS = Path(__file__).with_name("engine_clients.py")
COUNT = 400 * BATCH
# Acknowledged messages a second.
GOAL = 100_000
# Of the library's rate.
TIMES = 3.0
PEERS = {"nats": "nats-py", "redis": "redis-py"}


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
            name: partial(_handed, bench, name, server.url, count)
            for name in ("mcastd", "mcastd-memory", peer)
        }
        samples = bench.interleave(f"engine {kind}", contestants)
    rate = middle(samples, "mcastd", "rate") or 0
    faster = {name: ratio(samples, name, peer, "rate") for name in ("mcastd", "mcastd-memory")}
    return Result(
        f"to {kind}, {SIZE} B, acknowledged",
        samples,
        [
            at_least(f"rate of {peer}", faster["mcastd"], TIMES),
            Check(f"{GOAL:,} a second", f"{rate:,.0f}", rate >= GOAL),
        ],
        cpu=middle(samples, "mcastd", "cpu"),
        rate=rate,
        of_peers=f"{peer} {times(rate=faster['mcastd'])}",
        notes=[f"without a spool {times(rate=faster['mcastd-memory'])} of {peer}"],
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
    nats.api("STREAM.CREATE.BENCH", {"name": "BENCH", "subjects": ["bench.>"], **kept})
    return nats


def _handed(bench: Bench, client: str, url: str, count: int) -> dict[str, float]:
    command = (*bench.checkout.command(), str(CLIENTS), client, url, str(count))
    ran = subprocess.run(
        bench.lab.receiver.enter(command),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **bench.checkout.environment()},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found
