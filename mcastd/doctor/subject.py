"""Whom a check looks at: one worker, as it is configured and as it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.status import S, Told, WorkerView, as_kind

Settings = OutboundChannel | InboundSubscription


@dataclass(frozen=True, slots=True)
class Subject:
    """One channel or subscription. Without a daemon that runs it, ``state`` is empty."""

    name: str  # "inbound/news"
    settings: Settings
    state: str = ""  # see supervisor/state.py
    detail: str = ""  # why it is not active
    status: Told | None = None  # of now
    earlier: Told | None = None  # the status when the watch began
    errno: str = ""  # of the error that the detail tells of: "EPERM"; "" if it has none
    way_out: str = ""  # of this error; or, if there is none, what the worker does meanwhile

    @classmethod
    def of(cls, view: WorkerView, settings: Settings) -> Subject:
        """A worker that runs with these settings."""
        return cls(
            view.name,
            settings,
            view.state,
            view.detail,
            view.status,
            errno=view.errno,
            way_out=view.way_out or view.waits,
        )

    def now(self, kind: type[S]) -> S:
        """Its status; if it is no worker of this kind, one of which nothing is known."""
        return as_kind(kind, self.status)

    def before(self, kind: type[S]) -> S:
        """The same when the watch began."""
        return as_kind(kind, self.earlier)

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
