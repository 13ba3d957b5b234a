"""How large a message may be on its way to the peer: Datagram PLPMTUD (RFC 8899), by probes and answers.

```
  base  --- probes of larger sizes --->  searching  --- none left --->  complete
   ^                                                                        |
   +---------- the size in use is answered no more, several times ----------+
```

Sizes are bytes of the UDP payload. One is used only after a probe of it was answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# What is taken to arrive always: BASE_PLPMTU of RFC 8899 section 5.1.2, less the headers of IPv6 and UDP.
BASE_BYTES = 1152
# RFC 8899 section 5.1.1 and 5.1.2.
PROBES_MAX = 3
PROBE_SECONDS = 1.0
RAISE_SECONDS = 600.0
CONFIRM_SECONDS = 30.0
# The same while not even what should always arrive does: until then nothing can go by the link.
NARROW_SECONDS = 5.0
# Sizes between which it is not worth to look further.
NEAR_BYTES = 16


class PathMtu:
    """For one path. A path that changed takes another one."""

    def __init__(self, likely: Iterable[int], now: float) -> None:
        """``likely`` are sizes that are probed first, the largest of which is the most."""
        self.size = BASE_BYTES
        self.is_too_narrow = False  # messages of BASE_BYTES do not arrive
        self._likely = sorted({size for size in likely if size > BASE_BYTES})
        self._largest = self._likely[-1] if self._likely else BASE_BYTES
        self._too_large = self._largest + 1  # the smallest size that is known not to arrive
        self._left = [*self._likely]
        self._number = 0
        self._probe = 0  # bytes of the last probe; 0: it was answered
        self._tries = 0
        self._probe_at = now
        self._raise_at = math.inf

    @property
    def is_complete(self) -> bool:
        return not self._candidate()

    @property
    def deadline(self) -> float:
        """When :meth:`probe` is due, in monotonic seconds."""
        return min(self._probe_at, self._raise_at)

    def probe(self, now: float, round_trip: float) -> tuple[int, int] | None:
        """Size and number of a probe that is to be sent now."""
        if now >= self._raise_at:
            self._too_large, self._left, self._raise_at = self._largest + 1, [*self._likely], math.inf
            self._probe, self._tries, self._probe_at = 0, 0, now
        if now >= self._probe_at and self._tries >= PROBES_MAX:
            self._fail(now)
        if now < self._probe_at:
            return None
        size = self._probe or self._candidate() or self.size
        self._number = (self._number + 1) % (1 << 32)
        self._probe = size
        self._tries += 1
        self._probe_at = now + max(PROBE_SECONDS, 2 * round_trip)
        return size, self._number

    def answered(self, size: int, now: float) -> None:
        """A probe of this size came, whichever it was: a late answer is one."""
        if size != self._probe:
            return
        self.size, self.is_too_narrow = max(self.size, size), False
        self._left = [one for one in self._left if one > self.size]
        self._settle(now)

    def too_large(self, size: int, now: float) -> None:
        """The kernel refused a message of this size (EMSGSIZE): the path's MTU is lower."""
        if size <= BASE_BYTES:
            self.is_too_narrow = True
            self._probe_at = min(self._probe_at, now + NARROW_SECONDS)
            return
        self._too_large = min(self._too_large, size)
        self._left = [one for one in self._left if one < self._too_large]
        if self.size >= size:
            self.size = BASE_BYTES
            self._left = [one for one in self._likely if one < self._too_large]
        self._settle(now)

    def _fail(self, now: float) -> None:
        """Several probes in a row were not answered."""
        size = self._probe
        if size <= self.size:  # a black hole: what arrived before does so no more
            if self.size > BASE_BYTES:
                self._too_large = self.size
            else:
                self.is_too_narrow = True
            self.size = BASE_BYTES
            self._left = [one for one in self._likely if one < self._too_large]
        else:
            self._too_large = min(self._too_large, size)
            self._left = [one for one in self._left if one < self._too_large]
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Go on with the next size, or with the one in use after a while."""
        self._probe, self._tries = 0, 0
        if self._candidate():
            self._probe_at = now
        else:
            self._probe_at = now + (NARROW_SECONDS if self.is_too_narrow else CONFIRM_SECONDS)
            if self._raise_at == math.inf:
                self._raise_at = now + RAISE_SECONDS

    def _candidate(self) -> int:
        """The size to be probed next; 0: there is none."""
        if self._left:
            return self._left[0]
        if self._too_large - self.size > NEAR_BYTES and self._too_large <= self._largest:
            return (self.size + self._too_large) // 2
        return 0
