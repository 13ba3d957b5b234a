"""Where the peer of a link is, and a socket to reach it by: by a name there may be several addresses.

```
   an address --------------------------------------> met
   a name --- asked for in a thread of its own ---> the first address --- no welcome ---> the next one ...
                       ^                                                                        |
                       +------------------------- none is left, or nobody answers --------------+
```
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address

from mcastd.bounded import begin
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net.link_socket import LinkSocket
from mcastd.net.resolving import addresses_of
from mcastd.tunnel.link.plan import settings_of
from mcastd.tunnel.link.running import RunningLink

# A peer whose name could not be resolved, or that does not answer there, is looked for again after so long;
# so is a socket that could not be had.
LOOK_SECONDS = 10.0
# Hellos without a welcome after which the next address of a peer is tried, if it has several; so many are.
TRIES_EACH, ADDRESSES_MAX = 2, 8


class PeerSearch:
    """For all links. For one thread, but for what is told of answers."""

    def __init__(self, on_answer: Callable[[RunningLink], None]) -> None:
        """``on_answer`` is called from any thread when it is known what the name of a peer means."""
        self._on_answer = on_answer

    def attend(self, link: RunningLink, now: float) -> None:
        """Do what is due: see :attr:`RunningLink.deadline`."""
        if link.resolving is not None and link.resolving.done():
            self._resolved(link, link.resolving, now)
        elif link.untried and not link.end.is_up and link.end.sessions.unanswered(now) >= TRIES_EACH:
            self._meet_next(link, now)
        elif link.is_to_look and now >= link.look_at:
            link.look_at = now + LOOK_SECONDS
            self._look(link, now)

    def _look(self, link: RunningLink, now: float) -> None:
        """Have a socket, and find the peer's address: if it has a name, that may take long."""
        plan = link.plan
        if plan.listen is not None and link.socket is None:
            self._open(link, plan.listen[0].version, *plan.listen)
        if plan.connect is None:
            return
        peer = plan.connect[0]
        with suppress(ValueError):
            self._meet(link, ip_address(peer), now)
            return
        try:
            link.resolving = begin(lambda: addresses_of(peer), "resolve-peer")
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {peer}: {reason_of(error)}"
        else:
            link.resolving.add_done_callback(lambda _: self._on_answer(link))

    def _resolved(self, link: RunningLink, answer: Future[list[Address]], now: float) -> None:
        link.resolving = None
        assert link.plan.connect is not None
        try:
            link.untried = answer.result()[:ADDRESSES_MAX]
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {link.plan.connect[0]}: {reason_of(error)}"
            return
        link.hindrance = ""
        self._meet_next(link, now)

    def _meet_next(self, link: RunningLink, now: float) -> None:
        """Look for the peer at the next of its addresses for which there is a socket."""
        while link.untried:
            self._meet(link, link.untried.pop(0), now)
            if link.socket is not None:
                return

    def _meet(self, link: RunningLink, address: Address, now: float) -> None:
        assert link.plan.connect is not None
        if link.plan.listen is None and link.socket is not None and link.socket.version != address.version:
            link.close_socket()
        if link.plan.listen is None and link.socket is None:
            self._open(link, address.version, None, 0)
        if link.socket is not None:
            peer = address, link.plan.connect[1]
            if link.end.peer not in (None, peer):
                link.end.sessions.call_anew(now)
            link.end.meet(peer)
            link.end.change(link.plan.key, settings_of(link.plan, link.version), now)

    @staticmethod
    def _open(link: RunningLink, version: int, address: Address | None, port: int) -> None:
        try:
            link.socket = LinkSocket(version, address, port)
            link.hindrance = ""
        except LinkError as error:
            link.hindrance = error.trouble
