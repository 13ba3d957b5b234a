"""What is told of a worker, as JSON: each value in its place, in the order that people and programs know."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import mcastd.control
from mcastd.bounded import Patience
from mcastd.codec import as_json, from_json
from mcastd.config import InboundSubscription, KeepBefore, OutboundChannel
from mcastd.counters import (
    InboundCounters,
    OutboundCounters,
    OutputCounters,
    SequenceCounters,
    TransportCounters,
    copy_of,
    growth,
)
from mcastd.errors import LinkError, SinkError
from mcastd.inbound.keeper import Keeper, Loss, Losses
from mcastd.inbound.sequencer import Sequencer
from mcastd.inbound.subscription import Subscription
from mcastd.net.fake import FakeReceiver, FakeSender
from mcastd.net.link import Batch, Glance, Load
from mcastd.net.payloads import ListPayloads
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.channel import Channel
from mcastd.outbound.framing import make_framer
from mcastd.outbound.legs import Leg
from mcastd.outbound.sources.file import FileSource
from mcastd.status import (
    NO_MANIFEST,
    AnnouncementStatus,
    ChannelStatus,
    FilesStatus,
    JitterStatus,
    ManifestStatus,
    MembershipStatus,
    Misfit,
    NumberedSender,
    PidStatus,
    ProgramStatus,
    ReceivedLeg,
    ReceiverDescription,
    ReceptionStatus,
    SequenceStatus,
    SubscriptionStatus,
    TransportStatus,
    TransportTrouble,
    TunnelStatus,
)
from mcastd.views import DaemonView, MonitorView, ReloadView, VitalsView, WorkerView, as_kind
from mcastd.worker import Context

NOW = 5000.0  # monotonic seconds


class Colour(StrEnum):
    BLUE = "blue"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Colours:
    one: Colour
    other: Colour | str


CHANNEL = """{
  "group": "239.255.1.2", "port": 9190, "ttl": 3, "framing": "line", "max_datagram": 1316,
  "pacing": "every 0.25 s", "rate": 111, "protocol": "raw", "source": "/srv/news", "source_state": "at rest",
  "reception": {
    "received": 376, "received_bytes": 377, "overflow": 378, "receive_buffer": 379, "connected": "192.0.2.51",
    "returned_by": "192.0.2.54",
    "by_sender": {"192.0.2.52": 380}, "other_senders": 381, "refused": {"192.0.2.53": 382},
    "other_refused": 383
  },
  "files": {
    "files": 301, "total_bytes": 302, "refused": {"link": 303}, "refusals": ["a: it is a symbolic link"],
    "given_up": 304, "pass_number": 305, "pass_percent": 30.5, "repair_percent": 10.25,
    "described_seconds": 306.5,
    "manifest": {
      "serial": 307, "signer": "ed25519:abc", "issued": 308, "expires": 309, "files": 310, "total_bytes": 311,
      "refused": "", "refusal": ""
    }
  },
  "position": 4711, "pending": 6, "repeat": 7,
  "counters": {
    "sent": 101, "sent_bytes": 102, "refused": {"EPERM": 103, "ENOBUFS": 104}, "dropped": {"too-big": 105},
    "lines_split": 106, "skipped_bytes": 110, "rounds": 107, "late": 108
  },
  "hanging": {"path": "/srv/news", "seconds": 109.0},
  "announcement": {
    "group": "239.255.255.255", "interval": 30.5, "sent": 312, "failed": 313, "error": "cannot send: no way",
    "file_error": "cannot write /srv/a.sdp: no room"
  },
  "link": {"interface": "fake0", "address": "192.0.2.9", "stream": "0x01020304", "sending": "gso"},
  "legs": [
    {
      "group": "239.255.1.2", "port": 9190, "interface": null, "sent": 112, "refused": {"EAGAIN": 113},
      "dropped": {"full": 114}, "trouble": "cannot send: no route; add one"
    }
  ]
}"""
SUBSCRIPTION = """{
  "group": "239.255.1.3", "port": 9191, "interface": ["eth0", "eth1"], "sources": ["192.0.2.1"],
  "exclude_sources": [],
  "memberships": [
    {
      "interface": "eth1", "ifindex": 201, "group": "239.255.1.3", "wanted": "include 192.0.2.1",
      "actual": "any", "refused": "no room", "retry_in": 202.5
    },
    {
      "interface": "eth0", "ifindex": 203, "group": "239.255.1.3", "wanted": "none", "actual": null,
      "refused": null, "retry_in": null
    }
  ],
  "counters": {"received": 204, "received_bytes": 205, "truncated": 206, "overflow": 207, "held": 225,
    "dropped": {"again": 226}},
  "stale": true, "last_overflow_age": 208.0, "last_datagram_age": 209.0, "first_source": "192.0.2.11",
  "last_source": "192.0.2.10",
  "by_source": {"top": {"192.0.2.10": 30, "192.0.2.20": 29, "192.0.2.19": 28, "192.0.2.18": 27,
    "192.0.2.17": 26, "192.0.2.16": 25, "192.0.2.15": 24, "192.0.2.14": 23, "192.0.2.13": 22,
    "192.0.2.12": 21}, "rest": 20},
  "protocol": "raw",
  "misfit": {"reason": "not-rtp", "comes": "what comes is no RTP", "setting": "ssrc = 1", "protocol": "raw"},
  "manifest": {
    "serial": null, "signer": "", "issued": null, "expires": null, "files": 0, "total_bytes": 0,
    "refused": "expired", "refusal": "it expired 228 s ago"
  },
  "sequence": {
    "counters": {"lost": 241, "duplicated": 242, "reordered": 243, "restarts": 244},
    "senders": [{
      "address": "192.0.2.11", "stream": "0x01020304", "payload_type": 230, "datagrams": 231,
      "counters": {"lost": 232, "duplicated": 233, "reordered": 234, "restarts": 235}, "missing": 236,
      "age": 237.5, "jitter": {"now_ms": 238.5, "mean_ms": 239.5, "most_ms": 240.5}
    }],
    "missing": 245, "repaired": 255
  },
  "legs": [
    {
      "group": "239.255.1.4", "port": 246, "interface": ["wg*", "eth2"], "joined": ["eth2"], "received": 247,
      "received_bytes": 248, "first": 249, "lost": 250, "overflow": 251, "skew_ms": 252.5,
      "most_skew_ms": 253.5, "sender": "192.0.2.31", "age": 254.5, "silent": true, "trouble": "eth2 is down",
      "misfit": {"reason": "too-short", "comes": "datagrams of 7 bytes come", "setting": "", "protocol": ""}
    }
  ],
  "shared_interface": "eth3", "shared_sender": "192.0.2.32",
  "ts": {
    "trouble": "no-pid", "resembles_rtp": false,
    "counters": {"packets": 351, "lost": 352, "errors": {"PAT_error": 353, "CRC_error": 354}},
    "last_error_ages": {"PAT_error": 355.5}, "rate": 356, "clock_rate": 357, "clock_jitter_ms": 358.5,
    "most_clock_jitter_ms": 359.5, "delay_factor_ms": 360.5, "most_delay_factor_ms": 361.5,
    "loss_rate": 362.5, "programs": [{"number": 363, "map_pid": 364, "clock_pid": 365, "pids": [366, 367]}],
    "pids": [{"pid": 366, "type": 27, "packets": 368, "rate": 369, "continuity_errors": 370}]
  },
  "kept": {
    "datagrams": 0, "memory_bytes": 0, "captures": 256, "failed": 257, "last_capture": "/srv/c/news.pcapng",
    "last_capture_age": 258.5, "last_reasons": ["network-loss"],
    "error": "cannot write captures to /srv/c: no room"
  },
  "outputs": [
    {
      "kind": "file", "format": "lines", "path": "/srv/a",
      "counters": {"written": 210, "written_bytes": 211, "dropped": {"no-space": 212}, "queued": 213},
      "error": "cannot write: disk full; make room", "way_out": "make room", "reason": "no-space",
      "received_before": 214, "objects": null, "engine": null
    },
    {
      "kind": "fifo", "format": "json", "path": "/srv/b",
      "counters": {"written": 215, "written_bytes": 216, "dropped": {"no-reader": 217}, "queued": 218},
      "error": null, "way_out": "", "reason": null, "received_before": 0, "objects": null, "engine": null
    }
  ],
  "closed_outputs": {"dropped": {"io-error": 219}},
  "hanging": {"path": "/srv/b", "seconds": 220.0},
  "max_latency": 0.125, "reading": "with others",
  "receive_buffer": {
    "asked": 221000, "had": 222,
    "advice": "the kernel gave less than was asked for: sysctl net.core.rmem_max=221000"
  },
  "link": {
    "interfaces": ["eth0", "eth1"], "receive_buffer": 222, "reading": "recvmmsg", "coalesced": true,
    "tunnel": {
      "kind": "amt", "asked": "amt.example.net", "candidates": {"192.0.2.41": "name"},
      "relay": "192.0.2.41", "found_by": "name", "local_port": 2268, "phase": "open",
      "round_trip_ms": 371.5, "unanswered": 372, "full": true, "hindrance": "cannot send to the relay",
      "received": 373, "dropped": {"foreign": 374}, "overflow": 375
    }
  }
}"""


ANNOUNCEMENT = AnnouncementStatus(
    group="239.255.255.255",
    interval=30.5,
    sent=312,
    failed=313,
    error="cannot send: no way",
    file_error="cannot write /srv/a.sdp: no room",
)


LEG = ReceivedLeg(
    group="239.255.1.4",
    port=246,
    interface=("wg*", "eth2"),
    joined=("eth2",),
    received=247,
    received_bytes=248,
    first=249,
    lost=250,
    overflow=251,
    skew_ms=252.5,
    most_skew_ms=253.5,
    sender="192.0.2.31",
    age=254.5,
    silent=True,
    trouble="eth2 is down",
    misfit=Misfit(reason="too-short", comes="datagrams of 7 bytes come"),
)
TUNNEL = TunnelStatus(
    kind="amt",
    asked="amt.example.net",
    candidates={"192.0.2.41": "name"},
    relay="192.0.2.41",
    found_by="name",
    local_port=2268,
    phase="open",
    round_trip_ms=371.5,
    unanswered=372,
    full=True,
    hindrance="cannot send to the relay",
    received=373,
    dropped={"foreign": 374},
    overflow=375,
)
TRANSPORT = TransportStatus(
    trouble=TransportTrouble.NO_PID,
    resembles_rtp=False,
    counters=TransportCounters(351, 352, Counter(PAT_error=353, CRC_error=354)),
    last_error_ages={"PAT_error": 355.5},
    rate=356,
    clock_rate=357,
    clock_jitter_ms=358.5,
    most_clock_jitter_ms=359.5,
    delay_factor_ms=360.5,
    most_delay_factor_ms=361.5,
    loss_rate=362.5,
    programs=(ProgramStatus(number=363, map_pid=364, clock_pid=365, pids=(366, 367)),),
    pids=(PidStatus(pid=366, type=27, packets=368, rate=369, continuity_errors=370),),
)


class SourceOfFiles(FileSource):
    rate = 111.4

    def reception(self) -> ReceptionStatus:
        return ReceptionStatus(
            received=376,
            received_bytes=377,
            overflow=378,
            receive_buffer=379,
            connected="192.0.2.51",
            returned_by="192.0.2.54",
            by_sender={"192.0.2.52": 380},
            other_senders=381,
            refused={"192.0.2.53": 382},
            other_refused=383,
        )

    files = FilesStatus(
        files=301,
        total_bytes=302,
        refused={"link": 303},
        refusals=("a: it is a symbolic link",),
        given_up=304,
        pass_number=305,
        pass_percent=30.5,
        repair_percent=10.25,
        described_seconds=306.5,
        manifest=ManifestStatus(
            serial=307,
            signer="ed25519:abc",
            issued=308,
            expires=309,
            files=310,
            total_bytes=311,
            refused="",
            refusal="",
        ),
    )


def channel() -> Channel:
    settings = {"group": "239.255.1.2", "port": 9190, "source": "/srv/news", "interval": 0.25, "repeat": 7}
    config = OutboundChannel.model_validate({**settings, "ttl": 3, "framing": "line", "max_datagram": 1316})
    source = SourceOfFiles(Path("/srv/news"), make_framer("line", 1316))
    worker = Channel("outbound/news", config, lambda _: FakeSender(), source)
    worker._outlet.counters = OutboundCounters(
        101, 102, Counter(EPERM=103, ENOBUFS=104), Counter({"too-big": 105}), 106, 110, 107, 108
    )
    leg = Leg(config, lambda _: FakeSender())
    leg.sent, leg.refused, leg.dropped = 112, Counter(EAGAIN=113), Counter(full=114)
    leg.error = LinkError("cannot send", "no route", "add one")
    worker._legs = [leg]
    worker._source.position = 4711
    worker._source.state = "at rest"
    worker._outlet._pending, worker._outlet._next = ListPayloads([b"x"] * 8), 2
    worker._link = FakeSender()
    worker._link.sending = "gso"
    worker._described = replace(worker._link.describe(), stream="0x01020304")
    worker._announcer = cast(SessionAnnouncer, SimpleNamespace(status=lambda _: ANNOUNCEMENT))
    return worker


class Linked(FakeReceiver):
    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        one = MembershipStatus(
            interface="eth1",
            ifindex=201,
            group="239.255.1.3",
            wanted="include 192.0.2.1",
            actual="any",
            refused="no room",
            retry_in=202.5,
        )
        other = MembershipStatus(
            interface="eth0",
            ifindex=203,
            group="239.255.1.3",
            wanted="none",
            actual=None,
            refused=None,
            retry_in=None,
        )
        return one, other

    def load(self) -> Load:
        return Load(207)

    def glance(self) -> Glance:
        return super().glance()._replace(overflow=207, shared="eth3")

    def describe(self) -> ReceiverDescription:
        return ReceiverDescription(("eth0", "eth1"), 222, "recvmmsg", True, TUNNEL)


class Said(Sequencer):
    """It says something of all that a protocol may say."""

    def feed(self, batch: Batch) -> Iterable[Batch]:
        return (batch,)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        sender = NumberedSender(
            address="192.0.2.11",
            stream="0x01020304",
            payload_type=230,
            datagrams=231,
            counters=SequenceCounters(232, 233, 234, 235),
            missing=236,
            age=237.5,
            jitter=JitterStatus(now_ms=238.5, mean_ms=239.5, most_ms=240.5),
        )
        return replace(
            status,
            misfit=Misfit(reason="not-rtp", comes="what comes is no RTP", setting="ssrc = 1", protocol="raw"),
            manifest=replace(NO_MANIFEST, refused="expired", refusal="it expired 228 s ago"),
            sequence=SequenceStatus(
                counters=SequenceCounters(241, 242, 243, 244), senders=(sender,), missing=245, repaired=255
            ),
            legs=(LEG,),
            shared_sender="192.0.2.32",
            ts=TRANSPORT,
        )


def subscription(monkeypatch: pytest.MonkeyPatch) -> Subscription:
    output = [
        {"kind": "file", "format": "lines", "path": "/srv/a"},
        {"kind": "fifo", "format": "json", "path": "/srv/b"},
    ]
    settings = {"group": "239.255.1.3", "port": 9191, "interface": ["eth0", "eth1"], "sources": ["192.0.2.1"]}
    settings |= {"output": output, "max_latency": 0.125, "receive_buffer": 221000}
    worker = Subscription(
        "inbound/news", InboundSubscription.model_validate(settings), lambda *_: FakeReceiver()
    )
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: NOW)
    intake, turns, condition, outputs = worker._intake, worker._turns, worker._condition, worker._outputs
    intake.counters = InboundCounters(204, 205, 206, 0, 225, Counter({"again": 226}))
    for number in range(11, 21):
        intake.sources.add(f"192.0.2.{number}", number + 9)
    intake.sources.add("192.0.2.10", 30)
    intake.last = NOW - 209
    intake.protocol = Said()
    keep = KeepBefore(time=10.0, directory=Path("/srv/c"))
    keeper = Keeper(keep, worker._stream, worker._log, worker._losses, worker._destinations, now=lambda: NOW)
    keeper._captures, keeper._failed, keeper._cause = 256, 257, "no room"
    keeper._last = Path("/srv/c/news.pcapng"), NOW - 258.5, Loss(Losses(), Losses(lost=1), 0.0)
    intake.keeper = keeper
    intake._context, intake._asked_at = Context(), NOW - 220
    intake._context.waits_for = "/srv/b"
    condition.stale = True
    condition._overflow, condition._overflow_at = 207, NOW - 208
    turns.link, turns.handover.lent_by = Linked(), Context()
    file, pipe = outputs.sinks
    outputs._began[file] = 214
    outputs._closed = Counter({"io-error": 219})
    outputs._note()
    file.counters.written, file.counters.written_bytes, file.counters.queued = 210, 211, 213
    file._account.drop(212, SinkError("cannot write", "disk full", "make room", reason="no-space"))  # type: ignore[attr-defined]
    pipe.counters.written, pipe.counters.written_bytes, pipe.counters.queued = 215, 216, 218
    pipe.counters.dropped["no-reader"] = 217
    return worker


def flattened(text: str) -> str:
    return json.dumps(json.loads(text))


def test_a_channel_tells_each_value_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: NOW)
    worker = channel()
    worker._outlet._asking, worker._outlet._asked_at = Context(), NOW - 109
    worker._outlet._last = NOW - 0.5  # later than the rate by a clock holds, there is none
    assert json.dumps(as_json(worker.status())) == flattened(CHANNEL)


def test_a_subscription_tells_each_value_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.dumps(as_json(subscription(monkeypatch).status())) == flattened(SUBSCRIPTION)


@pytest.mark.parametrize(("kind", "text"), [(ChannelStatus, CHANNEL), (SubscriptionStatus, SUBSCRIPTION)])
def test_what_was_read_of_json_is_what_was_told(kind: Any, text: str) -> None:
    assert json.dumps(as_json(from_json(kind, json.loads(text)))) == flattened(text)


def test_what_another_version_tells_is_understood_as_far_as_it_is_known() -> None:
    told = {
        "port": "9190",
        "mood": "good",
        "counters": {"received": 5, "heard": 6},
        "memberships": [{"ifindex": 2}],
    }
    status = from_json(
        SubscriptionStatus, told | {"by_source": [], "outputs": [3], "receive_buffer": {"had": True}}
    )
    assert status.port == 0
    assert status.counters == InboundCounters(received=5)
    (membership,) = status.memberships
    assert (membership.ifindex, membership.interface, membership.actual) == (2, "", None)
    assert (status.by_source.top, status.by_source.rest, status.outputs) == ({}, 0, ())
    assert (status.receive_buffer.had, status.link) == (None, None)
    assert from_json(ChannelStatus, None) == from_json(ChannelStatus, {})


def test_what_an_older_daemon_lacks_has_its_default_and_a_whole_number_is_a_float() -> None:
    status = from_json(SubscriptionStatus, {"last_datagram_age": 3, "max_latency": 2})
    assert (status.protocol, status.last_overflow_age) == ("raw", math.inf)
    assert (status.last_datagram_age, status.max_latency) == (3, 2)
    assert from_json(VitalsView, {"last_datagram_age": True}).last_datagram_age is None


def test_what_json_has_no_number_for_is_null() -> None:
    assert as_json([1.5, math.inf, -math.inf, math.nan, 3]) == [1.5, None, None, None, 3]


def test_counters_in_a_status_do_not_count_on() -> None:
    live = OutputCounters(written=1)
    live.dropped["no-space"] = 2
    kept = copy_of(live)
    live.written = 3
    live.dropped["no-space"] = 4
    assert (kept.written, kept.dropped) == (1, {"no-space": 2})


def test_a_status_of_one_kind_says_of_another_what_both_have() -> None:
    """So a program that knows fewer kinds than the daemon reads what it knows."""
    told = channel().status()
    assert as_kind(ChannelStatus, told) is told
    other = as_kind(SubscriptionStatus, told)
    assert (other.group, other.port, other.memberships, other.counters) == (
        "239.255.1.2",
        9190,
        (),
        InboundCounters(dropped=Counter({"too-big": 105})),
    )
    assert as_kind(SubscriptionStatus, None) == from_json(SubscriptionStatus, {})


def test_growth_is_what_was_counted_in_between() -> None:
    before = OutboundCounters(sent=3, refused=Counter(EPERM=2, ENOBUFS=4))
    now = OutboundCounters(sent=10, refused=Counter(EPERM=7, ENOBUFS=4, EAGAIN=1))
    grown = growth(now, before)
    assert (grown.sent, grown.refused) == (7, {"EPERM": 5, "ENOBUFS": 0, "EAGAIN": 1})
    assert now.refused["EPERM"] == 7


TYPE = re.compile(r"^(?:type|method) (\w+)(?: \(|\(.*\) -> \()\n((?:  .*\n)+)\)", re.MULTILINE)
DEFINED = dict(TYPE.findall(Path(mcastd.control.__file__).with_name("io.mcastd.varlink").read_text()))


@pytest.mark.parametrize(
    ("view", "name"),
    [
        (WorkerView, "Worker"),
        (DaemonView, "Describe"),
        (ReloadView, "Reload"),
        (VitalsView, "Vitals"),
        (MonitorView, "Monitor"),
    ],
)
def test_a_view_has_the_fields_that_are_defined_in_their_order(view: Any, name: str) -> None:
    defined = [line.partition(":")[0].strip() for line in DEFINED[name].splitlines()]
    assert [field.name for field in fields(view)] == defined


def test_a_word_that_is_no_member_is_as_if_nothing_were_known() -> None:
    assert from_json(Colours, {"one": "red", "other": "pink"}) == Colours(Colour.RED, "pink")
    assert from_json(Colours, {"one": "pink", "other": "blue"}) == Colours(Colour.BLUE, Colour.BLUE)
