"""A sender of files (FLUTE) in the test's process, which sends some of the same datagrams never, or late."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from mcastd.delivery.announcer import Announcer
from mcastd.delivery.carousel import Carousel, symbol_size_of
from mcastd.delivery.catalog import Catalog
from mcastd.delivery.serials import Serials, StateError
from mcastd.keytext import GroupKey, SigningKey
from mcastd.protocols import fec, lct
from mcastd.protocols.seal import OBJECT_OVERHEAD_BYTES
from support.flute import joined
from support.host import Host
from support.inside import sender
from support.meanwhile import meanwhile

MAX_DATAGRAM = 1000
PAUSE_SECONDS = 0.001
SESSION = 7
LIFE_SECONDS = 3600.0


class Secrets(NamedTuple):
    """What a sender signs and seals with, and what of."""

    channel: str
    sign_key: SigningKey | None
    key: GroupKey | None


def one_pass(path: Path, now: float, *, loss: float, secrets: Secrets | None = None) -> list[bytes]:
    """The datagrams of one pass over the files at ``path``, sent at ``now``, seconds since 1970."""
    announcer = None if secrets is None else _announcer(secrets, path.with_name("state of the sender"))
    sealed = OBJECT_OVERHEAD_BYTES if secrets is not None and secrets.key is not None else 0
    catalog = Catalog(path, symbol_size_of(MAX_DATAGRAM - sealed), protected=loss > 0)
    with contextlib.closing(catalog):
        while not catalog.scan():
            pass
        carousel = Carousel(catalog, session=SESSION, max_datagram=MAX_DATAGRAM, loss=loss, interleave=8)
        if announcer is None:
            carousel.describe(LIFE_SECONDS)
            carousel.begin(0)
        else:
            carousel.describe(LIFE_SECONDS, announcer.packets(catalog.files, now, LIFE_SECONDS))
            carousel.begin(0, announcer.sealer)
        sent: list[bytes] = []
        while (datagrams := carousel.next(now)) is not None:
            sent += joined(datagrams)
    return sent


def _announcer(secrets: Secrets, state: Path) -> Announcer:
    def tell(error: StateError) -> None:
        raise error

    return Announcer(
        secrets.channel,
        SESSION,
        MAX_DATAGRAM,
        sign_key=secrets.sign_key,
        key=secrets.key,
        serials=Serials(state, tell),
    )


def located(datagram: bytes) -> tuple[int | None, int]:
    """The TOI and the encoding symbol id of a datagram."""
    header = lct.parse(datagram)
    payload_id = int.from_bytes(datagram[header.size : header.size + 4])
    return header.toi, fec.scheme_of(header.codepoint).locate(payload_id)[1]


@contextlib.contextmanager
def carousel_of(
    host: Host,
    to: tuple[str, int],
    path: Path,
    *,
    loses: Callable[[int | None, int], bool] = lambda toi, esi: False,
    loss: float = 0.05,
    late: float = 0.0,
    secrets: Secrets | None = None,
) -> Iterator[None]:
    """Send the same pass on net0 again and again, but nothing whose TOI and symbol id ``loses`` names.

    ``loss`` is what it is protected against; ``late`` is how many seconds the sender's clock is slow.
    """
    datagrams = [
        datagram
        for datagram in one_pass(path, time.time() - late, loss=loss, secrets=secrets)
        if not loses(*located(datagram))
    ]
    turns = cycle(datagrams)
    with (
        sender(host, "net0", "10.6.0.2") as sock,
        meanwhile(lambda: sock.sendto(next(turns), to), PAUSE_SECONDS, "carousel"),
    ):
        yield
