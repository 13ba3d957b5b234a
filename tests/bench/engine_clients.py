"""Who hands messages to an engine: ``CLIENT URL COUNT``. Prints CPU ns a message, and the rate, as JSON.

``mcastd`` is what an output does in its thread, from batches to acknowledgements, by way of a spool or
without one. The others are what programs in Python use: nats-py, and redis-py with a pipeline, by as many at
once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable

from mcastd import clock, log
from mcastd.config import EngineOutput, NatsOutput, RedisOutput
from mcastd.engines.engine import HandedOver, KeptStream
from mcastd.engines.hand_over import HandOver
from mcastd.engines.kinds import plan_of
from mcastd.net.link import Origin

SIZE = 1316
BATCH = 256
SUBJECT = "bench.of.peers"
STREAM = KeptStream("239.255.9.7", 9190, "bench/inbound/tv")
KEPT_STREAM = "BENCH"
# Under what ``mcastd`` keeps them.
KEPT = {"nats": "bench.239_255_9_7.9190", "redis": "mcast:239_255_9_7:9190"}
# As many wait at most: a queue that is full would drop some.
WAITING_MAX = 8 * BATCH
PAYLOAD = bytes(SIZE)


def mcastd(url: str, count: int, *, spool: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        keys = {"servers": url, "queue": "64MiB", "spool": f"{directory}/spool" if spool else None}
        settings: EngineOutput
        if url.startswith("nats"):
            settings = NatsOutput(**keys, stream=KEPT_STREAM, subject="bench.{group}.{port}")
        else:
            settings = RedisOutput(**keys)
        handed = HandOver(plan_of(settings), STREAM, log.get_logger())
        origins, given, done = [Origin("192.0.2.1", 5000, 1, 8)] * BATCH, 0, 0
        while done < count:
            while given < count and given - done < WAITING_MAX:
                times = [time.time_ns()] * BATCH
                dropped = handed.put(HandedOver([PAYLOAD] * BATCH, origins, times, BATCH * SIZE), STREAM)
                assert not dropped, "the queue is large enough"
                given += BATCH
            time.sleep(0.0005)
            done += handed.collect().written
        handed.stop(clock.monotonic() + 1)


def nats_py(url: str, count: int) -> None:
    import nats

    async def publish() -> None:
        client = await nats.connect(url)
        stream = client.jetstream(publish_async_max_pending=4 * BATCH)
        for _ in range(0, count, BATCH):
            await asyncio.gather(*[await stream.publish_async(SUBJECT, PAYLOAD) for _ in range(BATCH)])
        await client.close()

    asyncio.run(publish())


def redis_py(url: str, count: int) -> None:
    import redis

    client = redis.Redis.from_url(url)
    for _ in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for _ in range(BATCH):
            pipeline.xadd(SUBJECT, {"sender": "192.0.2.1", "time": time.time_ns(), "data": PAYLOAD})
        pipeline.execute()


CLIENTS: dict[str, Callable[[str, int], None]] = {
    "mcastd": lambda url, count: mcastd(url, count, spool=True),
    "mcastd-memory": lambda url, count: mcastd(url, count, spool=False),
    "nats-py": nats_py,
    "redis-py": redis_py,
}


def main() -> None:
    name, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    began, cpu = time.perf_counter(), time.process_time_ns()
    CLIENTS[name](url, count)
    seconds, cpu = time.perf_counter() - began, time.process_time_ns() - cpu
    print(json.dumps({"cpu": cpu / count, "rate": count / seconds}))


if __name__ == "__main__":
    main()
