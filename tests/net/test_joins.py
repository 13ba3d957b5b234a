"""Memberships for others: more sources than one socket takes, and changes that cost nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.host import Host, connect
from support.inside import inside, sysctl
from support.wire import Wire

from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, NO_SOURCE, Address, SourceFilter
from mcastd.net.interfaces import Interface, look
from mcastd.net.joins import SOURCES_MAX, Joins, spread
from mcastd.net.membership import Memberships
from mcastd.net.tables import source_counts

GROUPS = {4: ip_address("232.1.1.1"), 6: ip_address("ff3e::1")}


def sources(version: int, *numbers: int) -> tuple[Address, ...]:
    first = ip_address("203.0.113.0" if version == 4 else "2001:db8::")
    return tuple(first + number for number in numbers)


def include(version: int, *numbers: int) -> SourceFilter:
    return SourceFilter(False, sources(version, *numbers))


FILTERS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, unique=True).map(lambda numbers: include(4, *numbers)),
    st.lists(st.integers(1, 40), unique=True).map(lambda numbers: SourceFilter(True, sources(4, *numbers))),
)


@given(st.lists(FILTERS, min_size=1, max_size=6))
def test_filters_of_sockets_make_up_what_is_wanted_and_no_source_moves(wanted: list[SourceFilter]) -> None:
    held: list[SourceFilter] = []
    for one in wanted:
        parts = spread(held, one, 7)
        assert len(parts) >= len(held)
        used = [part for part in parts if part != NO_SOURCE]
        assert all(len(part.sources) <= 7 for part in used)
        if one.exclude:
            assert used == [one if len(one.sources) <= 7 else ANY_SOURCE]
        else:
            together = [source for part in used for source in part.sources]
            assert sorted(together, key=int) == sorted(one.sources, key=int), "each once"
            for before, after in zip(held, parts, strict=False):
                if not before.exclude:
                    assert {*before.sources} & {*one.sources} <= {*after.sources}
        held = used


Hosts = tuple[Host, Host, Interface]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Host() as here, Host() as there:
        connect(here, "eth0", there, "eth0")
        here.ip("addr add 10.1.0.2/24 dev eth0")
        here.ip("addr add fe80::2/64 dev eth0 nodad")
        with inside(here):
            yield here, there, next(one for one in look().interfaces.values() if one.name == "eth0")


def known(version: int) -> int:
    """Sources of the group that the kernel has asked for."""
    return sum(one.include > 0 for one in source_counts(version) if one.group == GROUPS[version])


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
def test_more_sources_than_a_socket_takes_are_joined_and_what_stays_is_never_left(
    hosts: Hosts, version: int
) -> None:
    _, there, interface = hosts
    most, group = SOURCES_MAX[version], GROUPS[version]
    joins = Joins(Memberships())
    with Wire(there) as wire:
        joins.join(interface, group, include(version, *range(1, most + 1)))
        assert known(version) == most
        joins.join(interface, group, include(version, *range(2, 2 * most + 4)))
        assert known(version) == 2 * most + 2
        joins.join(interface, group, include(version, 2, most + 3))
        assert known(version) == 2
        joins.join(interface, group, ANY_SOURCE)
        last = include(version, 2, *range(100, 100 + most))
        joins.join(interface, group, last)
        assert known(version) == most + 1
        wire.wait_reception(str(group), "include", *map(str, last.sources))
        records = wire.records(str(group))
    kept = str(sources(version, 2)[0])
    assert not [one for one in records if one.kind == "BLOCK" and kept in one.sources]
    joins.leave(interface.index, group)
    assert known(version) == 0
    joins.close()


@pytest.mark.root
def test_what_is_refused_leaves_what_was_joined(hosts: Hosts) -> None:
    host, _, interface = hosts
    joins, group = Joins(Memberships()), GROUPS[4]
    joins.join(interface, group, include(4, 1, 2))
    sysctl(host, ipv4__igmp_max_msf=2)
    with pytest.raises(LinkError, match="igmp_max_msf"):
        joins.join(interface, group, include(4, 1, 2, 3))
    assert known(4) == 2
    sysctl(host, ipv4__igmp_max_msf=10)
    joins.join(interface, group, include(4, 1, 2, 3))
    assert known(4) == 3
    joins.close()


@pytest.mark.root
def test_strangers_do_not_take_the_descriptors_that_others_need(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, interface = hosts
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    joins, group = Joins(Memberships()), GROUPS[4]
    joins.join(interface, group, include(4, *range(35)))  # four sockets
    for number in range(1, 7):
        joins.join(interface, group + number, ANY_SOURCE)
    with pytest.raises(LinkError, match="10 sockets are members of groups for others"):
        joins.join(interface, group + 7, ANY_SOURCE)
    with pytest.raises(LinkError, match="10 sockets"):
        joins.join(interface, group, include(4, *range(45)))
    joins.join(interface, group, include(4, *range(5)))
    for number in range(7, 10):
        joins.join(interface, group + number, ANY_SOURCE)
    with pytest.raises(LinkError):
        joins.join(interface, group + 10, ANY_SOURCE)
    joins.leave(interface.index, group + 1)
    joins.join(interface, group + 10, ANY_SOURCE)
    joins.close()
    for number in range(10):
        joins.join(interface, group + number, ANY_SOURCE)
    joins.close()
