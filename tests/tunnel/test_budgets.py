"""How much a host may ask of a relay."""

from __future__ import annotations

from ipaddress import ip_address

from mcastd.ip import host_of
from mcastd.tunnel.budgets import HOSTS_KEPT, HostBudgets

FOUR, SIX = ip_address("192.0.2.1"), ip_address("2001:db8:1:2::1")


def test_a_host_has_so_much_at_once_and_so_much_a_second() -> None:
    budgets = HostBudgets(5, 2.0)
    assert [budgets.take(FOUR, 10.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [budgets.take(FOUR, 11.0) for _ in range(3)] == [True, True, False]
    assert budgets.take(SIX, 11.0), "another has its own"
    assert sum(budgets.take(FOUR, 100.0) for _ in range(100)) == 5
    budgets.most = 9
    assert sum(budgets.take(FOUR, 200.0) for _ in range(100)) == 9


def test_several_tokens_are_taken_at_once_or_none_is_left() -> None:
    budgets = HostBudgets(100, 10.0)
    assert [budgets.take(FOUR, 10.0, 40) for _ in range(3)] == [True, True, False]
    assert [budgets.take(FOUR, 13.0, count) for count in (31, 30)] == [False, False]
    assert budgets.take(FOUR, 16.0, 30)


def test_a_network_of_ipv6_is_one_host() -> None:
    assert host_of(FOUR) == FOUR
    assert host_of(SIX) == host_of(ip_address("2001:db8:1:2:ffff::")) == ip_address("2001:db8:1:2::")
    assert host_of(SIX) != host_of(ip_address("2001:db8:1:3::1"))
    budgets = HostBudgets(5, 2.0)
    assert sum(budgets.take(SIX + number, 10.0) for number in range(100)) == 5


def test_hosts_without_end_take_no_more_memory() -> None:
    budgets = HostBudgets(5, 2.0)
    for number in range(3 * HOSTS_KEPT):
        assert budgets.take(FOUR + number, 10.0)
    assert len(budgets) == HOSTS_KEPT
