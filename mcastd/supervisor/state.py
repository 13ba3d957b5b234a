"""The states of a worker, in systemd's words, and every way from one to another: one table."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    INACTIVE = "inactive"  # not running, and not meant to
    ACTIVATING = "activating"  # opening its link, source, outputs
    ACTIVE = "active"  # at work
    DEACTIVATING = "deactivating"  # told to stop: flushing and closing
    AUTO_RESTART = "auto-restart"  # cannot run now, says why, will try again
    FAILED = "failed"  # crashed: a bug of ours; will try again all the same, ever more rarely
    FINISHED = "finished"  # sent all there was to send


class Event(StrEnum):
    START = "start"  # a run begins
    READY = "ready"  # the worker is at work
    ERROR = "error"  # the run ended for a cause that can go away
    CRASH = "crash"  # the run ended by an exception that nobody foresaw
    FINISH = "finish"  # the run ended because all is done
    STOP = "stop"  # the supervisor wants it to end
    END = "end"  # its thread is at its end


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.INACTIVE, Event.START): State.ACTIVATING,
    (State.ACTIVATING, Event.READY): State.ACTIVE,
    (State.ACTIVATING, Event.ERROR): State.AUTO_RESTART,
    (State.ACTIVATING, Event.CRASH): State.FAILED,
    (State.ACTIVATING, Event.FINISH): State.FINISHED,
    (State.ACTIVATING, Event.STOP): State.DEACTIVATING,
    (State.ACTIVE, Event.READY): State.ACTIVE,
    (State.ACTIVE, Event.ERROR): State.AUTO_RESTART,
    (State.ACTIVE, Event.CRASH): State.FAILED,
    (State.ACTIVE, Event.FINISH): State.FINISHED,
    (State.ACTIVE, Event.STOP): State.DEACTIVATING,
    (State.AUTO_RESTART, Event.START): State.ACTIVATING,
    (State.AUTO_RESTART, Event.STOP): State.DEACTIVATING,
    (State.FAILED, Event.START): State.ACTIVATING,
    (State.FAILED, Event.STOP): State.DEACTIVATING,
    (State.FINISHED, Event.STOP): State.FINISHED,
    (State.FINISHED, Event.END): State.FINISHED,
    # Whatever a run still says after it was told to stop, it is stopping
    (State.DEACTIVATING, Event.START): State.DEACTIVATING,
    (State.DEACTIVATING, Event.STOP): State.DEACTIVATING,
    (State.DEACTIVATING, Event.READY): State.DEACTIVATING,
    (State.DEACTIVATING, Event.ERROR): State.DEACTIVATING,
    (State.DEACTIVATING, Event.CRASH): State.DEACTIVATING,
    (State.DEACTIVATING, Event.FINISH): State.DEACTIVATING,
    (State.DEACTIVATING, Event.END): State.INACTIVE,
    # Told to stop before its thread had begun
    (State.INACTIVE, Event.STOP): State.INACTIVE,
    (State.INACTIVE, Event.END): State.INACTIVE,
}

TROUBLED = frozenset({State.AUTO_RESTART, State.FAILED})
"""The states of a worker that should be at work, and cannot."""

ATTEMPTED = frozenset(State) - {State.INACTIVE, State.ACTIVATING}
"""The states in which a worker has had its first attempt, whatever came of it."""


def after(state: State, event: Event) -> State:
    """The state that follows. Raises KeyError for an event that cannot happen in ``state``."""
    return TRANSITIONS[state, event]
