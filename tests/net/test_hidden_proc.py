"""A unit with ProcSubset=pid has no /proc/net: memberships are seen all the same, and not taken for lost."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest
from support.programs import ONLY_PROCESSES_IN_PROC

from mcastd.ip import ANY_SOURCE
from mcastd.net.guard import SourceGuard
from mcastd.net.interfaces import Host, look
from mcastd.net.membership import Membership, Memberships

GROUP = ip_address("239.255.9.77")


def test_groups_are_seen_where_proc_net_is_hidden() -> None:
    program = "from mcastd.net.interfaces import look; print(look().groups(4))"
    found = subprocess.check_output([*ONLY_PROCESSES_IN_PROC, sys.executable, "-c", program], text=True)
    assert "IPv4Address('224.0.0.1')" in found


@pytest.mark.parametrize(("groups", "left"), [({}, 0), ({1: frozenset([ip_address("224.0.0.1")])}, 1)])
def test_only_a_table_that_can_be_read_shows_a_loss(
    groups: dict[int, frozenset[object]], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(look().interfaces, asked=math.inf)
    monkeypatch.setattr(host, "groups", lambda version: groups)
    (loopback,) = [interface for interface in host.interfaces.values() if interface.loopback]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        membership = Membership(Memberships(), sock, GROUP, loopback, ANY_SOURCE, guard=SourceGuard(sock))
        leaves = []
        leave = membership.leave
        monkeypatch.setattr(membership, "leave", lambda: leaves.append(leave()))
        membership.keep(loopback, host)
        assert len(leaves) == left
        assert membership.actual() == "any"
