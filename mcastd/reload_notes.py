"""What a reload says of itself: keys that changed, workers in trouble after it, what the last one did."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mcastd.config import Changes
from mcastd.worker import Headline

# A reload that changes nothing says what the last one did, if that is no longer ago: systemd may ask twice.
PAIR_SECONDS = 60.0
# A reload names this many of the workers that are in trouble after it.
TROUBLES_MAX = 5


def taken_over(changes: Changes) -> list[str]:
    """Which keys of [daemon] changed with a reload. Only a restart moves the control socket."""
    keys = [f"daemon.{key}" for key in changes.daemon_changed if key != "control_socket"]
    return [f"changed {', '.join(keys)}"] if keys else []


def troubles_of(
    changes: Changes,
    before: Mapping[str, str],
    waited_for: Collection[str],
    headlines: Sequence[Headline],
) -> list[str]:
    """A note on each new or changed worker that is not ready yet or in trouble; at most TROUBLES_MAX.

    The same for those that did not change, and are in trouble by what they have read again: ``before`` has
    what they said before that. ``waited_for`` had not been tried when the headlines were asked for.
    """
    behind = dict.fromkeys(changes.added, "has not begun yet")
    behind |= dict.fromkeys(changes.changed, "has not taken its change over yet")
    notes = [
        f"{name} {behind[name]}" if name in waited_for else f"{name}: {headline.detail}"
        for headline in headlines
        if (name := headline.name) in behind and (name in waited_for or headline.troubled)
    ]
    rereading = before.keys() - behind.keys()
    notes += [
        f"{name}: {headline.detail}"
        for headline in headlines
        if (name := headline.name) in rereading and headline.troubled and headline.detail != before[name]
    ]
    more = len(notes) - TROUBLES_MAX
    return [*notes[:TROUBLES_MAX], *([f"and {more} more, see mcastctl status"] if more > 0 else [])]


class LastChanges:
    """What the last reload that changed something has changed, and when."""

    def __init__(self) -> None:
        self._last: tuple[float, Changes] | None = None

    def note(self, changes: Changes, now: float, *, rereads: bool) -> list[str]:
        """Take what a reload has changed at monotonic time ``now``. ``rereads``: workers read files again.

        Returns a note for one that changes nothing: what the one shortly before it changed.
        """
        if changes.added or changes.removed or changes.changed or changes.daemon_changed:
            self._last = now, changes
        elif self._last is not None and now - self._last[0] < PAIR_SECONDS:
            at, did = self._last
            since = f"new since the reload {now - at:.1f} s ago: {_words(did)}"
            if rereads:
                return [f"no setting is {since}; keys and tokens were read from their files again"]
            return [f"nothing is {since}"]
        return []


def counts_of(changes: Changes) -> dict[str, int]:
    return {
        "added": len(changes.added),
        "removed": len(changes.removed),
        "changed": len(changes.changed),
        "unchanged": len(changes.unchanged),
    }


def _words(changes: Changes) -> str:
    names = {
        "added": changes.added,
        "removed": changes.removed,
        "changed": (*changes.changed, *(f"daemon.{key}" for key in changes.daemon_changed)),
    }
    return "; ".join(f"{did} {', '.join(of)}" for did, of in names.items() if of)
