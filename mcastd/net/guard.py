"""Keeps excluded sources out of a socket while its membership changes.

Linux publishes a new list of sources before the new filter mode (ip_mc_msfilter, ip6_mc_msfilter), and on a
leave drops the list before the membership. For that moment an EXCLUDE list is read as INCLUDE, and lets in
those alone that it is to keep out, or INCLUDE as EXCLUDE. No order of system calls avoids it. So where it can
happen, a socket filter repeats what is wanted. It stays: a receiving processor that was interrupted in the
middle of a datagram may decide on it by the kernel's old list long after the change is done.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from mcastd.ip import ANY_SOURCE, SourceFilter
from mcastd.net import _abi, bpf

NONE = SourceFilter(exclude=False)
SOURCE_OFFSET = {4: 12, 6: 8}  # bytes from the beginning of the IP header


class SourceGuard:
    """The socket filter of one socket. With the lock of its membership held."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._attached = ANY_SOURCE
        self.rejected = 0  # unwanted datagrams that it rejected: the kernel counts them among its drops

    @contextlib.contextmanager
    def change(self, before: SourceFilter, after: SourceFilter) -> Iterator[None]:
        """In the block the membership changes from one filter to another. Raises OSError."""
        if not (after.sources and (after.exclude or before.exclude)):
            self._detach()
            yield
        elif self._attach(after):
            dropped, full = self._look()
            try:
                yield
            finally:
                dropped_since, full_since = self._look()
                if not full and not full_since:  # otherwise some may have been wanted
                    self.rejected += dropped_since - dropped
        else:
            try:
                yield
            finally:
                self._detach()

    def _attach(self, wanted: SourceFilter) -> bool:
        """Returns False if the sources are too many for a socket filter, and it rejects all instead."""
        if wanted != self._attached:
            try:
                bpf.attach(self._sock, program(wanted))
            except OSError:
                bpf.attach(self._sock, [bpf.REJECT])
                self._attached = NONE
                return False
            self._attached = wanted
        return True

    def _detach(self) -> None:
        if self._attached != ANY_SOURCE:
            bpf.detach(self._sock)
            self._attached = ANY_SOURCE

    def _look(self) -> tuple[int, bool]:
        """Drops ever, and whether the receive buffer is so full that some may be its own."""
        meminfo = self._sock.getsockopt(socket.SOL_SOCKET, _abi.SO_MEMINFO, _abi.sk_meminfo.size)
        have = _abi.sk_meminfo.unpack(meminfo)
        full = 2 * have[_abi.SK_MEMINFO_RMEM_ALLOC] > have[_abi.SK_MEMINFO_RCVBUF]
        return have[_abi.SK_MEMINFO_DROPS], full


def program(wanted: SourceFilter) -> list[bpf.Instruction]:
    """Accept what a filter that names sources lets through, by the source address in the IP header."""
    listed, others = (bpf.REJECT, bpf.ACCEPT) if wanted.exclude else (bpf.ACCEPT, bpf.REJECT)
    first = wanted.sources[0]
    words = range(len(first.packed) // 4)
    result: list[bpf.Instruction] = []
    for word in words:
        offset = bpf.NETWORK_HEADER + SOURCE_OFFSET[first.version] + 4 * word
        result += [(bpf.LD_WORD, 0, 0, offset), (bpf.STORE, 0, 0, word)]
    for source in wanted.sources:
        for word in words:
            operand = int.from_bytes(source.packed[4 * word : 4 * word + 4], "big")
            to_next = 2 * (words[-1] - word) + 1
            result += [(bpf.LD_STORED, 0, 0, word), (bpf.JUMP_EQUAL, 0, to_next, operand)]
        result.append(listed)
    return [*result, others]
