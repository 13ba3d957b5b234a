"""A network with multicast, one without, and a host of ours in each: what AMT is for.

```
  source eth0 ------ north RELAY south ------ eth0 GATEWAY              router = False
  source eth0 ------ north RELAY south ------ out ROUTER in ------ eth0 GATEWAY
```
"""

from __future__ import annotations

import contextlib
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from support.host import Host, connect
from support.inside import sender, sysctl
from support.meanwhile import meanwhile
from support.programs import program

SOURCES = {4: "10.1.0.1", 6: "fd01::1"}
RELAYS = {4: "192.0.2.1", 6: "2001:db8:a::1"}
PORT = 4000
TTL = 8


class AmtNetwork:
    def __init__(self, stack: contextlib.ExitStack, *, router: bool = False) -> None:
        self.source, self.relay, self.gateway = (stack.enter_context(Host()) for _ in range(3))
        self.router = stack.enter_context(Host()) if router else None
        connect(self.source, "eth0", self.relay, "north")
        for host, name, number in ((self.source, "eth0", 1), (self.relay, "north", 2)):
            host.ip(f"addr add 10.1.0.{number}/24 dev {name}")
            host.ip(f"addr add fd01::{number}/64 dev {name} nodad")
        self.source.ip("addr add 10.1.0.3/24 dev eth0")  # another sender
        connect(self.relay, "south", self.router or self.gateway, "out" if router else "eth0", segments=64)
        self.relay.ip(f"addr add {RELAYS[4]}/24 dev south")
        self.relay.ip(f"addr add {RELAYS[6]}/64 dev south nodad")
        if self.router is None:
            self.gateway.ip("addr add 192.0.2.2/24 dev eth0")
            self.gateway.ip("addr add 2001:db8:a::2/64 dev eth0 nodad")
            return
        connect(self.router, "in", self.gateway, "eth0", segments=64)
        for address in ("192.0.2.254/24", "2001:db8:a::254/64 nodad"):
            self.router.ip(f"addr add {address.split()[0]} dev out {' '.join(address.split()[1:])}".strip())
        self.router.ip("addr add 10.2.0.254/24 dev in")
        self.router.ip("addr add fd02::254/64 dev in nodad")
        self.gateway.ip("addr add 10.2.0.2/24 dev eth0")
        self.gateway.ip("addr add fd02::2/64 dev eth0 nodad")
        self.gateway.ip("route add default via 10.2.0.254")
        self.gateway.ip("-6 route add default via fd02::254")
        sysctl(self.router, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)

    def nft(self, rules: str) -> None:
        """Rules of the router."""
        assert self.router is not None
        command = self.router.enter([program("nft"), "-f", "-"])
        subprocess.run(command, input=rules, check=True, capture_output=True, text=True)


class Feed:
    """Numbered datagrams to groups: ``SOURCE GROUP NUMBER``."""

    def __init__(
        self, network: AmtNetwork, stack: ExitStack, streams: Iterable[tuple[str, str]], ttl: int, size: int
    ) -> None:
        """``streams``: the address of a source, and a group. ``size`` is what each datagram has at least."""
        self.sent = 0  # of each stream
        self._size = size
        self._streams = [
            (stack.enter_context(sender(network.source, "eth0", source, ttl)), source, group)
            for source, group in streams
        ]
        self.socks = [sock for sock, _, _ in self._streams]

    def send(self) -> None:
        for sock, source, group in self._streams:
            text = f"{source} {group} {self.sent}\n".encode()
            sock.sendto(text.ljust(self._size), (group, PORT))
        self.sent += 1


@contextlib.contextmanager
def feeding(network: AmtNetwork, *streams: tuple[str, str], ttl: int = TTL, size: int = 0) -> Iterator[Feed]:
    """Fifty datagrams of each stream a second."""
    with ExitStack() as stack:
        feed = Feed(network, stack, streams, ttl, size)
        stack.enter_context(meanwhile(feed.send, 0.02, "feed"))
        yield feed


def numbers(path: Path) -> dict[tuple[str, str], list[int]]:
    """What came of a feed in a file, by source and group."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():  # the last one may be half written
        if len(words := line.split()) == 3:
            found[words[0], words[1]].append(int(words[2]))
    return found


def is_whole(found: list[int]) -> bool:
    """Return True if numbers are each there once, in order, without a gap."""
    return bool(found) and found == [*range(found[0], found[0] + len(found))]
