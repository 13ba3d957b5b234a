"""What a check looks at: one worker, as it is configured and as it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeGuard, TypeVar

from mcastd.config import InboundSubscription, WorkerSettings
from mcastd.names import is_meant
from mcastd.status import SubscriptionStatus
from mcastd.views import AnyStatus, S, WorkerView, as_kind

Kind = TypeVar("Kind", bound=WorkerSettings)
Settings_co = TypeVar("Settings_co", bound=WorkerSettings, covariant=True)


@dataclass(frozen=True, slots=True)
class Subject(Generic[Settings_co]):
    """One worker, by its settings' type. Without a daemon that runs it, ``state`` is empty."""

    name: str  # "inbound/news"
    settings: Settings_co
    state: str = ""  # see supervisor/state.py
    detail: str = ""  # why it is not active
    status: AnyStatus | None = None  # of now
    earlier: AnyStatus | None = None  # the status when the watch began
    errno: str = ""  # of the error that the detail tells of: "EPERM"; "" if it has none
    way_out: str = ""  # of this error
    waits: str = ""  # what the worker does meanwhile: "trying again"
    since: float = 0.0  # seconds that it has been in this state
    troubled: bool = False  # it is not as it should be
    key: str = ""  # in its table, of the leg or copy that it stands for: "legs[1]"; "" is the whole

    @staticmethod
    def of(view: WorkerView, settings: WorkerSettings) -> Subject[WorkerSettings]:
        """A worker that runs with these settings."""
        return Subject(
            view.name,
            settings,
            view.state,
            view.detail,
            view.status,
            errno=view.errno,
            way_out=view.way_out,
            waits=view.waits,
            since=view.since,
            troubled=view.troubled,
        )

    def now(self, kind: type[S]) -> S:
        """Its status; if it is no worker of this kind, one of which nothing is known."""
        return as_kind(kind, self.status)

    def before(self, kind: type[S]) -> S:
        """The same when the watch began."""
        return as_kind(kind, self.earlier)

    @property
    def table(self) -> str:
        """Where it is configured: ``[inbound.news]``, or ``legs[1] of [inbound.news]``."""
        table = f"[{self.name.replace('/', '.', 1)}]"
        return f"{self.key} of {table}" if self.key else table

    @property
    def running(self) -> bool:
        return self.state == "active"


def by_leg(subject: Subject[WorkerSettings]) -> list[Subject[WorkerSettings]]:
    """A subscription once for each of its legs, as if that were all of it; any other worker as it is."""
    settings = subject.settings
    if not isinstance(settings, InboundSubscription) or not settings.legs:
        return [subject]
    return [
        replace(
            subject,
            settings=leg,
            status=_of_leg(subject.status, index, leg),
            earlier=_of_leg(subject.earlier, index, leg),
            key=f"legs[{index}]",
        )
        for index, leg in enumerate(settings.by_leg())
    ]


def _of_leg(status: AnyStatus | None, index: int, settings: InboundSubscription) -> AnyStatus | None:
    """A status with what one leg has received in place of what all have."""
    if status is None:
        return None
    known = as_kind(SubscriptionStatus, status)
    memberships = tuple(one for one in known.memberships if one.group == str(settings.group))
    if index >= len(known.legs):  # the daemon does not run this leg
        return replace(known, memberships=memberships)
    leg = known.legs[index]
    return replace(
        known,
        counters=replace(
            known.counters, received=leg.received, received_bytes=leg.received_bytes, overflow=leg.overflow
        ),
        memberships=tuple(one for one in memberships if one.interface in leg.joined or one.actual is None),
    )


def is_of(subject: Subject[WorkerSettings], kind: type[Kind]) -> TypeGuard[Subject[Kind]]:
    """Return True if the subject is a worker with this kind of settings."""
    return isinstance(subject.settings, kind)


def counted_more(now: Mapping[str, int], before: Mapping[str, int], reason: str) -> int:
    """How many of a reason were counted while it was watched."""
    return now.get(reason, 0) - before.get(reason, 0)


def named(name: str | None, known: Iterable[str]) -> set[str]:
    """Which of the ``known`` workers a name means: "inbound/news", or "news" of any kind; None is all."""
    return {one for one in known if name is None or is_meant(one, name)}
