"""``via = "amt-fallback"``: what comes natively, and by a tunnel while nothing does.

```
   sender eth0 ------ eth0 receiver eth1 ------ eth0 relay 10.9.0.2
                           the daemon
```
"""

from __future__ import annotations

import contextlib
import errno
import math
import select
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.amt_relay import SOURCE, SmallRelay, datagram
from support.daemon import RunningDaemon
from support.host import Host, three_in_a_row
from support.inside import inside
from support.peer import Talker, streaming
from support.wait import wait_for

from mcastd.bell import Bell
from mcastd.errors import LinkError
from mcastd.ip import SourceFilter
from mcastd.net.fake import FakeReceiver
from mcastd.protocols.membership import RecordKind
from mcastd.tunnel.fallback import FallbackReceiver

GROUP, PORT, RELAY = "239.1.1.1", 5004, "10.9.0.2"  # the last of three hosts in a row
CONFIG = f"""[amt]
relay = "{RELAY}"
[inbound.news]
group = "{GROUP}"
port = {PORT}
interface = "eth0"
via = "amt-fallback"
expect_every = 1
output = "DIR/news"
"""


class Ways:
    """Both ways, in memory; a clock that stands still. A way that is closed cannot be opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.calls = 0  # of on_lost
        self.natives: list[FakeReceiver] = []
        self.tunnels: list[FakeReceiver] = []
        self.native_is_closed = self.tunnel_is_closed = False
        monkeypatch.setattr("mcastd.clock.monotonic", lambda: self.now)

    def _open_native(self) -> FakeReceiver:
        if self.native_is_closed:
            raise LinkError("cannot join", "no route")
        self.natives.append(FakeReceiver())
        return self.natives[-1]

    def _open_tunnel(self) -> FakeReceiver:
        if self.tunnel_is_closed:
            raise LinkError("cannot receive from AMT relays", "no socket")
        self.tunnels.append(FakeReceiver())
        return self.tunnels[-1]

    def open(self) -> FallbackReceiver:
        link = FallbackReceiver(self._open_native, self._open_tunnel, 2.0)

        def call() -> None:
            self.calls += 1

        link.on_lost = call
        return link

    def wait(self, link: FallbackReceiver, seconds: float) -> None:
        """Time passes; what is due is done as a subscription does it."""
        end = self.now + seconds
        while link.deadline <= end:
            self.now, calls = max(self.now, link.deadline), self.calls
            link.tick(self.now)
            if self.calls > calls:
                link.network_changed()
        self.now = end


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(monkeypatch)


def received(link: FallbackReceiver) -> list[bytes]:
    found: list[bytes] = []
    while batch := link.receive():
        found += [bytes(one) for one in batch.payloads]
    return found


def is_readable(link: FallbackReceiver) -> bool:
    return bool(select.select([link], [], [], 0)[0])


def test_the_tunnel_is_opened_after_silence_and_not_before(ways: Ways) -> None:
    link = ways.open()
    link.set_filter(SourceFilter(False, (SOURCE,)))
    for _ in range(3):
        ways.wait(link, 1.5)
        ways.natives[0].deliver(b"native")
        assert received(link) == [b"native"]
    assert ways.tunnels == []
    ways.wait(link, 2.5)
    (tunnel,) = ways.tunnels
    assert tunnel.source_filter == SourceFilter(False, (SOURCE,)), "it was told what both are told"
    tunnel.deliver(b"by the tunnel")
    assert received(link) == [b"by the tunnel"]
    assert link.glance().interfaces == ("fake0", "fake0")
    ways.wait(link, 60.0)
    assert len(ways.tunnels) == 1
    link.close()
    assert tunnel.closed


def test_another_patience_holds_for_the_ways_that_there_are(ways: Ways) -> None:
    """A tunnel that brings what does not come natively goes on."""
    link = ways.open()
    link.set_patience(6.0, 30.0)
    ways.wait(link, 5.9)
    assert not ways.tunnels
    ways.wait(link, 0.2)
    assert [one.patience for one in (*ways.natives, *ways.tunnels)] == [(6.0, 30.0)] * 2
    link.set_patience(1.0, 5.0)
    ways.tunnels[0].deliver(b"by the tunnel")
    assert received(link) == [b"by the tunnel"]
    assert (len(ways.natives), len(ways.tunnels), ways.tunnels[0].patience) == (1, 1, (1.0, 5.0))
    link.close()


def test_what_comes_natively_for_a_while_ends_the_tunnel_and_is_had_once(ways: Ways) -> None:
    link = ways.open()
    ways.wait(link, 3.0)
    (tunnel,) = ways.tunnels
    tunnel.dropped_by_kernel = 7
    for number in range(4):
        ways.natives[0].deliver(b"n%d" % number)
        assert received(link) == [b"n%d" % number]
        tunnel.deliver(b"t%d" % number)
        assert received(link) == [], "it came natively"
        ways.wait(link, 0.5)
    assert not tunnel.closed
    ways.natives[0].deliver(b"n4")
    assert received(link) == [b"n4"]
    assert tunnel.closed
    assert link.load().overflow == link.glance().overflow == 7, "what it lost is not forgotten"
    ways.wait(link, 3.0)
    assert len(ways.tunnels) == 2, "silent again"
    link.close()


def test_a_stray_datagram_costs_nothing_of_what_the_tunnel_brings(ways: Ways) -> None:
    link = ways.open()
    ways.wait(link, 3.0)
    found = []
    for number in range(120):
        ways.tunnels[0].deliver(b"%d" % number)
        if number % 40 == 10:  # each time after more than the patience
            ways.natives[0].deliver(b"stray")
        found += received(link)
        ways.wait(link, 0.1)
    assert [int(one) for one in found if one != b"stray"] == [*range(120)]
    assert found.count(b"stray") == 3
    assert len(ways.tunnels) == 1
    link.close()


def test_what_ends_natively_again_goes_on_by_the_tunnel_however_slow_it_is(ways: Ways) -> None:
    link = ways.open()
    ways.wait(link, 3.0)
    ways.natives[0].deliver(b"n")
    assert received(link) == [b"n"]
    for number in range(4):
        ways.wait(link, 0.9)
        ways.tunnels[0].deliver(b"%d" % number)
    assert received(link) == [b"0", b"1", b"2", b"3"]
    ways.tunnels[0].deliver(b"4")
    assert received(link) == [b"4"]
    link.close()


def test_what_waits_is_received_though_nothing_more_comes(ways: Ways) -> None:
    link = ways.open()
    ways.wait(link, 3.0)
    ways.natives[0].deliver(b"stray")
    assert received(link) == [b"stray"]
    ways.tunnels[0].deliver(b"last", b"but one")
    assert received(link) == []
    ways.wait(link, 1.9)
    assert (received(link), is_readable(link)) == ([], False)
    ways.wait(link, 0.2)
    assert is_readable(link)
    assert received(link) == [b"last", b"but one"]
    assert (is_readable(link), link.emptied, link.deadline) == (False, True, math.inf)
    assert len(ways.tunnels) == 1
    link.close()


def test_what_cannot_be_polled_leaves_nothing_open(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Bell) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as shortage:
        shortage.setattr(Bell, "fileno", refuse)
        with pytest.raises(OSError, match="no memory"):
            ways.open()
    assert [native.closed for native in ways.natives] == [True]


def test_what_was_not_read_in_time_is_no_silence(ways: Ways) -> None:
    link = ways.open()
    ways.natives[0].filled = 0.1
    ways.wait(link, 2.5)
    assert ways.tunnels == []
    link.close()


def test_where_the_group_cannot_be_joined_the_tunnel_comes_at_once(ways: Ways) -> None:
    ways.native_is_closed = True
    link = ways.open()
    ways.tunnels[0].deliver(b"by the tunnel")
    assert received(link) == [b"by the tunnel"]
    assert link.problem == "native: cannot join: no route"
    ways.native_is_closed = False
    assert link.retry_at is not None
    link.network_changed()
    ways.natives[0].deliver(b"native")
    assert received(link) == [b"native"]
    ways.wait(link, 2.0)
    ways.natives[0].deliver(b"natively")
    assert received(link) == [b"natively"]
    assert ways.tunnels[0].closed
    assert link.problem == ""
    link.close()


def test_without_either_there_is_no_link(ways: Ways) -> None:
    ways.native_is_closed = ways.tunnel_is_closed = True
    with pytest.raises(LinkError, match="cannot join: no route"):
        ways.open()


def test_a_tunnel_that_cannot_be_had_is_tried_again_and_the_native_way_goes_on(ways: Ways) -> None:
    ways.tunnel_is_closed = True
    link = ways.open()
    ways.wait(link, 3.0)
    assert "amt: cannot receive from AMT relays: no socket" in link.problem
    ways.natives[0].deliver(b"native")
    assert received(link) == [b"native"]
    assert link.problem == "", "it is not needed any longer"
    ways.wait(link, 3.0)
    ways.tunnel_is_closed = False
    link.network_changed()
    ways.tunnels[0].deliver(b"by the tunnel")
    assert received(link) == [b"by the tunnel"]
    link.close()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Host]]:
    with three_in_a_row() as hosts:
        yield hosts


@pytest.mark.root
def test_a_stream_that_fails_natively_goes_on_by_a_tunnel_and_comes_back(
    hosts: tuple[Host, Host, Host], tmp_path: Path
) -> None:
    sender, receiver, other = hosts
    news = tmp_path / "news"
    (tmp_path / "daemon").mkdir()
    with inside(other):
        relay = SmallRelay(RELAY)

    def lines(word: str) -> int:
        return news.read_text().count(word) if news.exists() else 0

    try:
        with (
            Talker(sender, "eth0", GROUP, PORT, source="10.8.0.1", label="native ") as talker,
            contextlib.ExitStack() as stack,
        ):
            with streaming(talker):  # before the daemon: a second of silence is enough for it
                config = CONFIG.replace("DIR", str(tmp_path))
                daemon = stack.enter_context(
                    RunningDaemon(tmp_path / "daemon", config, enter=receiver.enter([]))
                )
                wait_for(lambda: lines("native") > 100, "what comes natively")
                assert not relay.gateways
            missed = int(news.read_text().split()[1])
            wait_for(lambda: relay.gateways, "the tunnel")
            relay.stream = lambda: [datagram(b"tunnelled\n", group=ip_address(GROUP))]
            wait_for(lambda: lines("tunnelled") > 3, "what comes by it")
            link = daemon.worker("inbound/news")["status"]["link"]
            assert (link["interfaces"], link["tunnel"]["phase"]) == (["eth0", "amt"], "open")
            assert "amt" in daemon.ctl("status", "inbound/news").stdout
            # Another patience, and another refresh, cost nothing of what the tunnel brings
            told = len(relay.reports)
            daemon.write(config.replace("expect_every = 1", "expect_every = 2"))
            assert daemon.call("Reload")["changed"] == ["inbound/news"]
            daemon.write(config.replace(RELAY, f'{RELAY}"\nrefresh = "5s'))
            assert daemon.call("Reload")["changed"] == ["inbound/news"]
            link = daemon.worker("inbound/news")["status"]["link"]
            assert (link["interfaces"], link["tunnel"]["phase"]) == (["eth0", "amt"], "open")
            assert all(kind is RecordKind.IS_EXCLUDE for kind, *_ in relay.reports[told:])
            before = lines("native")
            with streaming(talker):
                wait_for(lambda: lines("native") > before + 100, "what comes natively again")

                def ways() -> tuple[list[str], object]:
                    link = daemon.worker("inbound/news")["status"]["link"]
                    return link["interfaces"], link["tunnel"]

                wait_for(lambda: ways() == (["eth0"], None), "the end of the tunnel")
            wait_for(lambda: lines("native") == len(talker.sent) - missed, "each once")
    finally:
        relay.close()
