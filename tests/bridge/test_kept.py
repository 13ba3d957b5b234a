"""Tables that are kept from one run to the next: which descriptors are taken, and what is adopted."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address, ip_network

from support.host import Host
from support.inside import inside

from mcastd.bridge.family import FamilyRoutes
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.rules import Rule
from mcastd.counters import BridgeCounters
from mcastd.ip import SourceFilter
from mcastd.net import _abi
from mcastd.net.fake import FakeJoins, FakeQuerySender, FakeRoutingTable
from mcastd.net.interfaces import Host as Picture
from mcastd.net.interfaces import Interface
from mcastd.net.routing import RoutingTable

LEFT, RIGHT, OLD = 3, 5, 8
SOURCE, OTHER = ip_address("10.1.0.2"), ip_address("10.1.0.3")
NEWS, FILMS = ip_address("239.1.1.1"), ip_address("239.2.0.9")


class Store:
    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, name: str, _: int) -> None:
        self.names.add(name)

    def remove(self, name: str) -> None:
        self.names.discard(name)


def test_descriptors_of_the_run_before() -> None:
    with Host() as host:
        with inside(host):
            table = RoutingTable(4)
            four = os.dup(table.fileno())
            again = os.dup(four)
            table.close()
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
        store = Store()
        store.names = {"mroute4", "mroute6"}
        kept = KeptTables(
            store, [("mroute4", four), ("mroute4", again), ("mroute6", other), ("mroute7", os.dup(four))]
        )
        for fd in (again, other):
            try:
                os.fstat(fd)
            except OSError:
                continue
            raise AssertionError(f"{fd} is open")
        found = kept.take(4)
        assert found is not None
        assert (kept.take(4), kept.take(6)) == (None, None)
        kept.give_back(4, found)
        kept.settle()
        assert store.names == {"mroute6"}
        with inside(host):
            RoutingTable(4).close()
        kept.opened(6, 7)
        kept.closed(6)
        assert store.names == set()


def rule(*, joined: bool) -> Rule:
    return Rule(frozenset({LEFT}), {RIGHT: 1}, (ip_network("239.1.0.0/16"),), (), joined)


def adopted(table: FakeRoutingTable) -> tuple[FamilyRoutes, FakeJoins, Picture]:
    """A family that takes over two routes, one of which no rule wants any more."""
    for ifindex in (LEFT, RIGHT, OLD):
        table.add(ifindex)
    table.route(SOURCE, NEWS, LEFT, {RIGHT: 1})
    table.route(OTHER, FILMS, LEFT, {OLD: 1})
    table.send(LEFT, SOURCE, NEWS)
    joins = FakeJoins()
    family = FamilyRoutes(4, table, FakeQuerySender(), joins)
    family.adopt(100.0)
    addresses = (ip_address("10.9.2.5"),)
    names = {LEFT: "left", RIGHT: "right", OLD: "old"}
    interfaces = {i: Interface(i, name, _abi.IFF_UP, 1, addresses=addresses) for i, name in names.items()}
    return family, joins, Picture(interfaces, 0.0)


def test_routes_stay_as_they_are_until_all_bridges_have_begun() -> None:
    table = FakeRoutingTable()
    family, _, host = adopted(table)
    counters = family.forwarding.counters["tv"] = BridgeCounters()
    family.set_rules({"tv": rule(joined=False)}, host, 101.0)
    assert table.interfaces == {LEFT, RIGHT, OLD}
    assert table.send(LEFT, OTHER, FILMS) == {OLD}
    assert table.send(LEFT, SOURCE, NEWS) == {RIGHT}
    family.settle(102.0)
    family.settle(102.0)
    assert table.routes == {(SOURCE, NEWS): (LEFT, {RIGHT: 1}), (OTHER, FILMS): (LEFT, {})}
    assert table.interfaces == {LEFT, RIGHT}
    table.send(LEFT, SOURCE, NEWS)
    family.look(103.0)
    # Of what came before the bridge had a part in the route, nothing is counted
    assert (counters.received, counters.forwarded) == (1, 1)
    family.close()


def test_members_are_presumed_and_asked() -> None:
    table = FakeRoutingTable()
    family, joins, host = adopted(table)
    family.set_rules({"tv": rule(joined=True)}, host, 101.0)
    family.settle(101.5)
    assert table.routes[SOURCE, NEWS] == (LEFT, {RIGHT: 1})
    assert joins.joined == {(LEFT, NEWS): SourceFilter(False, (SOURCE,))}
    family.serve(101.5)
    asked = {(to, ifindex) for ifindex, _, to, _ in family.members._sender.sent}  # type: ignore[attr-defined]
    assert (NEWS, RIGHT) in asked
    for now in (102.5, 103.6):
        family.serve(now)
    assert table.routes[SOURCE, NEWS] == (LEFT, {}), "nobody has answered"
    assert joins.joined == {}
    family.close()
