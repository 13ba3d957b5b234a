"""Which relay is taken of several, and when it is left for another: RFC 8777 section 3."""

from __future__ import annotations

import errno
import itertools
import math
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

import pytest

from mcastd.ip import ANY_SOURCE, Address
from mcastd.net import resolving
from mcastd.protocols import amt
from mcastd.tunnel import candidates
from mcastd.tunnel.candidates import Candidate, Candidates, FoundBy, candidates_of
from mcastd.tunnel.gateway import Gateway
from mcastd.tunnel.receiver import TunnelReceiver
from mcastd.tunnel.search import STAGGER_SECONDS, HoldDown, RelaySearch
from mcastd.tunnel.tunnel import DRY_HOLD_SECONDS, DRY_MAX_SECONDS, DRY_SECONDS, AmtTunnel, RelayWay

FIRST, SECOND, THIRD = (
    Candidate(ip_address(f"198.51.100.{number}"), by)
    for number, by in ((1, FoundBy.SITE), (2, FoundBy.ANYCAST), (3, FoundBy.SOURCE))
)
ALL = FIRST, SECOND, THIRD
GROUP = ip_address("232.1.1.1")


def search(now: float = 0.0) -> RelaySearch:
    numbers = iter(range(1, 100))
    return RelaySearch(ALL, now, random=Random(7), nonce=lambda: next(numbers).to_bytes(4, "big"))


def answer(number: int) -> bytes:
    """What the candidate of this number, from 1, says."""
    return amt.build(amt.RelayAdvertisement(number.to_bytes(4, "big"), ALL[number - 1].address))


def test_the_better_relay_has_a_head_start_and_the_others_are_not_waited_for() -> None:
    seeking, asked = search(), []
    while seeking.deadline < 1.0:
        now = seeking.deadline
        asked += [(now, to[0]) for _, to in seeking.tick(now)]
    assert asked[:3] == [(index * STAGGER_SECONDS, one.address) for index, one in enumerate(ALL)]
    assert seeking.take(answer(2), (SECOND.address, amt.PORT)) == SECOND


def test_only_an_answer_from_who_was_asked_counts() -> None:
    seeking = search()
    seeking.tick(0.0)
    assert seeking.take(answer(2), (SECOND.address, amt.PORT)) is None, "it was not asked yet"
    assert seeking.take(answer(2), (FIRST.address, amt.PORT)) is None, "another's nonce"
    assert seeking.take(answer(1), (SECOND.address, amt.PORT)) is None
    assert seeking.take(answer(1), (FIRST.address, amt.PORT + 1)) is None
    assert seeking.take(b"\x02", (FIRST.address, amt.PORT)) is None
    assert seeking.take(answer(1), (FIRST.address, amt.PORT)) == FIRST


def test_who_does_not_answer_is_asked_again_ever_more_rarely() -> None:
    seeking, times = search(), []
    while len(times) < 9:
        now = seeking.deadline
        times += [now for _, to in seeking.tick(now) if to[0] == FIRST.address]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(1.0 <= gap <= 4.0 for gap in gaps)
    assert max(gaps[3:]) > max(gaps[:1])
    assert seeking.tries == 9


def test_held_down_relays_are_left_out_unless_all_of_them_are() -> None:
    held = HoldDown()
    held.add(FIRST, 10.0, now=0.0)
    assert held.without(ALL, 5.0) == [SECOND, THIRD]
    for one in ALL:
        held.add(one, 10.0, now=5.0)
    assert held.without(ALL, 6.0) == [*ALL]
    assert held.without(ALL, 16.0) == [*ALL]


class Tunnelled:
    """A tunnel with a subscription, whose relay is looked for. Its gateway speaks to nobody."""

    def __init__(self, found: Candidates) -> None:
        self.tunnel = AmtTunnel(RelayWay(None, 2268, 25.0), self, random=Random(7))
        receiver = TunnelReceiver(self.tunnel, GROUP, 5004, ANY_SOURCE, 1 << 20, refresh_seconds=25.0)
        self.receiver = receiver
        self.tunnel.receivers = (receiver,)
        self.now = 0.0
        self.tunnel.seek(found, self.now)

    def forget(self, tunnel: AmtTunnel, receiver: TunnelReceiver) -> None: ...

    def wake(self) -> None: ...

    def open(self, candidate: Candidate, *, full: bool = False) -> None:
        """A relay is chosen; it answers at once."""
        numbers = iter(range(1, 100))
        gateway = Gateway(candidate.address, random=Random(7), nonce=lambda: next(numbers).to_bytes(4, "big"))
        gateway.want({GROUP: ANY_SOURCE}, self.now)
        gateway.tick(self.now)
        end = candidate.address, amt.PORT
        gateway.take(amt.build(amt.RelayAdvertisement((1).to_bytes(4, "big"), end[0])), end, self.now)
        from support.amt_relay import general_query

        query = amt.TunnelQuery((2).to_bytes(4, "big"), b"MacMac", general_query(is_mld=False), full=full)
        gateway.take(amt.build(query), end, self.now)
        self.tunnel.choose(candidate, gateway)
        self.tunnel.look()

    def is_left(self, *, within: float) -> bool:
        """Return True if the relay is given up by then; time goes on from deadline to deadline."""
        end = self.now + within
        while self.now <= end:
            if self.tunnel.leave_bad_relay(self.now):
                return True
            self.now += 0.5
        return False


@pytest.fixture
def tunnelled() -> Tunnelled:
    return Tunnelled(Candidates(ALL))


def test_a_relay_that_brings_nothing_is_left_for_the_next_and_not_taken_again_soon(
    tunnelled: Tunnelled,
) -> None:
    tunnelled.open(FIRST)
    assert not tunnelled.is_left(within=DRY_SECONDS - 1)
    assert tunnelled.is_left(within=2.0)
    tunnelled.tunnel.seek(tunnelled.tunnel.candidates, tunnelled.now)
    assert tunnelled.tunnel.search is not None
    assert tunnelled.tunnel.search.candidates == (SECOND, THIRD)
    tunnelled.open(SECOND)
    assert tunnelled.is_left(within=DRY_MAX_SECONDS)
    assert tunnelled.tunnel.seek(tunnelled.tunnel.candidates, tunnelled.now) == THIRD
    tunnelled.open(THIRD)
    assert not tunnelled.is_left(within=DRY_HOLD_SECONDS / 2), "there is no other one"
    assert tunnelled.is_left(within=DRY_HOLD_SECONDS), "the first may be tried again"


def test_a_relay_that_has_brought_something_is_kept(tunnelled: Tunnelled) -> None:
    tunnelled.open(FIRST)
    tunnelled.tunnel.note_delivered()
    assert not tunnelled.is_left(within=600)
    assert tunnelled.tunnel.deadline < math.inf, "it is asked again as ever"


def test_a_relay_that_brings_nothing_is_not_left_for_another_once_nothing_is_wanted(
    tunnelled: Tunnelled,
) -> None:
    tunnelled.open(FIRST)
    assert not tunnelled.is_left(within=1.0)
    tunnel = tunnelled.tunnel
    tunnel.receivers = ()
    assert tunnel.gateway is not None
    tunnel.gateway.end()
    assert not tunnelled.is_left(within=DRY_MAX_SECONDS)
    assert tunnel.deadline == math.inf, "the tunnel can be forgotten"


@dataclass(eq=False)
class Overflowing:
    """The socket of several tunnels."""

    overflow: int


def test_what_was_lost_at_a_socket_before_is_no_loss_of_a_tunnel(tunnelled: Tunnelled) -> None:
    tunnel, receiver = tunnelled.tunnel, tunnelled.receiver

    def lost() -> tuple[int, int]:
        return receiver.load().overflow, tunnel.status().overflow

    first, second = Overflowing(7), Overflowing(100)
    tunnel.come_by(first)
    assert lost() == (0, 0)
    first.overflow += 2
    assert lost() == (2, 2)
    tunnel.come_by(first)
    assert lost() == (2, 2)
    tunnel.come_by(second)
    assert lost() == (2, 2)
    second.overflow += 30
    first.overflow += 5
    assert lost() == (32, 32)


def test_a_full_relay_is_left_at_once_if_there_is_another() -> None:
    tunnelled = Tunnelled(Candidates((FIRST, SECOND)))
    tunnelled.open(FIRST, full=True)
    assert tunnelled.is_left(within=0.0)
    assert tunnelled.tunnel.seek(tunnelled.tunnel.candidates, tunnelled.now) == SECOND
    alone = Tunnelled(Candidates((FIRST,)))
    alone.open(FIRST, full=True)
    assert not alone.is_left(within=30.0)
    assert "takes no new gateways" in alone.tunnel.problem


def test_a_search_without_an_answer_says_whom_it_asked_and_what_dns_did(tunnelled: Tunnelled) -> None:
    tunnelled = Tunnelled(Candidates((FIRST, SECOND), ("cannot ask DNS: it is away",)))
    tunnel = tunnelled.tunnel
    assert tunnel.search is not None
    for now in (0.0, 5.0, 10.0):
        tunnel.search.tick(now)
    assert tunnel.look()
    assert tunnel.problem == (
        "no relay answers at 198.51.100.1, 198.51.100.2, UDP port 2268 (cannot ask DNS: it is away);"
        " with sources their own zones are asked for relays, too: asking again"
    )
    assert tunnel.is_to_resolve, "DNS may know another one by now"
    assert tunnel.status().unanswered == 3
    assert tunnel.status().phase == "discovering"


def test_where_nothing_is_known_that_is_said() -> None:
    tunnelled = Tunnelled(Candidates((), ("cannot ask DNS: it is away",)))
    tunnelled.tunnel.look()
    assert tunnelled.tunnel.problem == "no relay is known; cannot ask DNS: it is away"


def test_what_dns_says_is_no_address_of_a_relay_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ("239.1.1.1", "0.0.0.0", "127.0.0.1", "fe80::1", "ff02::1")
    names = [*map(ip_address, bad), ip_address("198.51.100.9")]
    record = candidates.RelayRecord(10, "relays.example.net.")
    monkeypatch.setattr(candidates, "relays_of_site", lambda: [record])
    of_source = [candidates.RelayRecord(1, one) for one in bad]
    monkeypatch.setattr(candidates, "relays_of_source", lambda _: of_source)
    monkeypatch.setattr(candidates, "addresses_of", lambda _: names)
    monkeypatch.setattr(candidates, "is_routed", lambda address: address.version == 4)
    found = candidates_of(None, [ip_address("203.0.113.1")])
    assert found.found == (
        Candidate(ip_address("198.51.100.9"), FoundBy.SITE),
        *(Candidate(address, FoundBy.ANYCAST) for address in amt.ANYCAST_RELAYS),
    )


class Record(str):
    """A record of DNS, as dnspython has it as far as it matters here."""

    def to_text(self) -> str:
        return str(self)


def test_a_name_server_that_falls_silent_costs_seconds_and_not_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = pytest.importorskip("dns.resolver")
    exception = pytest.importorskip("dns.exception")
    now = 1000.0
    silent_after = 20  # answers

    class Resolver:
        search = (Record("example.net."),)

    def resolve(name: str, kind: str, *, search: bool, lifetime: float) -> list[Record]:
        nonlocal now, silent_after
        assert not search
        silent_after -= 1
        if silent_after < 0 or not lifetime:
            now += lifetime
            raise exception.Timeout
        now += 0.3
        if kind == "PTR":
            return [Record(f"i{number}.example.net.") for number in range(99)]
        return [Record(f"{number} 0 2268 {number}.{name}") for number in range(9)]

    monkeypatch.setattr(resolver, "Resolver", Resolver)
    monkeypatch.setattr(resolver, "resolve", resolve)
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    found = resolving.relays_of_site()
    assert len(found) == resolving.RECORDS_MAX
    assert found[0].rank == 0
    assert now <= 1000 + resolving.LIFETIME_SECONDS + 0.3
    silent_after = 1
    with pytest.raises(resolving.UnresolvedError, match="which relays this network offers"):
        resolving.relays_of_site()


def test_names_that_cannot_be_resolved_in_time_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def addresses_of(name: str) -> list[Address]:
        nonlocal now
        now += 30
        raise OSError(errno.EAGAIN, "no answer")

    records = [candidates.RelayRecord(0, f"{number}.example.net.") for number in range(16)]
    monkeypatch.setattr(candidates, "relays_of_site", lambda: records)
    monkeypatch.setattr(candidates, "addresses_of", addresses_of)
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    found = candidates_of(None, [])
    assert {one.found_by for one in found.found} == {FoundBy.ANYCAST}
    assert now == 1030
