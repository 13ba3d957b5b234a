"""Who has a place at a gateway, by host: connections that have no stream, those that have one, and which of
these have closed their end. They are known by descriptor. It touches no socket.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from mcastd.ip import Address


class Places:
    """The worker's thread changes it."""

    def __init__(self) -> None:
        self.asking = 0  # connections without a stream; for any thread
        # The same by host; of each the one that has been there longest comes first.
        self._asking: defaultdict[Address, dict[int, None]] = defaultdict(dict)
        self._served: Counter[Address] = Counter()
        # Those of them that have closed their end, with the host; the one that did so first comes first.
        self._half_closed: dict[int, Address] = {}

    def ask(self, fd: int, host: Address) -> None:
        """It is there, without a stream."""
        self._asking[host][fd] = None
        self.asking += 1

    def serve(self, fd: int, host: Address) -> None:
        """It has a stream from now on."""
        self.leave(fd, host)
        self._served[host] += 1

    def release(self, fd: int, host: Address) -> None:
        """It has no stream any more."""
        self._served[host] -= 1
        if not self._served[host]:
            del self._served[host]
        self._half_closed.pop(fd, None)
        self.ask(fd, host)

    def leave(self, fd: int, host: Address) -> None:
        """It has no stream, and is no more."""
        of_host = self._asking[host]
        del of_host[fd]
        self.asking -= 1
        if not of_host:
            del self._asking[host]

    def half_close(self, fd: int, host: Address) -> None:
        """It has a stream, and has closed its end."""
        self._half_closed[fd] = host

    def served_of(self, host: Address) -> int:
        return self._served[host]

    def first_asking(self) -> int:
        """Of the host with most connections without a stream, the one that has been there longest."""
        of_most: dict[int, None] = max(self._asking.values(), key=len)
        return next(iter(of_most))

    def first_half_closed(self, host: Address | None = None) -> int | None:
        """The one that has closed its end first, of ``host`` or of any; None: none has."""
        return next((fd for fd, of in self._half_closed.items() if host in {None, of}), None)
