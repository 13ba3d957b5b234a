"""An Ethernet switch: a bridge in a namespace of its own, with hosts plugged into it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support.host import Host, ip
from support.inside import is_ready
from support.wait import wait_for

SNOOPING = (
    "mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_query_interval 100"
    " mcast_startup_query_interval 100 mcast_query_response_interval 10 mcast_membership_interval 500"
)
"""Bridge options, in 1/100 s: a querier would ask every second instead of every 125, and a port that does
not answer is forgotten after 5 seconds instead of 260."""
QUERIER = "mcast_querier 1"
"""To be set after the times: a switch floods until its first query can have been answered, or for 10 s."""


class Switch(Host):
    """The bridge ``br0``; its ports are ``p0``, ``p1`` and so on, in the order of :meth:`plug`."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._ports = 0
        self.ip("link add br0 type bridge mcast_snooping 0")
        for option in options:
            self.set(option)
        # An MLD querier needs a link-local address; without duplicate address detection it has it at once.
        self.batch("link set br0 addrgenmode none", "link set br0 up", "addr add fe80::ffff/64 dev br0 nodad")

    def batch(self, *commands: str, host: Host | None = None) -> None:
        """Run many ``ip`` commands at once, here or in a ``host``."""
        command = (host or self).enter(["ip", "-batch", "-"])
        subprocess.run(command, input="\n".join(commands), check=True, capture_output=True, text=True)

    def set(self, options: str) -> None:
        self.ip(f"link set br0 type bridge {options}")

    def plug(self, host: Host, name: str, *addresses: str) -> str:
        """Give ``host`` an interface with a link-local address and ``addresses``; the name of the port."""
        port = f"p{self._ports}"
        self._ports += 1
        ip(f"link add {port} netns {self.pid} type veth peer name {name} netns {host.pid}")
        self.ip(f"link set {port} master br0 addrgenmode none up")
        self.batch(
            f"link set {name} addrgenmode none",
            f"link set {name} gso_max_segs 1 up",  # single datagrams, as on a cable: see connect()
            f"addr add fe80::{self._ports:x}/64 dev {name} nodad",
            *(f"addr add {address} dev {name} {'nodad' if ':' in address else ''}" for address in addresses),
            host=host,
        )
        wait_for(lambda: is_ready(self, port) and is_ready(host, name), f"{name} to be up")
        return port

    def members(self, group: str) -> dict[str, float]:
        """What snooping learned: the ports with a member of ``group``, and the seconds until each expires."""
        command = self.enter(["bridge", "-s", "-j", "mdb", "show", "dev", "br0"])
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found: list[dict[str, Any]] = [entry for part in json.loads(answer) for entry in part.get("mdb", [])]
        return {entry["port"]: float(entry["timer"]) for entry in found if entry["grp"] == group}
