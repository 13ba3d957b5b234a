"""The kernel's tables: beside sockets of this process, and as text that may be anything."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from contextlib import closing
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.host import Host
from support.inside import inside, listener, sysctl
from support.wait import wait_for

from mcastd.net import socket_owners, tables
from mcastd.net.socket_owners import Process
from mcastd.net.tables import IgmpInterface, JoinedGroup

MCAST_JOIN_SOURCE_GROUP = 46
LINK_LOCAL = {4: "224.0.0.1", 6: "ff02::1"}  # of every host, never reported


def _join_source(sock: socket.socket, ifindex: int, group: str, source: str) -> None:
    def storage(address: str) -> bytes:
        packed = ip_address(address).packed
        return (struct.pack("=HH", sock.family, 0) + bytes(4 * (len(packed) == 16)) + packed).ljust(
            128, b"\0"
        )

    level = socket.IPPROTO_IP if sock.family == socket.AF_INET else socket.IPPROTO_IPV6
    request = struct.pack("@I0L", ifindex) + storage(group) + storage(source)
    sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, request)


@pytest.mark.parametrize(
    ("version", "group", "other", "source", "anywhere"),
    [
        (4, "239.255.7.1", "239.255.7.2", "192.0.2.7", "0.0.0.0"),
        (6, "ff15::7:1", "ff15::7:2", "2001:db8::7", "::"),
    ],
)
def test_sockets_and_groups_are_listed_as_they_are(
    version: int, group: str, other: str, source: str, anywhere: str
) -> None:
    with Host() as host, closing(listener(host, version, 9190, ("lo", group))) as sock, inside(host):
        _join_source(sock, 1, other, source)
        rows = {row.port: row for row in tables.udp_sockets(version)}
        assert list(rows) == [9190]
        row = rows[9190]
        assert (str(row.address), row.peer_port, row.drops, row.queued) == (anywhere, 0, 0, 0)
        assert row.inode == os.fstat(sock.fileno()).st_ino
        assert row.uid == os.getuid()
        joined = {str(entry.group): entry for entry in tables.joined_groups(version)}
        for name in (group, other):
            assert (joined[name].ifindex, joined[name].interface, joined[name].users) == (1, "lo", 1)
        assert not joined[LINK_LOCAL[version]].reported
        counts = [entry for entry in tables.source_counts(version) if str(entry.group) == other]
        assert [(str(each.source), each.ifindex, each.include, each.exclude) for each in counts] == [
            (source, 1, 1, 0)
        ]


def test_the_version_that_igmp_speaks_is_read() -> None:
    with Host() as host:
        host.ip("link add verylongname-12 type veth peer name dotted.7")  # the longest name there can be
        host.ip("link set verylongname-12 up")
        host.ip("link set dotted.7 up")
        sysctl(host, ipv4__conf__lo__force_igmp_version=2)
        with inside(host):
            versions = {entry.name: entry.version for entry in tables.igmp_interfaces()}
            assert tables.sysctl("ipv4/conf/lo/force_igmp_version") == "2"
            assert tables.sysctl("ipv4/conf/dotted.7/rp_filter") is not None
            assert tables.sysctl("ipv4/conf/none/rp_filter") is None
    assert versions == {"lo": 2, "verylongname-12": 3, "dotted.7": 3}


def test_counters_have_the_names_of_nstat() -> None:
    before = tables.counters()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", sock.getsockname())
        assert sock.recv(1) == b"x"
    after = tables.counters()
    assert after["UdpInDatagrams"] - before["UdpInDatagrams"] >= 1
    assert {"TcpExtIPReversePathFilter", "IpReasmFails", "UdpInCsumErrors", "Ip6ReasmFails"} <= after.keys()


def test_a_socket_leads_to_its_process() -> None:
    code = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('127.0.0.1', 0)); print(s.fileno(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        fd = other.stdout.readline().strip()
        inode = os.stat(f"/proc/{other.pid}/fd/{fd}").st_ino
        found = socket_owners.owners([inode]).of(inode)
        assert [process.pid for process in found] == [other.pid]
        assert found[0].command.startswith("python")
        other.communicate("")
    wait_for(lambda: not socket_owners.owners([inode]).of(inode))


@pytest.mark.root
def test_processes_that_cannot_be_looked_into_are_counted() -> None:
    code = "from mcastd.net.socket_owners import owners as of; it = of([1]); print(it.hidden, it.of(1))"
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", code]
    hidden, owners = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(hidden) >= 1
    assert owners == "()"


IGMP = """\
Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth0:odd  :     2      V2
\t\t\t\t0107FFEF     3 1:000003E8\t\t1
\t\t\t\tnonsense     3 1:000003E8\t\t1
\t\t\t\t010000E0     1 0:00000000\t\t0
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the text is a little-endian machine's")
def test_a_table_is_understood_as_far_as_it_goes() -> None:
    interfaces, groups = tables.parse_igmp(IGMP.splitlines())
    assert interfaces == [IgmpInterface(1, "lo", 3), IgmpInterface(4, "eth0:odd", 2)]
    group = ip_address("239.255.7.1")
    assert groups[1] == JoinedGroup(4, "eth0:odd", group, users=3, reporting=10.0, reporter=True)
    assert [str(each.group) for each in groups] == ["224.0.0.1", "239.255.7.1", "224.0.0.1"]


@given(st.lists(st.one_of(st.text(), st.sampled_from(IGMP.splitlines()))))
def test_no_text_is_too_odd_for_a_parser(lines: list[str]) -> None:
    tables.parse_igmp(lines)
    tables.parse_igmp6(lines)
    tables.parse_udp(lines)
    tables.parse_mcfilter(lines)
    tables.parse_multicast_routes(lines, lines, 4)
    tables.parse_multicast_routes(lines, lines, 6)
    assert all(isinstance(value, int) for value in tables.parse_counters(lines).values())


@pytest.mark.parametrize(
    ("version", "vifs", "cache", "group", "source"),
    [
        (
            4,
            "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n"
            " 0 eth0              0       0         0       0 00008 00000003 00000000\n"
            " 2 eth1              0       0         0       0 00008 00000005 00000000\n",
            "Group    Origin   Iif     Pkts    Bytes    Wrong Oifs\n"
            "0106FFEF 0101060A 2          0        0        0  0:7  \n"
            "0206FFEF 0101060A -1         0        0        0\n"
            "0306FFEF 0101060A 2          0        0        0  5:1\n",
            "239.255.6.1",
            "10.6.1.1",
        ),
        (
            6,
            "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags\n"
            " 0 eth0              0       0         0       0 00000\n"
            " 2 eth1              0       0         0       0 00000\n",
            "Group    Origin   Iif     Pkts    Bytes    Wrong Oifs\n"
            "ff15:0000:0000:0000:0000:0000:0006:0007 2001:0db8:0006:0001:0000:0000:0000:0001 2"
            "          0        0        0  0:7 \n",
            "ff15::6:7",
            "2001:db8:6:1::1",
        ),
    ],
)
def test_multicast_routes(version: int, vifs: str, cache: str, group: str, source: str) -> None:
    (route,) = tables.parse_multicast_routes(vifs.split("\n"), cache.split("\n"), version)
    assert (str(route.group), str(route.source)) == (group, source)
    assert (route.incoming, route.outgoing) == ("eth1", {"eth0": 7})


def test_a_process_says_who_it_is() -> None:
    assert str(Process(7, "socat")) == "socat (pid 7)"
