"""What is announced of a channel: its description (SDP), and the packets that it goes in. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
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


@dataclass(frozen=True, slots=True)
class Announcement:
    """One version of what is announced of a channel."""

    channel: OutboundChannel
    way: SenderDescription  # by which the channel's own datagrams go
    group: Address  # that it is announced to
    message: int  # with the address it is the version's own among those of this daemon
    description: bytes

    def says_the_same_as(self, other: Announcement) -> bool:
        return (self.group, self.way, self.description) == (other.group, other.way, other.description)

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
    way: SenderDescription,
    announcing: Announcing,
    *,
    before: Announcement | None,
    version: int,
    taken: Collection[int],
) -> Announcement:
    """What is to be announced now: the version that ``before`` is of, if it says the same already.

    ``version`` is that of the description if it is another one; ``taken`` has the messages that others of
    this daemon have.
    """
    group = announcing.group or sap.group_for(channel.group)
    if before is not None and (before.way, before.group) == (way, group):
        same = describe(worker, channel, way, announcing, sdp.origin_in(before.description).version)
        if same == before.description:
            return replace(before, channel=channel)
    description = describe(worker, channel, way, announcing, version)
    message = sap.message_of(description)
    while message in taken:
        message = message % 0xFFFF + 1
    return Announcement(channel, way, group, message, description)


def describe(
    worker: str, channel: OutboundChannel, way: SenderDescription, announcing: Announcing, version: int
) -> bytes:
    """The description of a channel, whose datagrams leave as ``way`` says."""
    line = channel.protocol.media_line(channel.framing)
    number = hashlib.blake2b(worker.encode(), digest_size=SESSION_BYTES).digest()
    medium = sdp.Medium(
        kind=line.kind,
        port=channel.port,
        transport=line.transport,
        formats=(line.format,),
        address=channel.group,
        ttl=channel.ttl,
        sources=(ip_address(way.address),),
        attributes=line.attributes,
    )
    return sdp.build(
        sdp.SessionDescription(
            origin=sdp.SessionOrigin("mcastd", str(int.from_bytes(number)), version, way.address),
            name=announcing.name or short_name(worker),
            media=(medium,),
            attributes=(("tool", f"mcastd {__version__}"), ("type", "broadcast"), ("recvonly", None)),
        )
    )


def interval_of(announcing: Announcing, count: int, size: int) -> float:
    """Seconds between two announcements where ``count`` of about ``size`` bytes go to one group.

    All together they stay below 4000 bit/s (RFC 2974 section 3.1), as far as this daemon sends them.
    """
    return max(announcing.interval, 8 * count * size / sap.LIMIT_BITS_PER_SECOND)
