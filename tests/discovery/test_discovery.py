"""The worker that hears announcements: what it joins, what it says, and what a daemon shows of it."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.arenas import FewArenas
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.meanwhile import meanwhile
from support.programs import program
from support.wait import wait_for

from mcastd.config import Discover
from mcastd.discovery.discovery import Discovery
from mcastd.errors import LinkError, NoArenaError
from mcastd.ip import Address
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.fake import BATCH_DATAGRAMS, FakeReceiver
from mcastd.net.link import Origin, Receiver
from mcastd.protocols import sap, sdp
from mcastd.worker import Context, Signal

TEXT = (
    b"v=0\r\no=- 7 1 IN IP4 192.0.2.9\r\ns=News\r\nc=IN IP4 239.192.1.2/8\r\nt=0 0\r\n"
    b"m=video 5004 RTP/AVP 33\r\na=source-filter: incl IN IP4 239.192.1.2 192.0.2.9\r\n"
)
ORIGIN = Origin("192.0.2.9", 40_000, 3, 8)


def packet(text: bytes = TEXT) -> bytes:
    return sap.build(ip_address("192.0.2.9"), 5, text)


class Network:
    """Links in memory, by group; those to ``refused`` groups cannot be opened."""

    def __init__(self) -> None:
        self.links: dict[str, FakeReceiver] = {}
        self.refused: set[str] = set()
        self.opened: list[str] = []
        self.arenas = FewArenas(20)

    def open(self, _: Discover, group: Address) -> Receiver:
        if str(group) in self.refused:
            raise LinkError(f"cannot join {group}", "no such interface", errno=errno.ENODEV)
        self.opened.append(str(group))
        link = self.links[str(group)] = self.arenas.receiver()
        return link


@contextmanager
def running(worker: Discovery) -> Iterator[tuple[Context, list[BaseException]]]:
    ready = threading.Event()
    context, failures = Context(ready.set).open(), list[BaseException]()

    def main() -> None:
        try:
            worker.run(context)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    try:
        wait_for(lambda: ready.is_set() or not thread.is_alive(), "ready")
        yield context, failures
    finally:
        context.send(Signal.STOP)
        thread.join(10)
        assert not thread.is_alive()
        context.close()


def discovery(network: Network, **settings: object) -> Discovery:
    return Discovery(
        "discover/lan", Discover.model_validate(settings), network.open, lambda index: f"eth{index}"
    )


def test_a_session_that_is_announced_is_listed() -> None:
    network = Network()
    worker = discovery(network)
    with running(worker) as (context, _):
        assert context.detail == "in 10 of 10 groups of announcements"
        network.links["239.195.255.255"].deliver(packet(), b"x", origin=ORIGIN)
        wait_for(lambda: worker.counters.received == 2 and worker.counters.dropped, "two packets")
        status = worker.status()
        (session,) = status.sessions
        (medium,) = session.media
        assert (session.name, session.sender, session.interface, session.announced_to) == (
            "News",
            "192.0.2.9",
            "eth3",
            "239.195.255.255",
        )
        assert (medium.kind, medium.group, medium.port, medium.ttl) == ("video", "239.192.1.2", 5004, 8)
        assert (medium.transport, medium.encoding, medium.sources) == (
            "RTP/AVP",
            "MP2T/90000",
            ("192.0.2.9",),
        )
        assert (session.sdp.encode(), status.heard, status.counters.dropped) == (TEXT, 1, {"too-short": 1})
        vitals, books = worker.vitals(), worker.books()
        assert (vitals.datagrams, vitals.dropped, books.sessions) == (2, 1, 1)
        worker._sessions.listed()[0].first -= 20.0
        (session,) = worker.status().sessions
        assert session.age - session.last_age == pytest.approx(20.0)
    assert all(link.closed for link in network.links.values())
    assert worker.status().heard == 1, "what was heard outlives a run"


def test_its_links_hold_what_comes_while_there_is_no_memory() -> None:
    network = Network()
    worker = discovery(network, groups=["239.255.255.255"])
    with running(worker) as (context, failures):
        said = context.detail
        link = network.links["239.255.255.255"]
        link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
        link.deliver(packet(), origin=ORIGIN)
        wait_for(lambda: context.degraded and "no memory left" in context.detail, "the reason")
        link.failure = None
        wait_for(lambda: worker.counters.received == 1, "what waited")
        wait_for(lambda: (context.detail, context.degraded) == (said, False), "all is well")
        assert (link.closed, failures) == (False, [])


def test_a_flood_of_one_group_keeps_no_other_from_the_only_arena() -> None:
    network, groups = Network(), ["239.255.255.255", "239.195.255.255"]
    network.arenas.free = 1
    worker = discovery(network, groups=groups)
    with running(worker):
        flooded, other = (network.links[group] for group in groups)
        with meanwhile(lambda: flooded.deliver(*[b"x"] * (2 * BATCH_DATAGRAMS)), 0.01, "flood"):
            wait_for(lambda: worker.counters.received > BATCH_DATAGRAMS, "the flood")
            other.deliver(packet(), origin=ORIGIN)
            wait_for(lambda: worker.status().heard == 1, "what another group has")
    assert network.arenas.free == 1


def test_a_shortage_is_said_once_whatever_other_groups_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    naps, nap = list[float](), Context.nap

    def note(context: Context, seconds: float) -> None:
        naps.append(seconds)
        nap(context, seconds)

    monkeypatch.setattr(Context, "nap", note)
    network, groups = Network(), ["239.255.255.255", "239.195.255.255"]
    worker = discovery(network, groups=groups)
    with running(worker) as (context, _):
        short, other = (network.links[group] for group in groups)
        told, ready = list[bool](), context.ready

        def tell(detail: str = "", *, degraded: bool = False) -> None:
            told.append(degraded)
            ready(detail, degraded=degraded)

        monkeypatch.setattr(context, "ready", tell)
        short.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
        short.deliver(packet(), origin=ORIGIN)
        wait_for(lambda: MEMORY_RETRY_SECONDS in naps, "a pause: it is not tried all the time")
        for count in (1, 2, 3):
            other.deliver(packet(), origin=ORIGIN)
            wait_for(lambda count=count: worker.counters.received == count, "what others receive")
        wait_for(lambda: naps.count(MEMORY_RETRY_SECONDS) >= 3, "it is tried again")
        assert told == [True]
        short.failure = None
        wait_for(lambda: told == [True, False], "all is well")
        short.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
        short.deliver(packet(), origin=ORIGIN)
        wait_for(lambda: context.degraded, "it is short again")
        assert worker.update(Discover.model_validate({"groups": groups[1:]}))
        context.send(Signal.NETWORK)
        wait_for(lambda: not context.degraded, "that group is not wanted any more")


def test_all_scopes_of_which_some_cannot_be_joined() -> None:
    network = Network()
    network.refused = {str(group) for group in sap.GROUPS if group.version == 6}
    worker = discovery(network)
    with running(worker) as (context, _):
        assert context.detail == "in 4 of 10 groups of announcements"
        assert worker.status().refused.keys() == network.refused
        network.refused.clear()
        context.send(Signal.NETWORK)
        wait_for(lambda: not worker.status().refused, "the others")
        assert len(network.opened) == 10


@pytest.mark.parametrize("settings", [{}, {"groups": ["239.255.255.255", "239.195.255.255"]}])
def test_without_a_group_or_one_that_is_named_it_waits(settings: dict[str, object]) -> None:
    network = Network()
    network.refused = {str(group) for group in sap.GROUPS} - ({"239.195.255.255"} if settings else set())
    with running(discovery(network, **settings)) as (_, failures):
        wait_for(lambda: failures, "the error")
    assert isinstance(failures[0], LinkError)
    assert all(link.closed for link in network.links.values())


def test_other_settings_are_taken_over_and_what_was_heard_stays() -> None:
    network = Network()
    worker = discovery(network)
    with running(worker) as (context, _):
        network.links["239.255.255.255"].deliver(packet(), origin=ORIGIN)
        wait_for(lambda: worker.status().heard, "a session")
        before = network.links.copy()
        assert worker.update(Discover.model_validate({"groups": ["239.255.255.255"], "interface": "eth7"}))
        context.send(Signal.NETWORK)
        wait_for(lambda: worker.status().groups == ("239.255.255.255",), "the one group")
        wait_for(lambda: all(link.closed for link in before.values()), "the others closed")
        assert worker.status().heard == 1


def test_a_session_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.discovery.discovery.LOOK_SECONDS", 0.05)
    monkeypatch.setattr(sap, "LIFETIME_MIN_SECONDS", 0.2)
    network = Network()
    worker = discovery(network)
    with running(worker):
        network.links["239.255.255.255"].deliver(packet(), origin=ORIGIN)
        wait_for(lambda: worker.counters.ended == {"expired": 1}, "its end")


# -- a daemon, and others that announce


def config(directory: Path, more: str = "") -> str:
    return f'[daemon]\nlog_format = "json"\ncontrol_socket = "{directory}/control"\n{more}'


@contextmanager
def hearing_alone(directory: Path) -> Iterator[tuple[Host, RunningDaemon]]:
    """A host on its own, and a daemon there that hears what is announced on it."""
    with Host() as host:
        host.ip("link set lo multicast on")
        host.ip("route add 224.0.0.0/4 dev lo")
        discover = config(directory, '[discover.lo]\ninterface = "lo"\n')
        with RunningDaemon(directory, discover, enter=host.enter([])) as daemon:
            yield host, daemon


def names(daemon: RunningDaemon) -> set[str]:
    return {session["name"] for session in daemon.worker("discover/lo")["status"]["sessions"]}


def test_a_channel_of_one_daemon_is_found_by_it(tmp_path: Path) -> None:
    """By IPv4 and IPv6, with the interface and address that it sends by; and gone when it has stopped."""
    with Host() as here, Host() as there:
        connect(here, "eth0", there, "net0")
        here.ip("addr add 10.9.0.1/24 dev eth0")
        for host, name, last in ((here, "eth0", 1), (there, "net0", 2)):
            host.ip(f"addr add 2001:db8::{last}/64 dev {name} nodad")
        there.ip("addr add 10.9.0.2/24 dev net0")
        source = tmp_path / "news"
        source.write_text("a\n")
        for directory in ("here", "there"):
            (tmp_path / directory).mkdir()
        channels = "".join(
            f'[outbound.{name}]\nsource = "{source}"\ngroup = "{group}"\nport = {port}\ninterface = "eth0"\n'
            f'ttl = {ttl}\nrepeat = "forever"\ninterval = "1s"\nannounce = {{ interval = "200ms" }}\n'
            for name, group, port, ttl in (("four", "239.192.1.2", 5004, 3), ("six", "ff15::1:2", 5006, 4))
        )
        listener = config(tmp_path / "there", '[discover.lo]\ninterface = "net0"\n')
        with (
            RunningDaemon(tmp_path / "there", listener, enter=there.enter([])) as hearing,
            RunningDaemon(
                tmp_path / "here", config(tmp_path / "here", channels), enter=here.enter([])
            ) as sending,
        ):
            wait_for(lambda: names(hearing) == {"four", "six"}, "both")
            sessions = hearing.worker("discover/lo")["status"]["sessions"]
            found = {one["name"]: (one, sdp.parse(one["sdp"].encode()).media[0]) for one in sessions}
            four, medium = found["four"]
            assert (four["sender"], four["interface"], four["announced_to"]) == (
                "10.9.0.1",
                "net0",
                "239.195.255.255",
            )
            assert (str(medium.address), medium.port, medium.ttl, list(map(str, medium.sources))) == (
                "239.192.1.2",
                5004,
                3,
                ["10.9.0.1"],
            )
            six, medium = found["six"]
            assert (six["announced_to"], str(medium.address), medium.port) == (
                "ff05::2:7ffe",
                "ff15::1:2",
                5006,
            )
            assert list(map(str, medium.sources)) == [six["sender"]] == ["2001:db8::1"]
            assert "session four: application udp octet-stream to 239.192.1.2 port 5004; from 10.9.0.1" in (
                hearing.ctl("status", "lo").stdout
            )
            assert "discover/lo" in hearing.ctl("top", "--once").stdout
            assert sending.ctl("stop-worker", "six").returncode == 0
            wait_for(lambda: names(hearing) == {"four"}, "one was deleted")
            assert sending.stop() == 0
            wait_for(lambda: not names(hearing), "both were deleted")

            def ended() -> object:
                return hearing.worker("discover/lo")["status"]["counters"]["ended"]

            wait_for(lambda: ended() == {"deleted": 2}, "the account")


def test_what_minisapserver_announces_is_found(tmp_path: Path) -> None:
    sapserver = program("sapserver")
    settings = tmp_path / "sap.cfg"
    settings.write_text(
        "[global]\nsap_delay=1\n\n[program]\nname=Das Erste\nuser=somebody\nmachine=here\n"
        "site=http://example.com\naddress=239.255.4.7\nport=5008\n"
    )
    with hearing_alone(tmp_path) as (host, daemon):
        host.start(sapserver, "-c", str(settings))
        wait_for(lambda: names(daemon) == {"Das Erste"}, "what it announces")
        (session,) = daemon.worker("discover/lo")["status"]["sessions"]
        (medium,) = session["media"]
        assert (medium["group"], medium["port"], medium["ttl"]) == ("239.255.4.7", 5008, 255)


def test_what_ffmpeg_announces_is_found(tmp_path: Path) -> None:
    ffmpeg = program("ffmpeg")
    with hearing_alone(tmp_path) as (host, daemon):
        to = "sap://239.255.4.8:5010?announce_addr=239.255.255.255&ttl=1"
        made = ("-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=5", "-c:v", "mpeg2video", "-t", "30")
        host.start(ffmpeg, "-v", "error", *made, "-metadata", "title=Bars", "-f", "sap", to)
        wait_for(lambda: names(daemon) == {"Bars"}, "what it announces")
        (session,) = daemon.worker("discover/lo")["status"]["sessions"]
        assert (session["media"][0]["group"], session["media"][0]["port"]) == ("239.255.4.8", 5010)


def test_ffmpeg_takes_our_description(tmp_path: Path) -> None:
    """Of one medium, whose address it looks for above the medium alone."""
    ffmpeg = program("ffmpeg")
    medium = sdp.Medium(
        kind="video",
        port=5012,
        transport="RTP/AVP",
        formats=("33",),
        address=ip_address("239.255.4.9"),
        ttl=1,
        sources=(ip_address("127.0.0.1"),),
        attributes=(("rtpmap", "33 MP2T/90000"),),
    )
    description = tmp_path / "bars.sdp"
    origin = sdp.SessionOrigin("mcastd", "7", 1, "127.0.0.1")
    description.write_bytes(sdp.build(sdp.SessionDescription(origin=origin, name="Bars", media=(medium,))))
    with Host() as host:
        host.ip("link set lo multicast on")
        host.ip("route add 224.0.0.0/4 dev lo")
        made = ("-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-c:v", "mpeg2video", "-t", "60")
        host.start(ffmpeg, "-v", "error", *made, "-f", "rtp_mpegts", "rtp://239.255.4.9:5012?ttl=1")
        command = (ffmpeg, "-v", "error", "-protocol_whitelist", "file,rtp,udp", "-i", str(description))
        command += ("-frames:v", "2", "-f", "framecrc", "-")
        taken = subprocess.run(host.enter(command), capture_output=True, text=True, timeout=60, check=False)
        frames = [line for line in taken.stdout.splitlines() if not line.startswith("#")]
        assert len(frames) == 2, taken.stderr
