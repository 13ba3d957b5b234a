"""What a channel keeps from receivers: by TTL, loop, a second sender, unsent files, failing announcements."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from ipaddress import ip_address

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.delivery.refused import TOO_LARGE
from mcastd.delivery.scan import CHANGING, LINK, UNREADABLE
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.permits import group, user
from mcastd.doctor.quoting import command, counted
from mcastd.doctor.seen import sent_meanwhile
from mcastd.doctor.subject import Subject
from mcastd.ip import Address, stays_on_link
from mcastd.net.interfaces import Interface
from mcastd.status import ChannelStatus

RTF_UP, RTF_GATEWAY = 0x1, 0x2  # linux/route.h
USED = RTF_UP | RTF_GATEWAY
# Reasons for which no file is sent that are often meant, or over with the next pass.
PASSING = {LINK, CHANGING}
# A channel of files keeps its rate if it reaches this part of it.
KEPT_SHARE = 0.8
PASS_MIN_SECONDS = 0.1
# Of the files that are not sent, this many are named.
NAMED_FILES = 5


def ttl(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """How far datagrams go, and whether the TTL can make them go further."""
    settings = subject.settings
    ways = evidence.ways(subject)
    if not ways or ways[0].loopback:
        return
    if settings.ttl == 0 and not any(evidence.receivers_of(settings)):
        yield Finding(
            "ttl-zero",
            Severity.WARNING,
            "its datagrams do not leave this host, and nothing here receives them",
            (f"ttl = 0 ({subject.table})", f"interface {ways[0].name} (no loopback)"),
            f"ttl = 1 in {subject.table}; n to cross n - 1 routers",
            ways=(Way(table=subject.table, lines=("ttl = 1",)),),
        )
    elif settings.ttl > 1 and stays_on_link(settings.group):
        line = 'group = "239.255.1.2"' if settings.group.version == 4 else 'group = "ff15::1:2"'
        yield Finding(
            "ttl-link-local",
            Severity.WARNING,
            f"its datagrams stay on the link of {ways[0].name}: no router forwards {settings.group}",
            (
                f"ttl = {settings.ttl} ({subject.table})",
                f"{settings.group} is link-local (RFC 5771, RFC 4291)",
            ),
            f"{line}, or another that is routed, in {subject.table}",
            ways=(Way(table=subject.table, lines=(line,)),),
        )
    elif settings.ttl == 1 and not stays_on_link(settings.group):
        yield from _one(subject, ways[0], evidence)


def _one(subject: Subject[OutboundChannel], way: Interface, evidence: Evidence) -> Iterator[Said]:
    """A router on the link, which forwards nothing whose TTL is 1."""
    version = subject.settings.group.version
    path = "/proc/net/route" if version == 4 else "/proc/net/ipv6_route"
    if router := _router(way, version, evidence):
        yield Finding(
            "ttl-one",
            Severity.HINT,
            f"its datagrams stay on the link of {way.name}: no router forwards them",
            (f"ttl = 1 ({subject.table})", f"a router on {way.name}: {router} ({path})"),
            f"if there are receivers behind a router: ttl = 2 in {subject.table}; behind n: n + 1",
            ways=(Way(table=subject.table, lines=("ttl = 2",)),),
        )


def _router(way: Interface, version: int, evidence: Evidence) -> Address | None:
    """A gateway of the routes of IP ``version`` by this interface."""
    table, name, flags, gateway = ("route", 0, 3, 2) if version == 4 else ("ipv6_route", 9, 8, 4)
    for line in (evidence.read(f"/proc/self/net/{table}") or "").split("\n"):
        words = line.split()
        with contextlib.suppress(ValueError, IndexError):  # the heading
            if words[name] == way.name and int(words[flags], 16) & USED == USED:
                packed = bytes.fromhex(words[gateway])
                return ip_address(packed if version == 6 or sys.byteorder == "big" else packed[::-1])
    return None


def loop(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """A channel whose datagrams are kept from receivers on this host, and a subscription that wants them."""
    settings = subject.settings
    for sender in evidence.senders_to(settings):
        if not sender.settings.loop:
            yield Finding(
                "loop-off",
                Severity.WARNING,
                f"{sender.name} sends to this group, but keeps it from receivers on this host",
                (f"loop = false ({sender.table})", f"{subject.table} has the same group and port"),
                f"loop = true in {sender.table}",
                ways=(Way(table=sender.table, lines=("loop = true",)),),
            )


def two_senders(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Two channels that no receiver can tell apart but by their source port."""
    settings = subject.settings
    if others := [other.name for other in evidence.senders_to(settings) if other.name != subject.name]:
        yield Finding(
            "two-senders",
            Severity.HINT,
            f"receivers get this channel mixed with {', '.join(others)}",
            (f"the same group {settings.group} and port {settings.port} (configuration)",),
            f"another port in {subject.table}, if that is not what is meant",
        )


def cycle(subject: Subject[OutboundChannel], _evidence: Evidence) -> Iterator[Said]:
    """Check that what is said of files holds until it is said again, in the next pass."""
    files, rate = subject.now(ChannelStatus).files, subject.settings.rate
    if files is None or files.described_seconds is None or not rate:
        return
    bits = 8 * files.total_bytes * (1 + files.repair_percent / 100)
    if bits <= rate * files.described_seconds:
        return
    enough = -(-bits // (1000 * files.described_seconds))
    line = f'rate = "{enough:.0f}kbit"'
    yield Finding(
        "cycle-too-long",
        Severity.WARNING,
        f"a pass over its files takes {bits / rate:.0f} s, but what it says of them holds only for"
        f" {files.described_seconds:.0f} s: until it is said again, receivers forget what they have",
        (
            f"rate = {rate} bit/s ({subject.table})",
            f"files: {files.total_bytes} bytes, and {files.repair_percent:.0f} % of repair;"
            f" described_seconds: {files.described_seconds:.0f} (status)",
        ),
        f"{line} in {subject.table}, or more; or send fewer files",
        ways=(Way(table=subject.table, lines=(line,)),),
    )


def pace(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """Check that files go at their channel's rate: each block is read, hashed and encoded before it goes."""
    rate, seconds = subject.settings.rate, evidence.observation.seconds if evidence.observation else 0.0
    files, before = subject.now(ChannelStatus).files, subject.before(ChannelStatus).files
    if not rate or not seconds or files is None or before is None or not before.pass_number:
        return
    grown = sent_meanwhile(subject)
    reached = 8 * grown.sent_bytes / seconds
    # What the kernel refuses is told apart. Of passes that take no time, most is to look the files through
    if not grown.sent or grown.refused.total() or 8 * files.total_bytes < PASS_MIN_SECONDS * rate:
        return
    if reached >= KEPT_SHARE * rate:
        return
    line = f'rate = "{max(1, reached / 2000):.0f}kbit"'
    yield Finding(
        "rate-not-kept",
        Severity.WARNING,
        f"its files go at {reached:,.0f} bit/s, not at {rate:,}: this host makes and sends them no faster",
        (
            f"rate = {rate} bit/s ({subject.table})",
            f"sent: {grown.sent_bytes} bytes in {seconds:.1f} s, {grown.late} datagrams late (status)",
        ),
        f"{line} in {subject.table}; or set protect there to less, or give the daemon more of the processor"
        " (CPUWeight= of its unit)",
        ways=(Way(table=subject.table, lines=(line,)),),
    )


def unsent(subject: Subject[OutboundChannel], _evidence: Evidence) -> Iterator[Said]:
    """Check that all files below a source are sent."""
    files, path = subject.now(ChannelStatus).files, subject.settings.source.file
    if files is None or path is None or not (files.refused or files.given_up):
        return
    fixes = []
    if files.given_up or files.refused.get(CHANGING):
        fixes.append("write files beside the source and rename them into it: one that changes is given up")
    if files.refused.get(UNREADABLE):
        as_group = command("chgrp", "-R", group(), path), command("chmod", "-R", "g+rX", path)
        fixes.append(f"let user {user()} read them: {' && '.join(as_group)}")
    if files.refused.get(TOO_LARGE):
        fixes.append(f"with sign_key in protocol of {subject.table} larger files are sent, in parts")
    fixes.append("move what is not to be sent elsewhere; the log says why for each: file.refused")
    yield Finding(
        "files-unsent",
        Severity.WARNING if files.refused.keys() - PASSING else Severity.HINT,
        f"some of what is below {path} is not sent",
        (
            f"refused: {counted(files.refused)}; given_up: {files.given_up} (status)",
            *files.refusals[:NAMED_FILES],
        ),
        "; ".join(fixes),
    )


def announced(subject: Subject[OutboundChannel], _evidence: Evidence) -> Iterator[Said]:
    """Check that the channel is announced, and its description is written, as its settings say."""
    announcement = subject.now(ChannelStatus).announcement
    if announcement is None:
        return
    key = f"announce in {subject.table}"
    if announcement.error:
        yield Finding(
            "announcement-failing",
            Severity.WARNING,
            "it sends, but it is not announced",
            (f"{announcement.error} (status)",),
            f"let {announcement.group} be sent to on its interface, or take another group for {key}",
        )
    if announcement.file_error:
        yield Finding(
            "announcement-failing",
            Severity.WARNING,
            "it sends, but the file of its description is not written",
            (f"{announcement.file_error} (status)",),
            f"a path that user {user()} can write, for sdp of {key}",
        )
