"""What the thread of all tunnels makes of a batch of messages, whoever sent them: no socket, no thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from support.amt_relay import GROUP, SOURCE, datagram

from mcastd.ip import ANY_SOURCE
from mcastd.net.link import ListBatch, Metadata, Origin
from mcastd.protocols import amt
from mcastd.tunnel.candidates import Candidate, FoundBy
from mcastd.tunnel.gateway import Gateway
from mcastd.tunnel.receiver import TunnelReceiver
from mcastd.tunnel.search import RelaySearch
from mcastd.tunnel.tunnel import AmtTunnel, RelayWay
from mcastd.tunnel.tunnels import Tunnels

RELAY, STRANGER = ("192.0.2.1", amt.PORT), ("198.51.100.9", 4000)
ENDS = {"relay": RELAY, "stranger": STRANGER, "relay's other port": (RELAY[0], 4000)}
OTHER = ip_address("232.1.1.2")


class Open:
    """A tunnel whose relay has been told what is wanted, and one subscription."""

    def __init__(self) -> None:
        self.tunnels = Tunnels()
        self.tunnel = AmtTunnel(RelayWay(RELAY[0], 4268, 60.0), self.tunnels)
        self.tunnel.gateway = Gateway(ip_address(RELAY[0]))
        self.tunnel.gateway.relay = ip_address(RELAY[0])
        self.receiver = TunnelReceiver(self.tunnel, GROUP, 5004, ANY_SOURCE, 1 << 20, refresh_seconds=60.0)
        self.tunnel.receivers = (self.receiver,)

    def take(self, messages: Iterable[tuple[str, bytes]]) -> list[bytes]:
        """Take messages from these ends. Returns what the subscription has of them."""
        came = [(Origin(*ENDS[name], 0, 64), message) for name, message in messages]
        origins, payloads = [origin for origin, _ in came], [message for _, message in came]
        self.tunnels._take(ListBatch(payloads, origins, [*range(len(came))]), [self.tunnel])
        found: list[bytes] = []
        self.receiver.set_metadata(Metadata.ALL)
        while len(batch := self.receiver.receive()):
            found += map(bytes, batch.payloads)
            for time, payload in zip(batch.times, batch.payloads, strict=True):
                assert bytes(payload) in payloads[time], "it came with that message"
        return found

    def close(self) -> None:
        self.receiver.close()


DATA = st.builds(
    lambda payload, group, checksum: b"\6\0" + datagram(payload, group, checksum=checksum),
    st.sampled_from([b"", b"x", b"yy", b"zzzz" * 9]),
    st.sampled_from([GROUP, OTHER]),
    st.sampled_from([None, None, 0, 7]),
)
ANYTHING = st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 9), st.binary(max_size=80))
MESSAGES = st.lists(st.tuples(st.sampled_from(sorted(ENDS)), DATA | ANYTHING), min_size=1, max_size=20)


@given(MESSAGES)
def test_whatever_comes_at_once_is_what_it_is_one_by_one(messages: list[tuple[str, bytes]]) -> None:
    together, each = Open(), Open()
    found = together.take(messages)
    assert found == [payload for one in messages for payload in each.take([one])]
    for tunnels in (together, each):
        tunnel = tunnels.tunnel
        from_relay = [message for name, message in messages if name == "relay" and message[:1] == b"\6"]
        assert tunnel.received == len(from_relay)
        assert tunnel.received == len(found) + tunnel.dropped.total() + tunnel.inner.held
    assert together.tunnel.dropped == each.tunnel.dropped
    together.close()
    each.close()


def test_streams_of_two_groups_come_whole_and_what_is_foreign_is_counted() -> None:
    opened = Open()
    payloads = [b"%04d" % number for number in range(50)]
    found = opened.take(
        ("relay", b"\6\0" + datagram(one, group)) for one in payloads for group in (GROUP, OTHER)
    )
    assert found == payloads
    assert opened.tunnel.dropped == Counter(foreign=50)
    assert opened.take([("stranger", b"\6\0" + datagram(b"lie"))] * 3) == []
    assert opened.tunnel.received == 100
    opened.close()


@given(st.binary(max_size=60), st.integers(0, 9))
def test_any_bytes_are_no_answer_to_a_search(rest: bytes, kind: int) -> None:
    search = RelaySearch(
        [Candidate(ip_address(RELAY[0]), FoundBy.NAME), Candidate(SOURCE, FoundBy.NAME)], 0.0
    )
    search.tick(1.0)
    assert search.take(bytes([kind]) + rest, (ip_address(RELAY[0]), amt.PORT)) is None
