"""Where players connect to: the sockets that a gateway listens at."""

from __future__ import annotations

import errno
import math
import select
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from mcastd import log
from mcastd.config import split_end
from mcastd.errors import LISTENING_WAYS_OUT, SHORTAGE_WAYS_OUT, LinkError, reason_of
from mcastd.gateway.interest import Interest
from mcastd.ip import Address
from mcastd.net.tcp_socket import listening

# Connections that wait to be accepted, and those that are accepted before others have their turn.
WAITING_CONNECTIONS = 64
ACCEPTED_AT_ONCE = 32
# Between two attempts to listen, or to accept where there are no descriptors.
RETRY_SECONDS = 1.0
# The reason by which attempts to accept are counted that failed for want of descriptors or memory.
SHORTAGE = "shortage"
# What accept(2) says of one connection, which is no more: the next one may be sound.
OF_ONE_CONNECTION = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)


class Entrances:
    """Listens at the ends that it is told. Times are monotonic seconds.

    While none can be accepted, for want of descriptors, those who connect wait: it is tried once a second.
    """

    def __init__(self, name: str, interest: Interest, refused: Counter[str]) -> None:
        """``name``: of the worker, for the log; ``refused`` counts what could not be accepted, by reason."""
        self.refused: dict[str, str] = {}  # where it could not listen, and why; only replaced: others read it
        self.shortage = ""  # why nobody can be accepted now, and the way out
        self.deadline = math.inf  # when :meth:`tick` is due
        self._counted = refused
        self._interest = interest
        self._ends: Sequence[str] = ()
        self._has_listened = False  # somewhere, since it was closed: there may be players
        self._by_fd: dict[int, tuple[str, socket.socket]] = {}  # only replaced: others read it
        self._log = log.get_logger(worker=name)

    def __contains__(self, fd: int) -> bool:
        return fd in self._by_fd

    @property
    def ends(self) -> tuple[str, ...]:
        """Where it listens. For any thread."""
        return tuple(end for end, _ in self._by_fd.values())

    def open(self, ends: Sequence[str], now: float) -> None:
        """Listen at these, and at no others. Raises LinkError if that is possible at none of them, and was
        nowhere before: players that have connected are served on.
        """
        self._ends = ends
        for fd, (end, sock) in self._by_fd.items():
            if end not in ends:
                self._close(fd, sock)
        by_fd = {fd: found for fd, found in self._by_fd.items() if found[0] in ends}
        have = {end for end, _ in by_fd.values()}
        errors: dict[str, OSError] = {}
        for end in ends:
            if end in have:
                continue
            host, port = split_end(end)
            try:
                sock = listening(ip_address(host), port, WAITING_CONNECTIONS)
            except OSError as error:
                errors[end] = error
            else:
                by_fd[sock.fileno()] = end, sock
        for fd in by_fd:
            self._interest.want(fd, select.POLLIN)
        self._by_fd = by_fd
        self.refused = {end: reason_of(error) for end, error in errors.items()}
        self.deadline = now + RETRY_SECONDS if errors else math.inf
        self._has_listened |= bool(by_fd)
        if not self._has_listened:
            end, number = next((end, error.errno or 0) for end, error in errors.items())
            what, way_out = f"cannot listen at {end}", LISTENING_WAYS_OUT.get(number, "")
            raise LinkError(what, self.refused[end], way_out, waits="trying again", errno=number)

    def accept(self, fd: int, now: float) -> Iterator[tuple[socket.socket, Address]]:
        """Those who have connected, with their addresses."""
        _, listener = self._by_fd[fd]
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, (host, *_) = listener.accept()
            except BlockingIOError:  # nobody waits; and before it looked for that it had a descriptor
                self._recover()
                return
            except OSError as error:
                if error.errno in OF_ONE_CONNECTION:
                    continue
                self._run_short(error, now)
                return
            self._recover()
            sock.setblocking(False)
            yield sock, ip_address(str(host).partition("%")[0])

    def _run_short(self, error: OSError, now: float) -> None:
        """Those that are served go on; the others wait, and are not looked at for a while."""
        self._counted[SHORTAGE] += 1
        if not self.shortage:
            way_out = SHORTAGE_WAYS_OUT.get(error.errno or 0, "")
            self.shortage = "; ".join(filter(None, (reason_of(error), way_out)))
            self._log.warning("player.refused", reason=self.shortage)
        for fd in self._by_fd:
            self._interest.forget(fd)
        self.deadline = min(self.deadline, now + RETRY_SECONDS)

    def _recover(self) -> None:
        if self.shortage:
            self.shortage = ""
            self._log.info("players.accepted")

    def tick(self, now: float) -> None:
        """Try again what could not be done."""
        if now >= self.deadline:
            self.open(self._ends, now)

    def close(self) -> None:
        for fd, (_, sock) in self._by_fd.items():
            self._close(fd, sock)
        self._by_fd, self.deadline, self.shortage = {}, math.inf, ""
        self._has_listened = False

    def _close(self, fd: int, sock: socket.socket) -> None:
        self._interest.forget(fd)
        sock.close()
