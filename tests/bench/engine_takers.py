"""Who takes messages of an engine and sends each as one datagram: ``TAKER URL NAME GROUP PORT ADDRESS``.

What programs in Python use: nats-py by a durable consumer that is pulled from, and redis-py by a group of
consumers, both named NAME, from the first message on, and BATCH messages at a time. ADDRESS is that of the
interface. A message is acknowledged once it was sent. It goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Any

from bench.engine_clients import BATCH, KEPT, KEPT_STREAM

# Seconds that the server waits for more.
WAIT = 5


def sender(group: str, port: int, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    sock.connect((group, port))
    return sock


def nats_py(url: str, name: str, sock: socket.socket) -> None:
    import nats
    from nats.errors import TimeoutError as NothingCame

    async def take() -> None:
        client = await nats.connect(url)
        taken = await client.jetstream().pull_subscribe(KEPT["nats"], durable=name, stream=KEPT_STREAM)
        while True:
            with contextlib.suppress(NothingCame):
                for message in await taken.fetch(BATCH, timeout=WAIT):
                    sock.send(message.data)
                    await message.ack()

    asyncio.run(take())


def redis_py(url: str, name: str, sock: socket.socket) -> None:
    import redis

    client: Any = redis.Redis.from_url(url)
    key = KEPT["redis"]
    client.xgroup_create(key, name, id="0")
    while True:
        taken: Any = client.xreadgroup(name, name, {key: ">"}, count=BATCH, block=1000 * WAIT)
        for _, entries in taken:
            for _, fields in entries:
                sock.send(fields[b"data"])
            client.xack(key, name, *(entry for entry, _ in entries))


TAKERS: dict[str, Callable[[str, str, socket.socket], None]] = {"nats-py": nats_py, "redis-py": redis_py}


def main() -> None:
    taker, url, name, group, port, address = sys.argv[1:]
    with sender(group, int(port), address) as sock:
        TAKERS[taker](url, name, sock)


if __name__ == "__main__":
    main()
