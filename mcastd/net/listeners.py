"""Sockets that programs send datagrams to, by UDP or at a path: batches of what has come."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from mcastd.errors import LinkError, SettingChange, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.arenas import Arena, Pool, pools
from mcastd.net.drops import drops
from mcastd.net.link import Batch
from mcastd.net.receive_buffer import buffer_of, dropped, enlarge
from mcastd.net.slots import Senders
from mcastd.net.sockets import WAYS_OUT

# Nobody is to have descriptors open here that sends to a path.
path_pool = Pool(of_paths=True)


class DatagramListener:
    """For one thread, but for ``lost`` and ``overflow``. It has an arena only while something comes."""

    def __init__(
        self,
        sock: socket.socket,
        what: str,
        pool: Pool,
        *,
        names_senders: bool = True,
        senders_apart: bool = False,
    ) -> None:
        """Takes ``sock``, which is bound; ``what`` is said of errors.

        If it ``names_senders``, batches have sources; with ``senders_apart`` these are exact to the datagram.
        """
        self.names_senders = names_senders
        self._sock = sock
        self._what = what
        self._pool = pool
        self._senders = Senders(each=senders_apart)
        self._arena: Arena | None = None
        self._inode = os.fstat(sock.fileno()).st_ino
        self._overflow = 0  # as it was read last
        self.buffer = buffer_of(sock)  # bytes, in the measure of SO_RCVBUF
        self.emptied = True  # the last batch was all that had come

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> Batch:
        """Take what has come, up to a batch, without blocking. Raises LinkError."""
        arena = self._arena
        if arena is None:
            arena = self._arena = self._pool.lease(self._senders)
        try:
            batch = arena.receive(self._sock, 0)
        except OSError as error:
            raise LinkError(self._what, reason_of(error), errno=error.errno or 0) from error
        self.emptied = not arena.full
        return batch

    def idle(self) -> None:
        """Let others have the buffers. The last batch is no longer valid."""
        if self._arena is not None:
            self._pool.give_back(self._arena)
            self._arena = None

    def overflow(self) -> int:
        """Packets that the kernel dropped at the full receive buffer; after close(), those until then."""
        self._overflow = max(self._overflow, dropped(self._sock))
        return self._overflow

    def lost(self) -> int:
        """The same up to a second ago, for those that look often: as a rule it takes no system call."""
        drops.look()
        known = drops.of(self._inode)
        if known is None:
            return self.overflow()
        self._overflow = max(self._overflow, known)
        return self._overflow

    def close(self) -> None:
        self.overflow()
        self.idle()
        self._sock.close()


def listen_udp(
    at: Address, port: int, *, receive_buffer: int, senders_apart: bool = False
) -> DatagramListener:
    """A socket at an address of this host, or all of them, for this program alone. Raises LinkError."""
    what = f"cannot receive at UDP port {port} of {'any address' if at.is_unspecified else at}"
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(_abi.family_of(at), socket.SOCK_DGRAM))
            if at.version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            enlarge(sock, receive_buffer)
            with contextlib.suppress(OSError):  # before Linux 5.0 there is no such option, nor any need
                sock.setsockopt(_abi.SOL_UDP, _abi.UDP_GRO, 1)
            sock.bind((str(at), port))
            undo.pop_all()
        except OSError as error:
            raise _refused(error, what) from error
    return DatagramListener(sock, what, pools[at.version, "listener"], senders_apart=senders_apart)


def listen_at_path(path: str, bind: Callable[[socket.socket], None]) -> DatagramListener:
    """A socket that ``bind`` gives its path. Raises LinkError, and what else ``bind`` raises."""
    what = f"cannot receive at {path}"
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            bind(sock)
            undo.pop_all()
        except OSError as error:
            raise _refused(error, what) from error
    return DatagramListener(sock, what, path_pool, names_senders=False)


def _refused(error: OSError, what: str) -> LinkError:
    number = error.errno or 0
    way_out: str | SettingChange = WAYS_OUT.get(number, "")
    waits = "waiting for the address" if number == errno.EADDRNOTAVAIL else ""
    return LinkError(what, reason_of(error), way_out, waits=waits, errno=number)
