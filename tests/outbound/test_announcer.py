"""Channels announced by SAP: what is said of them, when, and that no channel waits for it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.channel import running
from support.wait import wait_for

from mcastd.config import OutboundChannel
from mcastd.errors import LinkError
from mcastd.ip import Address
from mcastd.net.fake import FakeSender
from mcastd.net.link import Sender
from mcastd.outbound import announcer as module
from mcastd.outbound.announcement import Announcement, announcement, describe, interval_of
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.channel import Channel
from mcastd.outbound.legs import Leg, Legs
from mcastd.outbound.sources import open_source
from mcastd.protocols import sap, sdp
from mcastd.status import AnnouncementStatus, SenderDescription
from mcastd.threads import NoThreadError
from mcastd.worker import Signal

WAY = SenderDescription("eth7", "192.0.2.9")


def channel(announce: object = True, **keys: Any) -> OutboundChannel:
    settings = {"source": "/news", "group": "239.192.1.2", "port": 5004, "ttl": 8, "announce": announce}
    return OutboundChannel(**(settings | keys))


def described(
    of: OutboundChannel, worker: str = "outbound/news", version: int = 17
) -> sdp.SessionDescription:
    assert of.announce is not None
    return sdp.parse(describe(worker, of, [WAY], of.announce, version))


@dataclass
class Network:
    """What was sent, by group."""

    sent: list[tuple[str, sap.SapPacket]] = field(default_factory=list)
    opened: list[tuple[str, int]] = field(default_factory=list)  # by which interface, with which TTL
    refusal: str = ""  # an address cannot be had

    def open(self, group: Address, channel: OutboundChannel, interface: str) -> Sender:
        if self.refusal:
            raise LinkError("cannot send", self.refusal, errno=errno.ENODEV)
        self.opened.append((interface, channel.ttl))
        return _Recorder(self, str(group))

    def kinds(self) -> list[str]:
        return ["deletion" if packet.deletion else "announcement" for _, packet in self.sent]


class _Recorder(FakeSender):
    def __init__(self, network: Network, group: str) -> None:
        super().__init__()
        self._network, self._group = network, group

    def close(self) -> None:
        self._network.sent += [(self._group, sap.parse(packet)) for packet in self.sent]


@contextmanager
def announcing(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SessionAnnouncer, Network]]:
    """With intervals of hundredths of what is configured, so that 30 s are 0.3."""
    monkeypatch.setattr(module, "interval_of", lambda *of: interval_of(*of) / 100)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    network = Network()
    with closing(SessionAnnouncer(open_sender=network.open)) as one:
        yield one, network


def status(of: SessionAnnouncer, worker: str = "outbound/news") -> AnnouncementStatus:
    found = of.status(worker)
    assert found is not None
    return found


# -- what is said


def test_what_is_said_of_a_channel() -> None:
    session = described(channel())
    (medium,) = session.media
    assert (session.name, session.origin.user, session.origin.version, session.origin.address) == (
        "news",
        "mcastd",
        17,
        "192.0.2.9",
    )
    assert (medium.address, medium.port, medium.ttl) == (ip_address("239.192.1.2"), 5004, 8)
    assert medium.sources == (ip_address("192.0.2.9"),)
    assert (medium.kind, medium.transport, medium.formats) == ("application", "udp", ("octet-stream",))
    assert described(channel({"name": "All News"})).name == "All News"


def test_a_protocol_says_its_own_media_line(tmp_path: Path) -> None:
    flute = channel(protocol={"kind": "flute", "session": 7}, rate="1Mbit", source=str(tmp_path))
    (medium,) = described(flute).media
    assert (medium.kind, medium.transport, medium.formats) == ("application", "FLUTE/UDP", ("0",))
    assert ("flute-tsi", "7") in medium.attributes


@pytest.mark.parametrize(
    ("protocol", "transport", "payload_type"),
    [("raw", "udp", "33"), ("rtp", "RTP/AVP", "33"), ({"kind": "rtp", "payload_type": 96}, "RTP/AVP", "96")],
)
def test_a_transport_stream_is_what_players_play(protocol: object, transport: str, payload_type: str) -> None:
    (medium,) = described(channel(protocol=protocol, framing="ts", timing="pcr")).media
    assert (medium.kind, medium.transport, medium.formats) == ("video", transport, (payload_type,))
    assert ("rtpmap", f"{payload_type} MP2T/90000") in medium.attributes


def test_the_copies_of_a_channel_are_named_if_that_is_wished() -> None:
    """Each with the sender that it has; of a leg that was never up the sender is not known."""
    copies, other = [{"group": "239.192.1.3", "port": 5006}], SenderDescription("eth8", "198.51.100.9")

    def described_by(*ways: SenderDescription | None, named: bool = True) -> sdp.SessionDescription:
        of = channel({"copies": named}, copies=copies)
        assert of.announce is not None
        return sdp.parse(describe("outbound/news", of, ways, of.announce, 17))

    session = described_by(WAY, other)
    assert [(str(leg.address), leg.port, *map(str, leg.sources)) for leg in session.legs_of(0)] == [
        ("239.192.1.2", 5004, "192.0.2.9"),
        ("239.192.1.3", 5006, "198.51.100.9"),
    ]
    down = described_by(None, other)
    assert down.origin.address == "198.51.100.9"
    assert [leg.sources for leg in down.legs_of(0)] == [(), (ip_address("198.51.100.9"),)]
    (alone,) = described_by(WAY, other, named=False).media
    assert (str(alone.address), alone.mid) == ("239.192.1.2", "")
    (first,) = described_by(None, other, named=False).media
    assert (str(first.address), first.sources) == ("239.192.1.2", ()), "another leg's sender is not its own"


def test_a_session_keeps_its_number_and_has_one_of_its_own() -> None:
    again, other = described(channel(), version=18), described(channel(), "outbound/tv")
    assert again.origin.identity == described(channel()).origin.identity != other.origin.identity


def test_another_message_after_a_change_and_for_each_channel() -> None:
    settings = channel()
    assert settings.announce is not None

    said = settings.announce

    def made(
        before: Announcement | None = None,
        taken: Collection[int] = (),
        address: str = "192.0.2.9",
        version: int = 1,
    ) -> Announcement:
        way = replace(WAY, address=address)
        return announcement(
            "outbound/news", settings, [way], said, before=before, version=version, taken=taken
        )

    first = made()
    assert made(first, version=2) == first, "nothing has changed"
    moved = made(first, address="192.0.2.10", version=3)
    assert moved.message != first.message
    assert sdp.parse(moved.description).origin.version == 3
    assert made(taken={first.message}).message == first.message % 0xFFFF + 1
    assert made(taken=set(range(first.message, 0x10000))).message == 1


def test_what_no_description_says_is_taken_over() -> None:
    """A description has no TTL of IPv6, and yet its announcement goes as far as the stream does."""
    way, said = SenderDescription("eth7", "2001:db8::9"), channel().announce
    assert said is not None

    def made(ttl: int, before: Announcement | None = None) -> Announcement:
        settings = channel(group="ff15::1", ttl=ttl)
        return announcement("outbound/six", settings, [way], said, before=before, version=1, taken=())

    first = made(3)
    second = made(4, first)
    assert second.says_the_same_as(first)
    assert (first.leg.ttl, second.leg.ttl) == (3, 4)


def test_many_announcements_are_seldom_ones() -> None:
    settings = channel({"interval": "40s"}).announce
    assert settings is not None
    assert interval_of(settings, 1, 500) == 40
    assert interval_of(settings, 100, 500) == 100, "100 x 500 bytes at 4000 bit/s"


# -- when


def test_a_channel_is_announced_again_and_again_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel(), [WAY])
        wait_for(lambda: len(network.sent) >= 3, "three announcements")
        assert status(one).group == "239.195.255.255"
        wait_for(lambda: status(one).sent >= 3, "their count")
        one.withdraw("outbound/news")
        assert one.status("outbound/news") is None
        wait_for(lambda: network.kinds()[-1] == "deletion", "the deletion")
        first, last = network.sent[0][1], network.sent[-1][1]
        assert {group for group, _ in network.sent} == {"239.195.255.255"}
        assert set(network.opened) == {("eth7", 8)}
        assert (
            (first.origin, first.message)
            == (last.origin, last.message)
            == (ip_address("192.0.2.9"), last.message)
        )
        assert sdp.origin_in(last.payload) == sdp.parse(first.payload).origin
        assert network.kinds().count("deletion") == 1


def test_what_begins_again_at_once_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a setting changes that listeners do not see."""
    with announcing(monkeypatch) as (one, network):
        monkeypatch.setattr(module, "GRACE_SECONDS", 30.0)
        one.announce("outbound/news", channel(), [WAY])
        wait_for(lambda: network.sent, "an announcement")
        one.withdraw("outbound/news")
        one.announce("outbound/news", channel(rate="2Mbit"), [WAY])
        seen = len(network.sent) + 1  # one may be under way
        wait_for(lambda: len(network.sent) > seen, "another one")
        assert all(sent == network.sent[0] for sent in network.sent.copy())


def test_what_has_changed_is_deleted_and_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel({"interval": "1h"}), [WAY])
        wait_for(lambda: len(network.sent) == 1, "an announcement")
        one.announce("outbound/news", channel({"interval": "1h"}), [SenderDescription("eth8", "192.0.2.10")])
        wait_for(lambda: len(network.sent) == 3, "the change")
        old, gone, new = (packet for _, packet in network.sent)
        assert network.kinds() == ["announcement", "deletion", "announcement"]
        assert (gone.origin, gone.message) == (old.origin, old.message)
        assert (str(new.origin), new.message != old.message) == ("192.0.2.10", True)
        assert [interface for interface, _ in network.opened] == ["eth7", "eth7", "eth8"]


def test_each_change_has_a_higher_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a second, and where the clock was set back (RFC 8866 section 5.2)."""
    other = SenderDescription("eth8", "192.0.2.9")
    settings = [channel({"interval": "1h", "name": name}) for name in ("one", "two", "one")]
    with announcing(monkeypatch) as (one, network):
        for number, (config, way) in enumerate(zip(settings, (WAY, other, WAY), strict=True)):
            one.announce("outbound/news", config, [way])
            wait_for(lambda number=number: len(network.sent) == 2 * number + 1, "the change")  # type: ignore[misc]
            monkeypatch.setattr(module.clock, "wall", lambda: 1_000_000.0)
        said = [sdp.parse(packet.payload) for _, packet in network.sent if not packet.deletion]
        assert [session.name for session in said] == ["one", "two", "one"]
        versions = [session.origin.version for session in said]
        assert versions == sorted(set(versions))


def test_a_leg_that_is_down_is_named_with_the_sender_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a moment without any: receivers would take any sender's datagrams for those of the leg."""
    other = SenderDescription("eth8", "198.51.100.9")
    same = [{"group": "239.192.1.2", "interface": name} for name in ("eth8", "eth9")]
    settings = channel({"interval": "1h", "copies": True}, interface="eth7", copies=same)

    with announcing(monkeypatch) as (one, network):

        def said(*ways: SenderDescription | None) -> list[list[str]]:
            before = len(network.sent)
            one.announce("outbound/news", settings, ways)
            wait_for(lambda: network.kinds()[before:][-1:] == ["announcement"], "the change")
            session = sdp.parse(network.sent[-1][1].payload)
            assert session.origin.address == next(way.address for way in ways if way is not None)
            return [[str(source) for source in leg.sources] for leg in session.legs_of(0)]

        assert said(WAY, None, None) == [["192.0.2.9"], [], []]
        assert said(WAY, other, None) == [["192.0.2.9"], ["198.51.100.9"], []]
        assert said(None, other, None) == [["192.0.2.9"], ["198.51.100.9"], []]
        one.withdraw("outbound/news")
        wait_for(lambda: network.kinds()[-1] == "deletion", "the end")
        assert said(WAY, None, None) == [["192.0.2.9"], ["198.51.100.9"], []]
        moved = [{"group": "239.192.1.2", "interface": name} for name in ("eth9", "eth8")]
        settings = channel({"interval": "1h", "copies": True}, interface="eth7", copies=moved)
        assert said(WAY, None, None) == [["192.0.2.9"], [], ["198.51.100.9"]], "of the same leg"


def test_the_ways_of_channels_that_ended_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of those whose names a script makes."""
    monkeypatch.setattr(module, "ENDED_MAX", 2)
    with announcing(monkeypatch) as (one, _):
        one.announce("outbound/news", channel(), [WAY])
        wait_for(lambda: status(one).sent, "the one that stays")
        for number in range(5):
            name = f"outbound/{number}"
            one.announce(name, channel(), [WAY])
            wait_for(lambda name=name: status(one, name).sent, "it is announced")
            one.withdraw(name)
            wait_for(lambda name=name: name not in one._sessions, "it has ended")
        # The last one was a session when the others were counted
        assert one._last.keys() == {"outbound/news", "outbound/2", "outbound/3", "outbound/4"}


def test_what_nobody_has_heard_of_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel({"interval": "1h"}), [WAY])
        wait_for(lambda: network.sent, "the announcement")
        network.refusal = "operation not permitted"
        one.announce("outbound/news", channel({"interval": "1h", "name": "Other"}), [WAY])
        wait_for(lambda: status(one).failed, "an attempt")
        network.refusal = ""
    assert network.kinds() == ["announcement"]


def test_the_status_has_the_group_of_the_leg_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel(copies=[{"group": "239.255.7.7"}]), [None, WAY])
        wait_for(lambda: status(one).sent, "the announcement")
        assert status(one).group == network.sent[0][0] == "239.255.255.255"


def test_what_cannot_be_sent_is_described_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who reads the file would have to read it again and again."""
    path = tmp_path / "news.sdp"
    with announcing(monkeypatch) as (one, network):
        network.refusal = "operation not permitted"
        monkeypatch.setattr(module.clock, "wall", iter(range(1_000_000, 2_000_000)).__next__)
        one.announce("outbound/news", channel({"sdp": str(path)}), [WAY])
        wait_for(lambda: status(one).failed >= 1 and path.exists(), "an attempt")
        first = path.read_bytes()
        wait_for(lambda: status(one).failed >= 3, "more of them")
        assert path.read_bytes() == first
    assert network.kinds() == [], "nobody has heard of it"


def test_all_are_deleted_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel({"interval": "1h"}), [WAY])
        one.announce("outbound/tv", channel({"interval": "1h", "group": "239.255.255.254"}, port=5006), [WAY])
        one.announce("outbound/quiet", channel(announce=False), [WAY])
        wait_for(lambda: len(network.sent) == 2, "both")
        assert one.status("outbound/quiet") is None
    assert sorted(network.kinds()) == ["announcement", "announcement", "deletion", "deletion"]
    assert {group for group, _ in network.sent} == {"239.195.255.255", "239.255.255.254"}


def test_what_cannot_be_sent_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):
        network.refusal = "no such interface"
        one.announce("outbound/news", channel(), [WAY])
        wait_for(lambda: status(one).failed >= 2, "two attempts")
        assert (status(one).sent, status(one).error) == (0, "cannot send: no such interface")
        network.refusal = ""
        wait_for(lambda: status(one).sent, "an announcement")
        wait_for(lambda: status(one).error is None, "no error")


def test_a_fault_of_one_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with announcing(monkeypatch) as (one, network):

        def fail(group: Address, channel: OutboundChannel, interface: str) -> Sender:
            if channel.port != 5004:
                raise IndexError
            return network.open(group, channel, interface)

        monkeypatch.setattr(one, "_open_sender", fail)
        one.announce("outbound/faulty", channel({"interval": "300ms"}, port=5006), [WAY])
        one.announce("outbound/news", channel(), [WAY])
        wait_for(lambda: status(one).sent >= 2, "announcements")
        wait_for(lambda: str(status(one, "outbound/faulty").error).startswith("it failed: IndexError"))


# -- the file


def test_the_description_is_a_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "made" / "news.sdp"
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel({"sdp": str(path), "interval": "1h"}), [WAY])
        wait_for(path.exists, "the file")
        assert sdp.parse(path.read_bytes()).name == "news"
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.parent.stat().st_mode & 0o777 == 0o755, "players may enter where they may read"
        one.announce("outbound/news", channel({"sdp": str(path), "interval": "1h"}, port=5006), [WAY])
        wait_for(lambda: sdp.parse(path.read_bytes()).media[0].port == 5006, "the new one")
        assert os.listdir(path.parent) == ["news.sdp"]
        wait_for(lambda: len(network.sent) == 3, "the change")
    assert path.exists(), "it stays"


def test_a_file_that_others_remove_or_change_is_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "news.sdp"
    with announcing(monkeypatch) as (one, _):
        one.announce("outbound/news", channel({"sdp": str(path)}), [WAY])
        wait_for(path.exists, "the file")
        said, before = path.read_bytes(), path.stat()
        path.unlink()
        wait_for(path.exists, "it is there again")
        assert path.read_bytes() == said
        path.write_bytes(said + b"a=other\r\n")
        wait_for(lambda: path.read_bytes() == said, "it says what is announced")
        whole, sent = path.stat(), status(one).sent
        wait_for(lambda: status(one).sent >= sent + 3, "more announcements")
        assert path.stat().st_ino == whole.st_ino, "what is as it should be is left"
        assert whole.st_mode == before.st_mode


def test_a_file_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocking = tmp_path / "blocking"
    blocking.write_text("no directory")
    with announcing(monkeypatch) as (one, network):
        one.announce("outbound/news", channel({"sdp": f"{blocking}/news.sdp"}), [WAY])
        wait_for(lambda: status(one).file_error, "the error")
        assert status(one).file_error == f"cannot write {blocking}/news.sdp: not a directory"
        wait_for(lambda: len(network.sent) >= 2, "announcements all the same")
        blocking.unlink()
        wait_for(lambda: status(one).file_error is None, "no error")
        assert (blocking / "news.sdp").exists()


def test_what_is_no_regular_file_is_left(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="no regular file"):
        module.keep_file(pipe, b"v=0", 0o644)
    assert pipe.is_fifo()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "aim")
    module.keep_file(link, b"v=0", 0o644)
    assert (link.is_symlink(), (tmp_path / "aim").read_bytes()) == (True, b"v=0")


def test_what_a_disk_that_hung_has_written_late_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, goes_on, keep_file = tmp_path / "news.sdp", threading.Event(), module.keep_file

    def hangs(path: Path, data: bytes, mode: int) -> None:
        goes_on.wait(60)
        keep_file(path, data, mode)

    monkeypatch.setattr(module, "keep_file", hangs)
    with announcing(monkeypatch) as (one, _), monkeypatch.context() as impatient:
        impatient.setattr(module, "FILE_SECONDS", 0.05)
        session = module._Session("outbound/news", module.get_logger(), None, 0.0)
        assert "does not answer" in one._write(session, path, b"v=0 before")
        goes_on.set()
        assert session.writing is not None
        session.writing.result(10)
        assert path.read_bytes() == b"v=0 before"
        impatient.setattr(module, "FILE_SECONDS", 10.0)
        assert one._write(session, path, b"v=0 now") == ""
        assert path.read_bytes() == b"v=0 now"


def test_a_disk_that_hangs_costs_a_channel_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hung = threading.Event()
    monkeypatch.setattr(module, "FILE_SECONDS", 0.05)
    monkeypatch.setattr(module, "keep_file", lambda *_: hung.wait(60))
    try:
        with announcing(monkeypatch) as (one, network):
            one.announce("outbound/news", channel({"sdp": f"{tmp_path}/news.sdp"}), [WAY])
            one.announce("outbound/tv", channel(), [WAY])
            wait_for(lambda: status(one, "outbound/tv").sent >= 2, "the other one")
            wait_for(lambda: "does not answer" in str(status(one).file_error), "the error")
            assert network.sent
    finally:
        hung.set()


# -- a channel


def test_a_channel_is_announced_while_it_sends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "news"
    source.write_text("a\nb\n")
    settings = channel({"name": "First"}, source=str(source), repeat="forever", interval="10ms")
    with announcing(monkeypatch) as (one, network):
        made = Channel(
            "outbound/news",
            settings,
            lambda _: FakeSender(),
            open_source(settings, None, "outbound/news"),
            announcer=one,
        )
        with running(made) as run:
            wait_for(lambda: network.sent, "an announcement")
            assert made.status().announcement is not None
            assert made.books().announcement is not None
            sent = made.counters.rounds
            assert made.update(settings.model_copy(update={"announce": channel({"name": "Second"}).announce}))
            run.context.send(Signal.NETWORK)
            wait_for(
                lambda: any(b"s=Second\r\n" in packet.payload for _, packet in network.sent), "the other name"
            )
            assert made.counters.rounds >= sent
        wait_for(lambda: network.kinds()[-1] == "deletion", "the deletion")
        assert made.status().announcement is None


class _By(FakeSender):
    def __init__(self, interface: str) -> None:
        super().__init__()
        self._interface = interface

    def describe(self) -> SenderDescription:
        return SenderDescription(self._interface, "192.0.2.9")


@contextmanager
def sending(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *links: FakeSender) -> Iterator[Network]:
    """A channel by these legs, or by the only one of them."""
    source = tmp_path / "news"
    source.write_text("a\nb\n")
    copies = [{"group": f"239.192.1.{2 + number}"} for number in range(1, len(links))]
    settings = channel(source=str(source), repeat="forever", interval="10ms", copies=copies)
    opened = iter(links)
    legs = [Leg(settings, lambda _: next(opened)) for _ in links] if copies else []
    with announcing(monkeypatch) as (one, network):
        made = Channel(
            "outbound/news",
            settings,
            lambda _: Legs(legs) if legs else next(opened),
            open_source(settings, None, "outbound/news"),
            announcer=one,
            legs=legs,
        )
        with running(made):
            wait_for(lambda: network.opened, "an announcement")
            yield network


def test_a_channel_without_any_carrier_is_announced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = _By("eth7")
    link.carrier = False
    with sending(monkeypatch, tmp_path, link) as network:
        assert network.opened[0][0] == "eth7"


def test_a_leg_that_fails_while_it_sends_is_announced_no_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No change of the network tells of it. One without a carrier is passed over."""
    links = [_By(f"eth{number}") for number in (7, 8, 9)]
    links[1].carrier = False
    with sending(monkeypatch, tmp_path, *links) as network:
        assert network.opened[0][0] == "eth7"
        links[0].errors.append(errno.EPERM)
        wait_for(lambda: network.opened[-1][0] == "eth9", "the next way")


@pytest.mark.parametrize("method", ["start", "__init__"])
def test_a_thread_that_cannot_be_had_at_first_is_started_later(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def none(*_: object, **__: object) -> None:
        raise NoThreadError("announcer")

    with announcing(monkeypatch) as (one, network):
        one.retry()  # there is nothing to announce
        with monkeypatch.context() as short:
            short.setattr(module.Thread, method, none)
            one.announce("outbound/news", channel(), [WAY])
            one.retry()
            assert "cannot start the thread announcer" in (status(one).error or "")
        one.retry()
        wait_for(lambda: "announcement" in network.kinds(), "an announcement")
        wait_for(lambda: status(one).error is None, "no error")
