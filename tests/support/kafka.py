"""Brokers of Kafka as librdkafka imitates them for tests: a program not ours, which keeps what it takes.

There is no package of Kafka in Debian, and none that needs no Java. The imitation has its ports from the
kernel, and forgets all when it ends, so it is stopped (SIGSTOP) where a server would be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from support.engines import Kept
from support.host import Host

_BROKERS = """
import sys
from confluent_kafka import Producer
brokers = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "log_level": 0})
found = brokers.list_topics(timeout=60).brokers.values()
print(",".join(f"{one.host}:{one.port}" for one in found), flush=True)
sys.stdin.read()
"""
_READER = """
import json
from confluent_kafka import Consumer, TopicPartition
consumer = Consumer({{"bootstrap.servers": {servers!r}, "group.id": "reader", "enable.auto.commit": False}})
for number in consumer.list_topics({topic!r}, timeout=60).topics[{topic!r}].partitions:
    place = TopicPartition({topic!r}, number)
    first, end = consumer.get_watermark_offsets(place, timeout=60)
    place.offset = first
    consumer.assign([place])
    while first < end:
        record = consumer.poll(60)
        assert record is not None and record.error() is None, record and record.error()
        first = record.offset() + 1
        facts = {{name: value.decode() for name, value in record.headers()}}
        facts |= {{"key": record.key().decode(), "stamp": record.timestamp()[1]}}
        print(json.dumps(dict(data=record.value().hex(), facts=facts)))
"""


class KafkaBrokers:
    """In a host, until the end of the block."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._process: subprocess.Popen[str] | None = None
        self.servers = ""

    def __enter__(self) -> KafkaBrokers:
        self._process = self._host.python(
            "-c", _BROKERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()
        assert self.servers, "the brokers say where they are"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kept(self, topic: str) -> list[Kept]:
        """All records of a topic, by partition and in order, as a consumer of the library reads them."""
        program = _READER.format(servers=self.servers, topic=topic)
        ran = subprocess.run(
            self._host.enter([sys.executable, "-c", program]), capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        found: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
        return [Kept(bytes.fromhex(one["data"]), one["facts"]) for one in found]
