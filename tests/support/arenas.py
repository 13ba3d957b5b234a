"""Receivers in memory that lease arenas, of which there are few."""

from __future__ import annotations

import errno

from mcastd.errors import NoArenaError
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import Batch


class FewArenas:
    """So many arenas as there is memory for."""

    def __init__(self, free: int) -> None:
        self.free = free

    def receiver(self) -> LeasingReceiver:
        return LeasingReceiver(self)


class LeasingReceiver(FakeReceiver):
    """It has an arena from its first batch on until it is idle or closed, as sockets do."""

    def __init__(self, arenas: FewArenas) -> None:
        super().__init__()
        self.received = 0  # datagrams
        self._arenas = arenas
        self._has_arena = False

    def receive(self, wait: bool = False) -> Batch:
        if not self._has_arena:
            if not self._arenas.free:
                raise NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
            self._arenas.free -= 1
            self._has_arena = True
        batch = super().receive(wait)
        self.received += len(batch)
        return batch

    def idle(self) -> None:
        self._arenas.free += self._has_arena
        self._has_arena = False

    def close(self) -> None:
        self.idle()
        super().close()
