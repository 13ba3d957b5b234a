"""Composes what workers run with, for the daemon, the commands that run workers, and the demo."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from mcastd import clock
from mcastd.bridge.family import open_family
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.router import MulticastRouter
from mcastd.build import ALONE, Parts, build, open_links
from mcastd.config import Config, OpenFiles
from mcastd.inbound.reader import Reader
from mcastd.net.membership import Memberships
from mcastd.net.watch import NetworkWatch
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.watcher import Watcher
from mcastd.process import share_interpreter
from mcastd.supervisor import Supervisor
from mcastd.tunnel.tunnels import Tunnels

# After this long without a change of the network for as many workers, the interpreter is shared as before.
NETWORK_CALM_SECONDS = 2.0


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
        self.network = NetworkWatch(lambda change: self.supervisor.network_changed(change, self.wakes))
        self._reader, self._sender, self._watcher = Reader(), SharedSender(), Watcher()
        self._announcer = SessionAnnouncer(self.network.host)
        memberships = Memberships()
        kept = parts.tables or KeptTables()
        self._router = MulticastRouter(lambda version: open_family(version, memberships, kept), kept)
        self._tunnels = Tunnels()
        self._links = open_links(memberships, self.network.host)
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
        self._router.settle()

    def leave(self) -> None:
        """The process ends. What the service manager keeps of it is left as it is."""
        self._router.leave()

    def serves_none(self) -> bool:
        """Return True if a thread that works for many workers hangs, and cannot be replaced."""
        return self._reader.is_deaf() or self._sender.is_mute()

    def close(self) -> None:
        """End what the workers share. They have ended before, or never will."""
        with ExitStack() as stack:
            threads = self._reader, self._watcher, self._sender, self._tunnels, self._links
            for shared in (self.network, self._announcer, self._router, *threads):
                stack.callback(shared.close)
