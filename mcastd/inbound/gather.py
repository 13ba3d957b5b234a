"""How long datagrams may gather before they are taken: interrupt moderation, as network cards do it. Pure.

At real rates the wake-up is the cost, not the copy: taking a hundred datagrams each millisecond costs a
fraction of taking each as it comes. So a busy stream is taken in batches, at most ``max_latency`` late, and a
quiet one at once.
"""

from __future__ import annotations

WORTHWHILE = 2  # datagrams expected within max_latency, for which it is worth waiting
CROWDED = 0.25  # of the receive buffer: what gathers must not take more for long
FIRST = 0.001  # seconds with which it begins, to see how much comes


class Gather:
    """The waits of one reader, in seconds."""

    def __init__(self, max_latency: float) -> None:
        self.max_latency = max_latency
        self.limit = min(FIRST, max_latency)  # as far as the receive buffer is known to allow
        self.limited = False  # it is too small for the rate at which datagrams come, times max_latency

    def wait(self, taken: int, elapsed: float, filled: float = 0.0) -> float:
        """How long to wait now, having taken ``taken`` datagrams that came within ``elapsed`` seconds.

        ``filled`` is the part of the receive buffer that they took.
        """
        if filled > CROWDED:
            self.limit /= 2
            self.limited = True
        elif self.limit < self.max_latency and filled < CROWDED / 2:
            self.limit = min(self.max_latency, self.limit * 1.1)
            self.limited = self.limited and self.limit < self.max_latency
        return self.limit if taken * self.limit > WORTHWHILE * elapsed else 0.0
