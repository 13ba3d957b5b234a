"""Datagrams that are sent as somebody else: who it was, TTL and all of it arrive, on this host as well."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from support.host import Host, connect
from support.inside import ifindex, inside, listener, sysctl, taken
from support.programs import program
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.net.foreign_senders import ForeignSenders

pytestmark = pytest.mark.root

SOURCES = {4: ("203.0.113.9", 7001), 6: ("2001:db8:77::9", 7002)}
GROUPS = {4: ("239.7.7.7", 5004), 6: ("ff15::77", 5006)}
IP_RECVTTL, IPV6_RECVHOPLIMIT = 12, 51


class Network:
    def __init__(self, version: int, gateway: Host, member: Host) -> None:
        self.version, self.gateway, self.member = version, gateway, member
        self.source = (ip_address(SOURCES[version][0]), SOURCES[version][1])
        self.group = (ip_address(GROUPS[version][0]), GROUPS[version][1])
        with inside(gateway):
            self.senders = ForeignSenders(ifindex(gateway, "lan"), "lan")
        self.ear = self.listen(member, "eth0")

    def listen(self, host: Host, interface: str) -> socket.socket:
        ear = listener(host, self.version, self.group[1], (interface, str(self.group[0])))
        if self.version == 4:
            ear.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            ear.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        return ear

    def send(self, ttl: int, *payloads: bytes) -> int:
        with inside(self.gateway):
            return self.senders.send(self.source, self.group, ttl, payloads)


@pytest.fixture(params=[4, 6])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with Host() as gateway, Host() as member:
        connect(gateway, "lan", member, "eth0", segments=64)
        gateway.ip("addr add 10.8.0.1/24 dev lan")
        member.ip("addr add 10.8.0.2/24 dev eth0")
        gateway.ip("addr add 2001:db8:8::1/64 dev lan nodad")
        member.ip("addr add 2001:db8:8::2/64 dev eth0 nodad")
        member.ip("route add default via 10.8.0.1")
        gateway.ip("route add default via 10.8.0.254")  # which is not there
        sysctl(member, ipv4__conf__all__rp_filter=1, ipv4__conf__eth0__rp_filter=1)
        one = Network(request.param, gateway, member)
        yield one
        one.senders.close()
        one.ear.close()


def test_the_sender_and_the_ttl_arrive(network: Network) -> None:
    assert network.send(17, b"first", b"second") == 2
    assert network.send(9, b"third") == 1
    wait_for(lambda: _readable(network.ear))
    seen = [network.ear.recvmsg(100, 100) for _ in range(3)]
    assert [payload for payload, *_ in seen] == [b"first", b"second", b"third"]
    assert {name[:2] for *_, name in seen} == {SOURCES[network.version]}
    ttls = [struct.unpack("=i", control[0][2])[0] for _, control, *_ in seen]
    assert ttls == [17, 17, 9]
    assert len(network.senders) == 1


def test_members_on_this_host_get_it_as_well(network: Network) -> None:
    here = network.listen(network.gateway, "lan")
    network.send(5, b"payload")
    wait_for(lambda: _readable(here) and _readable(network.ear))
    assert here.recvfrom(100)[0] == network.ear.recvfrom(100)[0] == b"payload"
    here.close()


def test_many_of_one_size_and_large_ones_arrive(network: Network) -> None:
    payloads = [bytes([number]) * 1200 for number in range(40)] + [b"large" * 2000]
    assert network.send(5, *payloads) == 41
    found: list[bytes] = []
    wait_for(lambda: found.extend(taken(network.ear)) or len(found) >= 41)
    assert found == payloads


def test_sockets_are_bounded(network: Network) -> None:
    with inside(network.gateway):
        senders = ForeignSenders(ifindex(network.gateway, "lan"), "lan", sockets_max=2)
        for port in (1, 2, 1, 3, 1):
            senders.send((network.source[0], 8000 + port), network.group, 5, [b"%d" % port])
            assert len(senders) <= 2
        senders.close()
    found: list[bytes] = []
    wait_for(lambda: found.extend(taken(network.ear)) or len(found) >= 5)
    assert found == [b"1", b"2", b"1", b"3", b"1"]


def test_an_address_of_this_host_receives_nothing_by_it(network: Network) -> None:
    """Whoever has that address and port is not robbed of what comes there."""
    own = ip_address("10.8.0.1" if network.version == 4 else "2001:db8:8::1")
    with inside(network.gateway):
        network.senders.send((own, 7777), network.group, 5, [b"x"])
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as service:
            service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            service.bind((str(own), 7777))
            with inside(network.member), socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(b"for the service", (str(own), 7777))
            wait_for(lambda: _readable(service))
            assert service.recv(100) == b"for the service"


def test_a_firewall_is_no_lack_of_a_capability(network: Network) -> None:
    rule = "add table inet t; add chain inet t c { type filter hook output priority 0 ; }; add rule inet t c"
    command = ["nft", f"{rule} udp dport {network.group[1]} drop"]
    subprocess.run(network.gateway.enter(command), check=True)
    for _ in range(2):
        with pytest.raises(LinkError, match="a firewall rule of this host refuses it"):
            network.send(5, b"x")


@pytest.mark.parametrize("more", [0, 1], ids=["segments", "single"])
def test_that_a_queue_was_full_is_known_where_some_went(network: Network, more: int) -> None:
    settings = ["rate", "1600kbit", "burst", "70000", "limit", "70000"]
    command = ["tc", "qdisc", "replace", "dev", "lan", "root", "tbf", *settings]
    if subprocess.run(network.gateway.enter(command), check=False).returncode:
        pytest.skip("no such queue here")
    payloads = [bytes(1000 + more * (number % 2)) for number in range(40)]
    assert network.send(5, *payloads) == 40
    assert not network.senders.found_full
    fulls = list[int]()
    for _ in range(5):
        with contextlib.suppress(LinkError):
            if (sent := network.send(5, *payloads)) < 40:
                assert network.senders.found_full
                fulls.append(sent)
    assert fulls, "in the midst of some"


def test_no_memory_for_a_socket_is_no_full_queue(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    monkeypatch.setattr("mcastd.net.foreign_senders.socket.socket", refuse)
    with pytest.raises(LinkError, match="no buffer space") as failed:
        network.send(5, b"x")
    assert failed.value.errno == errno.ENOMEM


def test_an_interface_that_is_gone_is_told(network: Network) -> None:
    network.gateway.ip("link del lan")
    with pytest.raises(LinkError, match=f"on lan as {network.source[0]}"):
        network.send(5, b"x")


CHECK = "from mcastd.net.foreign_senders import check_privilege; check_privilege(); print('allowed')"


@pytest.mark.parametrize("capabilities", ["-all,+net_raw", "-all"])
def test_one_capability_is_all_that_it_takes(capabilities: str) -> None:
    user = [program("setpriv"), f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    ran = subprocess.run([*user, sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    if capabilities == "-all":
        assert "this takes CAP_NET_RAW" in ran.stderr
    else:
        assert ran.stdout == "allowed\n", ran.stderr


def _readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True
