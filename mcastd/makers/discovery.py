"""Makes the workers that find what is announced."""

from __future__ import annotations

from mcastd.config import Discover
from mcastd.discovery.discovery import Discovery
from mcastd.makers.parts import Parts
from mcastd.net.link import Metadata
from mcastd.net.receiver import SocketReceiver
from mcastd.protocols import sap

# The kernel's buffer for announcements of one group, in bytes: some hundreds of them.
ANNOUNCEMENTS_BUFFER = 256 << 10


def make(name: str, settings: Discover, parts: Parts) -> Discovery:
    return Discovery(
        name,
        settings,
        lambda wanted, group: SocketReceiver(
            group,
            sap.PORT,
            interface=wanted.interface,
            receive_buffer=ANNOUNCEMENTS_BUFFER,
            metadata=Metadata.ORIGINS,
            coalesce=False,
            host=parts.host,
            memberships=parts.memberships,
        ),
    )
