"""Whom a check looks at: one worker, as it is configured and as it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcastd.config import InboundSubscription, OutboundChannel

Settings = OutboundChannel | InboundSubscription


@dataclass(frozen=True, slots=True)
class Subject:
    """One channel or subscription. Without a daemon that runs it, ``state`` is empty."""

    name: str  # "inbound/news"
    settings: Settings
    state: str = ""  # see supervisor/state.py
    detail: str = ""  # why it is not active
    status: Mapping[str, Any] = field(default_factory=dict)  # of now: Worker.status()
    earlier: Mapping[str, Any] = field(default_factory=dict)  # the status when the watch began
    errno: str = ""  # of the error that the detail tells of: "EPERM"; "" if it has none
    way_out: str = ""  # of this error; or, if there is none, what the worker does meanwhile

    @property
    def table(self) -> str:
        """Where it is configured: ``[inbound.news]``."""
        return f"[{self.name.replace('/', '.', 1)}]"

    @property
    def running(self) -> bool:
        return self.state == "active"


def named(name: str | None, known: Iterable[str]) -> set[str]:
    """Which of the ``known`` workers a name means: "inbound/news", or "news" of either kind; None is all."""
    return {one for one in known if name is None or name in (one, one.partition("/")[2])}
