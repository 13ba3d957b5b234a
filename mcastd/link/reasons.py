"""Why a link does not carry what it might: the reasons that there are, and what they mean to people."""

from __future__ import annotations

from collections.abc import Collection

from mcastd.ip import LINK_LOCAL
from mcastd.tunnel.inner import BAD_CHECKSUM, FRAGMENT, NOT_MULTICAST, NOT_UDP
from mcastd.tunnel.inner import MALFORMED as MALFORMED_PACKET
from mcastd.tunnel.link.interface_network import DISBELIEVED, GONE_ROUND
from mcastd.tunnel.link.local import NO_INTERFACE, QUEUE_FULL, REFUSED
from mcastd.tunnel.link.sessions import OWN, REPLAYED, TOO_MANY, UNEXPECTED, WRONG_KEY
from mcastd.tunnel.link.site import AHEAD, DUPLICATE, OWN_STREAM, TOO_FAR, TTL_TOO_LOW
from mcastd.tunnel.link.step import (
    BEYOND_RATE,
    DOWN,
    FORGED,
    INCOMPLETE,
    MALFORMED,
    NO_MESSAGE,
    OTHER_VERSION,
    REPLAYED_RECORD,
    UNKNOWN_SESSION,
    UNKNOWN_STREAM,
    UNWANTED,
)

# Of datagrams that came from the peer.
DROP_REASONS = (
    *(AHEAD, QUEUE_FULL, TOO_FAR, INCOMPLETE, NO_INTERFACE, DUPLICATE, OWN_STREAM, REFUSED, TTL_TOO_LOW),
    *(UNKNOWN_STREAM, UNWANTED),
)
# Of datagrams that the network here does not take, though they went on by another link.
MISS_REASONS = (QUEUE_FULL, NO_INTERFACE, REFUSED)
# Of datagrams that the peer wants.
UNSENT_REASONS = (DOWN, TOO_FAR, LINK_LOCAL, BEYOND_RATE, TTL_TOO_LOW)
# Of messages.
IGNORED_REASONS = (
    *(FORGED, MALFORMED, NO_MESSAGE, OTHER_VERSION, OWN, REPLAYED, REPLAYED_RECORD, TOO_MANY),
    *(UNEXPECTED, UNKNOWN_SESSION, WRONG_KEY),
)
# Of packets of the network here.
UNTAKEN_REASONS = (
    *(BAD_CHECKSUM, DISBELIEVED, FRAGMENT, GONE_ROUND, MALFORMED_PACKET, NOT_MULTICAST, NOT_UDP),
)
# Errnos with which the kernel may well refuse a message.
REFUSALS = ("EAGAIN", "EMSGSIZE", "ENETUNREACH", "ENOBUFS", "EPERM")


def why_ignored(reasons: Collection[str], *, connects: bool) -> list[str]:
    """What follows from messages that were ignored while nobody was connected, in words."""
    found = {
        WRONG_KEY: "what comes was sealed by another key",
        OWN: "it leads back to this daemon",
        OTHER_VERSION: "the peer speaks another version of links",
        REPLAYED: "the peer's clock was set back, or somebody repeats what it has sent",
        TOO_MANY: "more connections are begun than one peer begins",
    }
    if connects:
        found[UNEXPECTED] = "the peer connects, too: one of the two has to listen"
    return [words for reason, words in found.items() if reason in reasons]
