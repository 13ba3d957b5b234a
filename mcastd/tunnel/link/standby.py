"""Which of two links to one site is in use, where each of them leads to another daemon there.

```
   both are up      the one in use goes on; the first one is, as soon as its peer wants what the other's does
   one is up        that one
```

A daemon that has just begun does not know yet what members there want: until it does, or could, the one that
stood by goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite

# By then members have answered a daemon that asks them for the first time: RFC 3376 section 8.3.
TAKE_OVER_SECONDS = 12.0


class Standbys:
    """Of all links of a host. For one thread."""

    def __init__(self, site: LinkSite, running: Mapping[str, RunningLink]) -> None:
        self.deadline = math.inf  # when settle() is due though nothing has come, in monotonic seconds
        self._site = site
        self._running = running
        self._up_since: dict[str, float] = {}  # by name of a first one, in monotonic seconds
        self._pairs: frozenset[str] = frozenset()  # names of all that are one of two

    def links_changed(self) -> None:
        """Links began or ended, or are of other plans."""
        self.deadline = -math.inf

    def concerns(self, links: Iterable[RunningLink]) -> bool:
        """Return True if something that happened to one of these may have another link rest."""
        return bool(self._pairs) and any(link.name in self._pairs for link in links)

    def settle(self, now: float) -> bool:
        """Have one of each two links rest. Returns True if it is another one than before."""
        self.deadline = math.inf
        resting: set[str] = set()
        pairs = [link for link in self._running.values() if link.plan.standby_of]
        self._pairs = frozenset(name for link in pairs for name in (link.name, link.plan.standby_of))
        for link in pairs:
            first = self._running.get(link.plan.standby_of)
            if first is None or not first.end.is_up:
                self._up_since.pop(link.plan.standby_of, None)
                continue
            self._up_since.setdefault(first.name, now)
            in_use = link.end.is_up and not self._site.links[link.name].rests
            resting.add(first.name if in_use and not self._takes_over(first, link, now) else link.name)
        is_changed = False
        for name, in_site in self._site.links.items():
            if in_site.rests != (name in resting):
                in_site.rests = name in resting
                is_changed = True
        return is_changed

    def _takes_over(self, first: RunningLink, link: RunningLink, now: float) -> bool:
        wanted = {(want.groups, want.sources) for want in first.end.peer_wants.wants}
        if all((want.groups, want.sources) in wanted for want in link.end.peer_wants.wants):
            return True
        at = self._up_since[first.name] + TAKE_OVER_SECONDS
        if now < at:
            self.deadline = min(self.deadline, at)
        return now >= at
