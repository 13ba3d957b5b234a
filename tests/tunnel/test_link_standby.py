"""Which of two links to one site is in use: made-up links, up or not, whose peers want something."""

from __future__ import annotations

import math
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

from mcastd.ip import ANY_SOURCE
from mcastd.protocols.link_control import GroupWant
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.standby import TAKE_OVER_SECONDS, Standbys

ONE, OTHER = (GroupWant(ip_network(group), ANY_SOURCE, 0) for group in ("239.1.1.1", "239.2.2.2"))


class Pair:
    def __init__(self) -> None:
        self.links: dict[str, Any] = {}
        for name, standby_of in (("first", ""), ("second", "first"), ("alone", "")):
            end = SimpleNamespace(is_up=False, peer_wants=SimpleNamespace(wants=()))
            plan = LinkPlan(b"", standby_of=standby_of)
            self.links[name] = SimpleNamespace(name=name, plan=plan, end=end)
        in_site = {name: SimpleNamespace(rests=False) for name in self.links}
        self.site: Any = SimpleNamespace(links=in_site)
        self.standbys = Standbys(self.site, self.links)

    def up(self, name: str, *wants: GroupWant) -> None:
        link = self.links[name]
        link.end.is_up, link.end.peer_wants.wants = True, wants

    def down(self, name: str) -> None:
        self.links[name].end.is_up = False

    def settle(self, now: float) -> set[str]:
        """The links that rest."""
        self.standbys.settle(now)
        assert not self.standbys.settle(now), "it has come to rest"
        return {name for name, link in self.site.links.items() if link.rests}


def test_the_first_one_is_in_use_while_it_is_up() -> None:
    pair = Pair()
    assert pair.settle(1.0) == set()
    pair.up("alone", ONE)
    pair.up("first", ONE)
    assert pair.settle(1.0) == {"second"}
    pair.up("second", ONE, OTHER)
    assert pair.settle(2.0) == {"second"}
    assert pair.standbys.deadline == math.inf
    pair.down("first")
    assert pair.settle(3.0) == set()


def test_one_that_is_back_takes_over_when_it_knows_what_is_wanted() -> None:
    pair = Pair()
    pair.up("second", ONE, OTHER)
    assert pair.settle(1.0) == set()
    pair.up("first", ONE)
    assert pair.settle(6.0) == {"first"}
    assert pair.standbys.deadline == 6.0 + TAKE_OVER_SECONDS
    pair.up("first", ONE, OTHER._replace(distance=3))
    assert pair.settle(7.0) == {"second"}
    assert pair.standbys.deadline == math.inf


def test_one_that_is_back_takes_over_after_a_while() -> None:
    pair = Pair()
    pair.up("second", ONE)
    pair.settle(1.0)
    pair.up("first")
    pair.settle(3.0)
    pair.down("first")
    pair.settle(4.0)
    pair.up("first")
    assert pair.settle(5.0) == {"first"}
    assert pair.settle(5.0 + TAKE_OVER_SECONDS - 0.1) == {"first"}
    assert pair.settle(5.0 + TAKE_OVER_SECONDS) == {"second"}
    pair.up("second", ONE, OTHER)
    assert pair.settle(30.0) == {"second"}, "it stays"


def test_the_one_that_stands_by_may_go() -> None:
    pair = Pair()
    pair.up("second", ONE)
    pair.settle(1.0)
    pair.up("first")
    assert pair.settle(5.0) == {"first"}
    pair.down("second")
    assert pair.settle(6.0) == {"second"}
