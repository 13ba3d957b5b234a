"""What a reload has to do: the difference of two configurations, by worker."""

from __future__ import annotations

from dataclasses import dataclass

from mcastd.config.whole import Config


@dataclass(frozen=True, slots=True)
class Changes:
    """Full names of workers, ``removed`` in the old configuration's order, all others in the new one's."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    daemon_changed: tuple[str, ...] = ()  # keys of [daemon]


def diff(old: Config, new: Config) -> Changes:
    """What is different in ``new``. A worker is changed if any of its effective settings is."""
    before, after = old.workers(), new.workers()
    kept = [name for name in after if name in before]
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in kept if before[name] != after[name]),
        unchanged=tuple(name for name in kept if before[name] == after[name]),
        daemon_changed=tuple(key for key, value in new.daemon if value != getattr(old.daemon, key)),
    )
