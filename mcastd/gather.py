"""How long datagrams may gather before they are taken: interrupt moderation, as network cards do it. Pure.

At real rates the wake-up is the cost, not the copy: taking a hundred datagrams each millisecond costs a
fraction of taking each as it comes. So a busy stream is taken in batches, at most ``max_latency`` late, and a
quiet one at once.
"""

from __future__ import annotations

# max_latency of datagrams, where the configuration says nothing else.
LATENCY_SECONDS = 0.001
# Waiting is worth it if more than this many datagrams are expected meanwhile.
WORTHWHILE_DATAGRAMS = 2
# Part of the receive buffer: if the datagrams of one wait take more, later waits are shorter.
FILLED_MAX = 0.25
# The first wait is no longer than this, since the rate is not known yet.
FIRST_WAIT_SECONDS = 0.001


class Gather:
    """Computes the waits of one reader, in seconds."""

    def __init__(self, max_latency: float, first: float = FIRST_WAIT_SECONDS) -> None:
        """``first``: the longest that the first wait may be."""
        self.max_latency = max_latency
        self.limit = min(first, max_latency)  # the longest wait that the receive buffer allows
        self.limited = False  # the receive buffer is too small to wait for max_latency at this rate

    def wait(self, taken: int, elapsed: float, filled: float = 0.0) -> float:
        """Return how long to wait, after ``taken`` datagrams that came within ``elapsed`` seconds.

        ``filled`` is the part of the receive buffer that they took, 0 to 1.
        """
        if filled > FILLED_MAX or self.limit < self.max_latency:
            self.follow(filled)
        return self.limit if taken * self.limit > WORTHWHILE_DATAGRAMS * elapsed else 0.0

    def follow(self, filled: float) -> None:
        """Have later waits be as long as the receive buffer allows, of which the last one took a part."""
        if filled > FILLED_MAX:
            self.limit /= 2
            self.limited = True
        elif self.limit < self.max_latency and filled < FILLED_MAX / 2:
            self.limit = min(self.max_latency, self.limit * 1.1)
            self.limited = self.limited and self.limit < self.max_latency
