"""Arenas: the buffers that batches are received into, and the pool from which they are leased.

An arena is large and is needed only from the first batch to the one that is empty. So a receiver leases one
then, and gives it back: there are as many as workers are busy at a time.
"""

from __future__ import annotations

import errno
import socket
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mcastd.errors import SHORTAGE_WAYS_OUT, LinkError, NoArenaError
from mcastd.net.link import Batch
from mcastd.net.plain import PlainArena
from mcastd.net.slots import Senders, Slots

try:
    from mcastd.net.mmsg import MmsgArena
except ImportError:  # a Python without ctypes
    HAVE_RECVMMSG = False
else:
    HAVE_RECVMMSG = True
READING = "recvmmsg" if HAVE_RECVMMSG else "recvmsg"

# Free arenas that a pool keeps.
SPARE_ARENAS = 64
# Between two attempts to receive while there is no memory for it.
MEMORY_RETRY_SECONDS = 0.1


class Arena(Protocol):
    """Buffers for one batch of any socket; a batch is valid until the next is received."""

    full: bool  # the last batch took all slots: there may be more
    slots: Slots
    senders: Senders  # of the receiver that has leased it; a batch notes there those that it is asked for

    def receive(self, sock: socket.socket, ifindex: int, wait: bool = False) -> Batch:
        """What ``sock`` has: up to SLOTS packets. Raises OSError.

        With ``wait`` it may wait for the first of them for as long as the socket does (SO_RCVTIMEO).
        ``ifindex`` is the interface that it receives from, for the origins; 0: neither they nor the times are
        asked for.
        """


class Pool:
    """Arenas for sockets of one kind: what an arena has learned of one of them holds for the others."""

    def __init__(self, *, of_paths: bool = False) -> None:
        """Of sockets ``of_paths`` the kernel throws away what comes beside datagrams, and names no senders.

        It would be descriptors, which are open here then (SCM_RIGHTS of unix(7)); and they have no addresses.
        """
        self._of_paths = of_paths
        # Appended to and popped from by any thread: each of these is one step. Of too many the oldest go
        self.spare: deque[Arena] = deque(maxlen=SPARE_ARENAS)

    def lease(self, senders: Senders) -> Arena:
        """An arena for the caller alone, until it is given back; its batches keep note of ``senders``.

        Raises NoArenaError.
        """
        try:
            arena = self.spare.pop()
        except IndexError:
            arena = self._make()
        arena.senders = senders
        return arena

    def _make(self) -> Arena:
        try:
            return (MmsgArena if HAVE_RECVMMSG else PlainArena)(of_paths=self._of_paths)
        except (MemoryError, OSError) as error:  # of mmap(2)
            raise NoArenaError(
                "cannot receive",
                "no memory left",
                SHORTAGE_WAYS_OUT[errno.ENOMEM],
                waits="trying again",
                errno=errno.ENOMEM,
            ) from error

    def give_back(self, arena: Arena) -> None:
        """Let others have it."""
        if arena.slots.swollen:
            arena.slots.shrink()
        self.spare.append(arena)


pools: defaultdict[tuple[object, ...], Pool] = defaultdict(Pool)
"""By the kind of socket: whatever makes a difference to what the kernel tells of a packet."""


@dataclass(frozen=True, slots=True)
class OneSocket:
    """What a receiver receives by: see Receiver.one_socket()."""

    sock: socket.socket
    tells: int  # the ifindex for Arena.receive()
    pool: Pool
    senders: Senders
    failed: Callable[[OSError], LinkError]  # what to raise for an error of Arena.receive()
