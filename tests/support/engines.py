"""Servers of NATS and Redis in a network namespace, and what they keep, read by clients that others wrote.

```
   host eth0 -------- n0 net
   10.72.0.1      10.72.0.2
```
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.host import Host, connect
from support.programs import program
from support.wait import wait_for

PORT = 4333
HERE, THERE = "10.72.0.1", "10.72.0.2"
# Who reads what servers keep: modules, and the packages that have them.
CLIENTS = {"nats": ("nats", "nats-py"), "redis": ("redis", "redis")}


class Kept(NamedTuple):
    """A message that a server has."""

    data: bytes
    facts: dict[str, str]  # what stands beside it


class EngineServer(ABC):
    """One that can be killed, and started again with what it had."""

    def __init__(
        self, host: Host, directory: Path, *options: str, port: int = PORT, address: str = "127.0.0.1"
    ) -> None:
        self.port, self.address = port, address
        self._host = host
        self._directory = directory / f"{type(self).__name__}-{port}"
        self._directory.mkdir()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}:{self.port}"

    scheme = ""

    @abstractmethod
    def command(self, directory: Path) -> Sequence[str]: ...

    @abstractmethod
    def reader(self, of: str) -> str:
        """A program that prints what is kept: a line of JSON for each message."""

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = self._host.start(
                *self.command(self._directory), *self._options, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self._is_there, f"{type(self).__name__} listens")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """It answers nothing from now on, until it is killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def kept(self, of: str) -> list[Kept]:
        """All messages of a subject or key, in order."""
        text = self._run(sys.executable, "-c", self.reader(of))
        found = map(json.loads, text.splitlines())
        return [Kept(bytes.fromhex(one["data"]), one["facts"]) for one in found]

    @abstractmethod
    def writer(self, to: str) -> str:
        """A program that gives the server a message for each line of its input, which is hexadecimal."""

    def give(self, to: str, *payloads: bytes) -> None:
        """Have the server keep messages of a subject, or entries of a key."""
        text = "".join(f"{payload.hex()}\n" for payload in payloads)
        self._run(sys.executable, "-c", self.writer(to), given=text)

    def _is_there(self) -> bool:
        probe = f"import socket; socket.create_connection(({self.address!r}, {self.port}), 5)"
        command = self._host.enter([sys.executable, "-c", probe])
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _run(self, *command: str, given: str = "") -> str:
        ran = subprocess.run(
            self._host.enter(command), input=given, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


class NatsServer(EngineServer):
    """nats-server with JetStream."""

    scheme = "nats"
    login = ""  # of the reader, as arguments of nats.connect()

    def command(self, directory: Path) -> Sequence[str]:
        ports = "-a", self.address, "-p", str(self.port)
        return program("nats-server"), *ports, "-js", "-sd", str(directory / "store")

    def reader(self, of: str) -> str:
        return _NATS_READER.format(url=self.url, subject=of, login=self.login)

    def writer(self, to: str) -> str:
        return _NATS_WRITER.format(url=self.url, subject=to, login=self.login, kept=True)

    def publish(self, to: str, *payloads: bytes) -> None:
        """The same, whether a stream keeps them or not."""
        text = "".join(f"{payload.hex()}\n" for payload in payloads)
        writer = _NATS_WRITER.format(url=self.url, subject=to, login=self.login, kept=False)
        self._run(sys.executable, "-c", writer, given=text)

    def consumer(self, host: Host, name: str, subject: str, count: int) -> subprocess.Popen[str]:
        """A program that takes so many messages of a subject, and prints a line of JSON for each."""
        text = _NATS_CONSUMER.format(url=self.url, name=name, subject=subject, count=count)
        return host.python("-c", text, stdout=subprocess.PIPE, text=True)

    def api(self, what: str, question: Any) -> Any:
        """Ask JetStream for something."""
        text = json.dumps(question)
        program_text = _NATS_API.format(url=self.url, what=what, question=text, login=self.login)
        return json.loads(self._run(sys.executable, "-c", program_text))


class RedisServer(EngineServer):
    """redis-server, which writes each command to its file."""

    scheme = "redis"

    def command(self, directory: Path) -> Sequence[str]:
        where = "--bind", self.address, "--port", str(self.port), "--dir", str(directory)
        return program("redis-server"), *where, "--save", "", "--appendonly", "yes", "--appendfsync", "always"

    def reader(self, of: str) -> str:
        return _REDIS_READER.format(host=self.address, port=self.port, key=of)

    def writer(self, to: str) -> str:
        return _REDIS_WRITER.format(host=self.address, port=self.port, key=to)

    def ask(self, *words: str) -> Any:
        """What it answers to a command, as JSON has it."""
        text = _REDIS_ASK.format(host=self.address, port=self.port, words=words)
        return json.loads(self._run(sys.executable, "-c", text))


SERVERS: dict[str, type[EngineServer]] = {"nats": NatsServer, "redis": RedisServer}


def require_client(kind: str) -> None:
    """Skip the test, with the reason, if nobody can read what a server of this kind keeps."""
    module, package = CLIENTS[kind]
    pytest.importorskip(module, reason=f"needs {package}: pip install {package}")


def neighbours(stack: ExitStack) -> tuple[Host, Host]:
    """The two hosts, until the end of ``stack``."""
    host, net = stack.enter_context(Host()), stack.enter_context(Host())
    connect(host, "eth0", net, "n0")
    host.ip(f"addr add {HERE}/24 dev eth0")
    net.ip(f"addr add {THERE}/24 dev n0")
    return host, net


class EngineLab:
    """Both hosts, with a server of one kind on the first, which is not started yet."""

    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        require_client(kind)
        self.kind = kind
        self.directory = directory
        self.host, self.net = neighbours(stack)
        self.server = SERVERS[kind](self.host, directory)


_NATS_READER = """
import asyncio, json, nats
async def main():
    client = await nats.connect({url!r}, {login})
    stream = client.jetstream()
    name = await stream.find_stream_name_by_subject({subject!r})
    count = (await stream.stream_info(name)).state.messages
    messages = await stream.subscribe({subject!r}, ordered_consumer=True)
    for _ in range(count):
        one = await messages.next_msg(timeout=30)
        print(json.dumps(dict(data=one.data.hex(), facts=one.headers)))
    await client.close()
asyncio.run(main())
"""
_NATS_CONSUMER = """
import asyncio, json, nats
async def main():
    client = await nats.connect({url!r})
    taken = await client.jetstream().pull_subscribe({subject!r}, durable={name!r})
    left = {count}
    while left:
        for one in await taken.fetch(min(left, 100), timeout=60):
            print(json.dumps([one.subject, one.data.decode()]), flush=True)
            await one.ack()
            left -= 1
    await client.close()
asyncio.run(main())
"""
_NATS_API = """
import asyncio, nats
async def main():
    client = await nats.connect({url!r}, {login})
    print((await client.request("$JS.API.{what}", {question!r}.encode(), timeout=30)).data.decode())
    await client.close()
asyncio.run(main())
"""
_REDIS_READER = """
import json, redis
for _, fields in redis.Redis({host!r}, {port}).xrange({key!r}):
    data = fields.pop(b"data")
    print(json.dumps(dict(data=data.hex(), facts={{k.decode(): v.decode() for k, v in fields.items()}})))
"""
_NATS_WRITER = """
import asyncio, nats, sys
async def main():
    client = await nats.connect({url!r}, {login})
    publish = client.jetstream().publish if {kept} else client.publish
    for line in sys.stdin:
        await publish({subject!r}, bytes.fromhex(line))
    await client.drain()
asyncio.run(main())
"""
_REDIS_WRITER = """
import redis, sys
client = redis.Redis({host!r}, {port})
for line in sys.stdin:
    client.xadd({key!r}, dict(data=bytes.fromhex(line)))
"""
_REDIS_ASK = """
import json, redis
found = redis.Redis({host!r}, {port}, decode_responses=True).execute_command(*{words!r})
print(json.dumps(found))
"""
