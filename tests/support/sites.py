"""Sites that are linked: each a network with a daemon at its gateway, and a host that sends and listens.

```
   desk lan --- switch --- lan GATEWAY wan --- wide switch --- wan GATEWAY lan --- switch --- lan desk
```
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mcastd.keytext import GroupKey
from support.daemon import RunningDaemon
from support.host import Host
from support.inside import listener, sender, taken
from support.programs import program
from support.switch import Switch
from support.wait import wait_for

GROUPS = {4: "239.1.2.3", 6: "ff15::123"}
PORT = 5004
TTL = 9
ALL = '["239.0.0.0/8", "ff15::/16"]'
# What is sent to see whether anything comes; it is not noted.
PROBE = 9999


class Site:
    """The site of a number from 1 on: 10.NUMBER.0.0/24, and 198.51.100.NUMBER on the wide network."""

    def __init__(
        self,
        number: int,
        wide: Switch,
        stack: contextlib.ExitStack,
        directory: Path,
        beside: Site | None = None,
    ) -> None:
        """With another one ``beside`` it, it is a second gateway of the same network."""
        self.number = number
        self.switch: Switch = stack.enter_context(Switch()) if beside is None else beside.switch
        self.gateway = stack.enter_context(Host())
        self.desk: Host = stack.enter_context(Host()) if beside is None else beside.desk
        net, last = (number, 1) if beside is None else (beside.number, number)
        self.switch.plug(self.gateway, "lan", f"10.{net}.0.{last}/24", f"2001:db8:{net}::{last}/64")
        if beside is None:
            self.switch.plug(self.desk, "lan", f"10.{net}.0.9/24", f"2001:db8:{net}::9/64")
            self.desk.ip(f"route add default via 10.{net}.0.1")
            self.desk.ip(f"route add default via 2001:db8:{net}::1")
        wide.plug(self.gateway, "wan", f"198.51.100.{number}/24", f"2001:db8::{number}/64")
        self.directory = directory / f"site-{number}"
        self.directory.mkdir()
        self.addresses = {4: f"10.{number}.0.9", 6: f"2001:db8:{number}::9"}
        self.daemon: RunningDaemon
        self._stack = stack
        self._ears: dict[int, socket.socket] = {}

    # -- the daemon

    def key(self, name: str, first: int = 1) -> Path:
        """A key file of this name, made of bytes from ``first`` on."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.write_text(GroupKey(bytes(range(first, first + 32))).text + "\n")
        os.chmod(path, 0o600)
        return path

    def start(self, config: str, rights: Sequence[str] = ()) -> RunningDaemon:
        """``rights`` is a command that says what the daemon may."""
        enter = self.gateway.enter([*rights])
        self.daemon = self._stack.enter_context(RunningDaemon(self.directory, config, enter=enter))
        return self.daemon

    def worker(self, link: str) -> dict[str, Any]:
        return self.daemon.worker(f"link/{link}")

    def status(self, link: str) -> dict[str, Any]:
        status: dict[str, Any] = self.worker(link)["status"]
        return status

    def wait_up(self, *links: str) -> None:
        for link in links:
            wait_for(lambda link=link: self.status(link)["up"], f"{link} at site {self.number}")  # type: ignore[misc]

    def wait_wanted(self, link: str, group: str) -> None:
        """Wait until the peer of a link wants a group."""

        def is_wanted() -> bool:
            return any(one.startswith(f"{group} ") for one in self.status(link)["peer_wants"])

        wait_for(is_wanted, f"{group} to be wanted of site {self.number} by {link}")

    def wait_taken(self, link: str, group: str) -> None:
        """Wait until the peer of a link wants a group, and it is taken here for that."""

        def is_taken() -> bool:
            status = self.status(link)
            wanted, taken = (
                any(one.startswith(f"{group} ") for one in status[key]) for key in ("peer_wants", "taken")
            )
            return wanted and taken and any(join["group"] == group for join in status["joins"])

        wait_for(is_taken, f"{group} to be taken at site {self.number} for {link}")

    # -- the network

    def listen(self, version: int = 4) -> None:
        """Have the desk be a member of the group."""
        sock = listener(self.desk, version, PORT, ("lan", GROUPS[version]))
        self._stack.callback(sock.close)
        self._ears[version] = sock

    def heard(self, version: int = 4) -> list[bytes]:
        """What has come since it was asked last."""
        return taken(self._ears[version])

    def talker(self, version: int = 4, ttl: int = TTL) -> socket.socket:
        sock = sender(self.desk, "lan", self.addresses[version])
        self._stack.callback(sock.close)
        level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        option = socket.IP_MULTICAST_TTL if version == 4 else socket.IPV6_MULTICAST_HOPS
        sock.setsockopt(level, option, ttl)
        return sock

    def lose(self, percent: int) -> None:
        """Have the gateway lose some of what comes to it from the wide network."""
        rule = f'iifname "wan" meta l4proto udp numgen random mod 100 < {percent} drop'
        nft(self.gateway, f"table inet loss {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}")


def nft(host: Host, rules: str) -> None:
    command = host.enter([program("nft"), "-f", "-"])
    subprocess.run(command, input=rules, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def sites(count: int, directory: Path) -> Iterator[list[Site]]:
    with contextlib.ExitStack() as stack:
        wide = stack.enter_context(Switch())
        yield [Site(number, wide, stack, directory) for number in range(1, count + 1)]


def table(name: str, where: str, key: Path, **keys: str) -> str:
    """A table of a link, for what is sent and wanted of all groups unless the keys say otherwise."""
    given = {"key": f'"{key}"', "interface": '"lan"', "send": ALL, "want": '"members"', **keys}
    lines = "\n".join(f"{key} = {value}" for key, value in given.items())
    return f"[link.{name}]\n{where}\n{lines}\n"


def tables_of(sites: list[Site], pairs: list[tuple[int, int]], **keys: str) -> dict[int, str]:
    """What each site has of links between pairs of them, by number: the first of each connects."""
    found = dict.fromkeys((site.number for site in sites), "")
    by_number = {site.number: site for site in sites}
    for port, (one, two) in zip(itertools.count(9470), pairs, strict=False):
        where = {one: f'connect = "198.51.100.{two}:{port}"', two: f'listen = "0.0.0.0:{port}"'}
        for here, there in ((one, two), (two, one)):
            key = by_number[here].key(f"key-{port}", port - 9469)
            found[here] += table(f"to-{there}", where[here], key, **keys)
    return found


class Heard:
    """Numbers that have come at a site."""

    def __init__(self, site: Site, version: int = 4) -> None:
        self.numbers: list[int] = []
        self._site, self._version = site, version

    def wait(self, count: int) -> list[int]:
        """Wait for so many, and a moment longer, for one that would be too many."""

        def all_came() -> bool:
            return len(self.take()) >= count

        wait_for(all_came, f"{count} datagrams at site {self._site.number}")
        time.sleep(0.2)
        return self.take()

    def take(self) -> list[int]:
        found = (int(payload.split()[0]) for payload in self._site.heard(self._version))
        self.numbers += [number for number in found if number != PROBE]
        return self.numbers


def stream(sock: socket.socket, numbers: range, *heard: Heard, version: int = 4) -> None:
    """Send numbered datagrams, some 1000 a second; meanwhile take what comes, so that no buffer is full."""
    for number in numbers:
        sock.sendto(b"%d " % number + b"x" * 500, (GROUPS[version], PORT))
        if number % 5 == 4:
            time.sleep(0.005)
        if number % 50 == 49:
            for one in heard:
                one.take()
