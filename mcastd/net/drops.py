"""What the kernel has dropped at each UDP socket of this host, for all of them together: sock_diag(7).

getsockopt(SO_MEMINFO) is exact, and lets go of the interpreter's lock each time: for hundreds of sockets,
beside threads that receive, taking that again costs more than the answers. And as a rule nothing is asked at
all: as long as the host's sum of errors stands still, no socket has lost any.
"""

from __future__ import annotations

import socket
import threading

from mcastd import clock
from mcastd.clock import Clock
from mcastd.errors import LinkError
from mcastd.net import _abi
from mcastd.net.netlink import attributes_of, request
from mcastd.net.tables import udp_errors

# Seconds for which an answer serves: a reader that asks every second gets each second's.
FRESH_SECONDS = 0.9
ALL_STATES = 0xFFFFFFFF


class Drops:
    """The kernel's answer, asked for anew when somebody looks and it may be another. For any thread."""

    def __init__(self, now: Clock = clock.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._looked_at = float("-inf")  # monotonic seconds
        self._errors: tuple[int, int] | None = None
        self._again = True  # there is a socket that the answer is older than, or there was news the last time
        self._by_inode: dict[int, int] = {}
        self.edition = 0  # of the answer

    def look(self) -> int:
        """Have an answer that is not older than a second; its edition."""
        if self._now() - self._looked_at >= FRESH_SECONDS:
            with self._lock:
                if self._now() - self._looked_at >= FRESH_SECONDS:
                    self._update()
                    self._looked_at = self._now()
        return self.edition

    def _update(self) -> None:
        errors = udp_errors()  # first: what is dropped from here on is news the next time
        news = errors is None or errors != self._errors
        if news or self._again:
            self._by_inode = by_inode()
            self._errors, self._again = errors, news  # the kernel may count an error before it does the drop
            self.edition += 1

    def of(self, inode: int) -> int | None:
        """How many packets a socket had lost by the last :meth:`look`. None: the kernel did not say."""
        lost = self._by_inode.get(inode)
        if lost is None:
            self._again = True
        return lost


def by_inode() -> dict[int, int]:
    """Of all UDP sockets; nothing if the kernel has no sock_diag for UDP."""
    found: dict[int, int] = {}
    memory = 1 << (_abi.INET_DIAG_SKMEMINFO - 1)
    for family in (socket.AF_INET, socket.AF_INET6):
        header = _abi.inet_diag_req_v2.pack(family, socket.IPPROTO_UDP, memory, 0, ALL_STATES, b"")
        try:
            for body in request(_abi.SOCK_DIAG_BY_FAMILY, header, dump=True, protocol=_abi.NETLINK_SOCK_DIAG):
                (inode,) = _abi.inet_diag_msg.unpack_from(body)
                if meminfo := attributes_of(body, _abi.inet_diag_msg.size).get(_abi.INET_DIAG_SKMEMINFO):
                    found[inode] = _abi.sk_meminfo.unpack_from(meminfo)[_abi.SK_MEMINFO_DROPS]
        except LinkError:
            continue
    return found


drops = Drops()
