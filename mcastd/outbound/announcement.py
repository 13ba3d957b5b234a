"""What is announced of a channel: its description (SDP), and the packets that it goes in. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mcastd import __version__
from mcastd.config import Announcing, OutboundChannel
from mcastd.ip import Address
from mcastd.names import short_name
from mcastd.protocols import sap, sdp
from mcastd.status import SenderDescription

# Bytes of the number of a session: it is below 2 to the 56th, which every program reads.
SESSION_BYTES = 7

# By which way each leg of a channel sends, in their order (see OutboundChannel.by_leg); None: by none.
Ways = Sequence[SenderDescription | None]


@dataclass(frozen=True, slots=True)
class Announcement:
    """One version of what is announced of a channel."""

    leg: OutboundChannel  # the first leg of the channel that has a way now: the announcement goes there, too
    way: SenderDescription  # by which the leg's own datagrams go
    group: Address  # that it is announced to
    message: int  # with the address it is the version's own among those of this daemon
    description: bytes

    def says_the_same_as(self, other: Announcement) -> bool:
        return (self.group, self.way, self.description) == (other.group, other.way, other.description)

    @property
    def version(self) -> int:
        """Of the description (RFC 8866 section 5.2)."""
        return sdp.origin_in(self.description).version

    @property
    def packet(self) -> bytes:
        return sap.build(ip_address(self.way.address), self.message, self.description)

    @property
    def deletion(self) -> bytes:
        """Says that this version is no more: with its origin alone (RFC 2974 section 6)."""
        origin = next(line for line in self.description.split(b"\r\n") if line.startswith(b"o="))
        payload = origin + b"\r\n"
        return sap.build(ip_address(self.way.address), self.message, payload, deletion=True)


def announcement(
    worker: str,
    channel: OutboundChannel,
    ways: Ways,
    announcing: Announcing,
    *,
    last: Ways = (),
    before: Announcement | None,
    version: int,
    taken: Collection[int],
) -> Announcement:
    """What is to be announced now: the version that ``before`` is of, if it says the same already.

    ``ways`` and ``last`` are those of :func:`describe`. ``version`` is that of the description if it is
    another one; ``taken`` has the messages that others of this daemon have.
    """
    leg, way = _first_that_works(channel, ways)
    group = announcing.group or sap.group_for(leg.group)
    if before is not None and (before.way, before.group) == (way, group):
        same = describe(worker, channel, ways, announcing, before.version, last=last)
        if same == before.description:
            return replace(before, leg=leg)
    description = describe(worker, channel, ways, announcing, version, last=last)
    message = sap.message_of(description)
    while message in taken:
        message = message % 0xFFFF + 1
    return Announcement(leg, way, group, message, description)


def _first_that_works(channel: OutboundChannel, ways: Ways) -> tuple[OutboundChannel, SenderDescription]:
    for leg, way in zip(channel.by_leg(), ways, strict=True):
        if way is not None:
            return leg, way
    raise ValueError("a channel is announced by a leg that has a way")


def describe(
    worker: str,
    channel: OutboundChannel,
    ways: Ways,
    announcing: Announcing,
    version: int,
    *,
    last: Ways = (),
) -> bytes:
    """The description of a channel, whose datagrams leave as ``ways`` says; of its first leg, or of all.

    At least one has a way. ``last`` has the ways by which the legs sent last, if there are some that have
    none now: their senders stay in the description, since receivers that take them from any sender may get
    another stream.
    """
    number = hashlib.blake2b(worker.encode(), digest_size=SESSION_BYTES).digest()
    _, first = _first_that_works(channel, ways)
    media = [_medium(leg, way) for leg, way in zip(channel.by_leg(), last or ways, strict=True)]
    if announcing.copies:
        media = [replace(medium, mid=str(place)) for place, medium in enumerate(media, 1)]
    else:
        media = media[:1]
    return sdp.build(
        sdp.SessionDescription(
            origin=sdp.SessionOrigin("mcastd", str(int.from_bytes(number)), version, first.address),
            name=announcing.name or short_name(worker),
            media=tuple(media),
            duplicates=(tuple(range(len(media))),) if announcing.copies else (),
            attributes=(("tool", f"mcastd {__version__}"), ("type", "broadcast"), ("recvonly", None)),
        )
    )


def _medium(leg: OutboundChannel, way: SenderDescription | None) -> sdp.Medium:
    line = leg.protocol.media_line(leg.framing)
    return sdp.Medium(
        kind=line.kind,
        port=leg.port,
        transport=line.transport,
        formats=(line.format,),
        address=leg.group,
        ttl=leg.ttl,
        sources=() if way is None else (ip_address(way.address),),
        attributes=line.attributes,
    )


def interval_of(announcing: Announcing, count: int, size: int) -> float:
    """Seconds between two announcements where ``count`` of about ``size`` bytes go to one group.

    All together they stay below 4000 bit/s (RFC 2974 section 3.1), as far as this daemon sends them.
    """
    return max(announcing.interval, 8 * count * size / sap.LIMIT_BITS_PER_SECOND)
