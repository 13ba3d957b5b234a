"""A bridge, a relay of AMT and a link under the unit: what they may by the manual's drop-ins; a restart.

```
   left 10.9.1.2 ------ in0 10.9.1.1  the machine  10.9.2.1 out0 ------ 10.9.2.2 right
   the sender                                                           a member
```
"""

from __future__ import annotations

import subprocess

from support.machine import Feed, Machine, shown_drop_in
from support.wait import wait_for

from .conftest import Boot

CONFIG = """
[bridge.numbers]
from = "in0"
to = "out0"
groups = ["239.255.9.9"]
when = "always"
"""
WIRES = """
    for side in "left in0 10.9.1" "right out0 10.9.2"; do
        set -- $side
        ip netns add $1
        ip link add $2 type veth peer name eth0 netns $1
        ip address add $3.1/24 dev $2
        ip -n $1 address add $3.2/24 dev eth0
        ip -n $1 link set eth0 up
        ip link set $2 up
    done
"""
# Writes what comes, until its input ends.
MEMBER = """
import select, socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
link.bind(("239.255.9.9", 9999))
join = socket.inet_aton("239.255.9.9") + socket.inet_aton("10.9.2.2")
link.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
print("joined", flush=True)
while True:
    ready = select.select([link, sys.stdin], [], [])[0]
    if link in ready:
        print(link.recv(1 << 16).decode().strip(), flush=True)
    elif ready:
        break
"""


class Member:
    def __init__(self, machine: Machine) -> None:
        self._process = machine.start(
            "ip", "netns", "exec", "right", "python3", "-c", MEMBER,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "joined\n"

    def stop(self) -> list[int]:
        """The numbers that have come."""
        output, _ = self._process.communicate(timeout=60)
        return [int(line) for line in output.split()]


def test_the_drop_in_of_the_manual_makes_it_route_also_while_it_is_restarted(boot: Boot) -> None:
    machine = boot(CONFIG)
    machine.shell(WIRES)
    worker = machine.wait_worker("bridge/numbers", "auto-restart")
    assert "this takes CAP_NET_RAW: see the drop-in for bridges in mcastd(8)" in worker["detail"]
    machine.set_drop_in(shown_drop_in("Bridges"))
    machine.wait_active()
    machine.wait_worker("bridge/numbers")
    member = Member(machine)
    feed = Feed(machine, "239.255.9.9", 9999, address="10.9.1.2", ttl=8, namespace="left")

    def forwarded() -> int:
        count: int = machine.workers()["bridge/numbers"]["status"]["counters"]["forwarded"]
        return count

    wait_for(lambda: forwarded() > 100, "what is forwarded")
    before = machine.main_pid()
    machine.run("systemctl", "restart", "mcastd")
    machine.wait_active()
    machine.wait_worker("bridge/numbers")
    assert machine.main_pid() != before
    again = forwarded()
    wait_for(lambda: forwarded() > again + 100, "what is forwarded after it")
    sent = feed.stop()
    # Of the very first ones, of which the kernel knew no route yet, it keeps four
    numbers = [number for number in member.stop() if number >= 100]
    assert numbers == [*range(100, sent)], "none is missing, whoever was there"
    machine.run("systemctl", "stop", "mcastd")
    machine.shell("sleep 1")
    assert "239.255.9.9" not in machine.run("ip", "mroute", "show").stdout, "stopped, it routes no more"


RELAY = """
[amt_relay.edge]
listen = "10.9.2.1"
interface = "in0"
groups = ["239.255.9.9"]
"""
GATEWAY = """
[inbound.numbers]
group = "239.255.9.9"
port = 9999
via = { kind = "amt", relay = "10.9.2.1", local_port = 4268 }
output = "/var/log/mcastd/far/numbers.log"
"""


def test_the_drop_in_of_the_manual_makes_it_a_relay_of_amt(boot: Boot) -> None:
    machine = boot(RELAY)
    machine.shell(WIRES)
    worker = machine.wait_worker("amt_relay/edge", "auto-restart")
    assert "see the drop-in for AMT relays in mcastd(8)" in worker["detail"]
    machine.set_drop_in(shown_drop_in("AMT relays"))
    machine.wait_active()
    machine.wait_worker("amt_relay/edge")
    # The gateway is another daemon, on the host at the other end
    machine.shell("mkdir -p /run/far /var/log/mcastd/far")
    machine.path("/run/far/mcastd.toml").write_text(
        f'[daemon]\ncontrol_socket = "/run/far/control"\n{GATEWAY}'
    )
    gateway = machine.start(
        "ip", "netns", "exec", "right", "mcastd", "run", "--config", "/run/far/mcastd.toml"
    )
    feed = Feed(machine, "239.255.9.9", 9999, address="10.9.1.2", ttl=8, namespace="left")
    log = machine.path("/var/log/mcastd/far/numbers.log")
    wait_for(
        lambda: log.exists() and log.read_text().count("\n") > 100, "what comes by the tunnel", timeout=60
    )
    assert feed.stop() > 100
    assert gateway.poll() is None


LINK = """
[link.far]
listen = "10.9.2.1"
key = "/etc/mcastd/far.key"
interface = "in0"
send = ["239.255.0.0/16"]
"""
OTHER_SITE = """
[daemon]
control_socket = "/run/far/control"
[link.near]
connect = "10.9.2.1"
key = "/run/far/far.key"
interface = "eth0"
want = "config"
[inbound.numbers]
group = "239.255.9.9"
port = 9999
interface = "eth0"
output = "/var/log/mcastd/far/numbers.log"
"""


def test_the_drop_in_of_the_manual_links_it_to_another_site(boot: Boot) -> None:
    machine = boot(LINK)
    machine.shell(WIRES)
    machine.shell("mkdir -p /run/far /var/log/mcastd/far /etc/mcastd; mcastd keygen /run/far/far.key")
    machine.shell("install -o mcastd -g mcastd -m 0600 /run/far/far.key /etc/mcastd/far.key")
    worker = machine.wait_worker("link/far", "auto-restart")
    assert "see the drop-in for links in mcastd(8)" in worker["detail"]
    machine.set_drop_in(shown_drop_in("Links"))
    machine.wait_active()
    machine.wait_worker("link/far")
    # The other site is another daemon, on the host at the other end
    machine.path("/run/far/mcastd.toml").write_text(OTHER_SITE)
    other = machine.start("ip", "netns", "exec", "right", "mcastd", "run", "--config", "/run/far/mcastd.toml")
    feed = Feed(machine, "239.255.9.9", 9999, address="10.9.1.2", ttl=8, namespace="left")
    log = machine.path("/var/log/mcastd/far/numbers.log")
    wait_for(lambda: log.exists() and log.read_text().count("\n") > 100, "what comes by the link")
    assert feed.stop() > 100
    assert other.poll() is None
