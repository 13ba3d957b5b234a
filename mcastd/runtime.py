"""Composes what workers run with, for the daemon, the commands that run workers, and the demo."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from mcastd import clock
from mcastd.config import Config, OpenFiles
from mcastd.inbound.reader import Reader
from mcastd.ip import Concerned
from mcastd.later import Later, Once
from mcastd.makers import ALONE, Parts, build
from mcastd.net.membership import Memberships
from mcastd.net.watch import NetworkWatch
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.watcher import Watcher
from mcastd.process import share_interpreter
from mcastd.supervisor import Supervisor

if TYPE_CHECKING:
    from mcastd.bridge.kept import KeptTables
    from mcastd.bridge.router import MulticastRouter
    from mcastd.tunnel.link.links import Links
    from mcastd.tunnel.tunnels import Tunnels

# After this long without a change of the network for as many workers, the interpreter is shared as before.
NETWORK_CALM_SECONDS = 2.0

# What few have workers for.
OPEN_ROUTER = Later("mcastd.makers.bridge:open_router")
KEPT_TABLES = Later("mcastd.bridge.kept:KeptTables")
TUNNELS = Later("mcastd.tunnel.tunnels:Tunnels")
OPEN_LINKS = Later("mcastd.makers.link:open_links")


class Runtime:
    """A supervisor, the watch of the network that its workers see, and the threads that they share.

    ``config`` returns the configuration in force. ``parts`` is what workers are made with, except for what
    they share here. ``on_change`` is called, from any thread, when the state or detail of a worker changes.
    """

    def __init__(
        self, config: Callable[[], Config], on_change: Callable[[], None] = lambda: None, parts: Parts = ALONE
    ) -> None:
        self._woken = 0  # workers that a change of the network concerned, lately
        self._woken_at = 0.0  # monotonic seconds
        self.supervisor = Supervisor(lambda name, settings: build(name, settings, self._parts), on_change)
        self.network = NetworkWatch(self._network_changed)
        self._reader, self._sender, self._watcher = Reader(), SharedSender(), Watcher()
        self._announcer = SessionAnnouncer(self.network.host)
        memberships = Memberships()
        self._tables: Once[KeptTables] = parts.tables or Once(KEPT_TABLES)
        self._router: Once[MulticastRouter] = Once(lambda: OPEN_ROUTER(memberships, self._tables()))
        self._tunnels: Once[Tunnels] = Once(TUNNELS)
        self._links: Once[Links] = Once(lambda: OPEN_LINKS(memberships, self.network.host))
        self._parts = replace(
            parts,
            host=self.network.host,
            memberships=memberships,
            reader=self._reader,
            sender=self._sender,
            watcher=self._watcher,
            announcer=self._announcer,
            router=self._router,
            tunnels=self._tunnels,
            links=self._links,
            config=config,
            files=OpenFiles(config),
        )

    def _network_changed(self, concerned: Concerned) -> None:
        if (links := self._links.made) is not None:
            links.host_changed()
        self.supervisor.network_changed(concerned, self.wakes)

    def wakes(self, workers: int) -> None:
        """Set the switch interval for ``workers`` that start, or look at the network, all at once."""
        if workers and workers >= self._woken:
            self._woken, self._woken_at = workers, clock.monotonic()
            share_interpreter(workers)

    def notice_calm(self) -> None:
        """To be called about once a second."""
        if not self._woken or clock.monotonic() - self._woken_at <= NETWORK_CALM_SECONDS:
            return
        if not self.supervisor.not_attempted():  # no start of many is still under way
            self._woken = 0
            share_interpreter(0)

    def retry(self) -> None:
        """Begin what could not be had before. To be called about once a second."""
        self._announcer.retry()

    def settle(self) -> None:
        """All workers that are wanted have begun: give up what the process before has left for others."""
        if (router := self._router.made) is not None:
            router.settle()
        elif (tables := self._tables.made) is not None:
            tables.settle()

    def leave(self) -> None:
        """The process ends. What the service manager keeps of it is left as it is."""
        if self._tables.made is not None:
            self._router().leave()

    def serves_none(self) -> bool:
        """Return True if a thread that works for many workers hangs, and cannot be replaced."""
        return self._reader.is_deaf() or self._sender.is_mute()

    def close(self) -> None:
        """End what the workers share. They have ended before, or never will."""
        with ExitStack() as stack:
            stack.callback(self.network.close)
            stack.callback(self._announcer.close)
            for shared in (self._reader, self._watcher, self._sender):
                stack.callback(shared.close)
            for made in (self._router.made, self._tunnels.made, self._links.made):
                if made is not None:
                    stack.callback(made.close)
