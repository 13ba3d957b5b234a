"""The capture that a subscription has made of its last loss, as evidence beside a finding."""

from __future__ import annotations

from mcastd.status import SubscriptionStatus


def captured(status: SubscriptionStatus) -> tuple[str, ...]:
    """Where it is; nothing if there is none."""
    kept = status.kept
    if kept is None or kept.last_capture is None:
        return ()
    return (f"captured ({', '.join(kept.last_reasons)}): {kept.last_capture} (status)",)
