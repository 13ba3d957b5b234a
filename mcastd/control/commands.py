"""What can be asked over the control socket, and what the daemon has to offer for it.

The definition that clients read is ``io.mcastd.varlink``; a test holds this module to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Protocol

from mcastd import __version__
from mcastd.codec import as_json
from mcastd.control.monitor import INTERVAL_MAX_SECONDS
from mcastd.control.protocol import LONGEST_WATCH_SECONDS, SERVICE, Call, Message, Reply, VarlinkError
from mcastd.errors import ConfigError, McastdError
from mcastd.log import get_logger
from mcastd.pauses import with_pauses
from mcastd.views import DaemonView, ReloadView, WorkerView
from mcastd.worker import Headline, Vitals

INTERFACE = "io.mcastd"
MONITOR = f"{INTERFACE}.Monitor"
DOCTOR = f"{INTERFACE}.Doctor"
# Seconds for which the doctor watches, unless the client gives another time.
WATCH_SECONDS = 1.0
TEXT = (str,)
# Calls that may take long, at the same time; root and the daemon's own user have as many for themselves.
# Together they leave some of the server's connections to clients that only look.
MAX_EXAMINATIONS, MAX_CHANGES = 4, 4
# How long a change waits for its turn while others are under way.
CHANGE_WAIT_SECONDS = 2.0
log = get_logger()


@dataclass(frozen=True, slots=True)
class Watching:
    """The answer to a call that wants not one reply but many: what has changed, each ``interval`` seconds."""

    interval: float


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls."""

    privileged: bool = True  # root, or the daemon's own user: others do not take up their turns
    gone: Callable[[], bool] = lambda: False  # returns True if it has hung up


# A caller in this process.
IN_PROCESS = Client()


class NoSuchWorker(KeyError):
    """There is no worker of this full name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


class Operations(Protocol):
    """The daemon, as its clients can use it. Called from several threads at once; calls may block.

    Worker names are full here ("inbound/news"); :class:`NoSuchWorker` is raised for any other. A
    :class:`~mcastd.errors.McastdError` is told to the client in its own words.
    """

    def describe(self) -> DaemonView: ...

    def list_workers(self) -> Sequence[WorkerView]: ...

    def get_worker(self, name: str) -> WorkerView: ...

    def headlines(self) -> Sequence[Headline]:
        """What can be told of all workers without asking them; never blocks."""

    def vitals(self) -> Mapping[str, Vitals]:
        """What each worker has done; never blocks."""

    def doctor(self, name: str | None, watch: float, probe: bool, gone: Callable[[], bool]) -> Message:
        """The whole reply, after ``watch`` seconds, or soon after ``gone`` is true.

        A name may also be the last part of one, or of two.
        """

    def reload(self) -> ReloadView:
        """Raises ConfigError if the new configuration is refused."""

    def reopen(self) -> None: ...

    def start(self, name: str) -> None: ...

    def stop(self, name: str) -> None: ...


class Commands:
    """Answers calls by asking ``operations``."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        # The definitions are read once: a package upgrade must not change what this process says of itself.
        here = Path(__file__).parent
        self._interfaces = {name: (here / f"{name}.varlink").read_text() for name in (SERVICE, INTERFACE)}
        examining = _Turns("examine", MAX_EXAMINATIONS, 0.0)
        changing = _Turns("change anything", MAX_CHANGES, CHANGE_WAIT_SECONDS)
        names = ("Reload", "Reopen", "Start", "Stop")
        self._turns = {f"{INTERFACE}.{name}": changing for name in names} | {DOCTOR: examining}
        # By method: what it calls, and its parameters with their types; what may be None may be absent
        self._methods: dict[str, tuple[Callable[..., Message | None], dict[str, tuple[type, ...]]]] = {
            f"{SERVICE}.GetInfo": (self._get_info, {}),
            f"{SERVICE}.GetInterfaceDescription": (self._get_description, {"interface": TEXT}),
            f"{INTERFACE}.Describe": (lambda: as_json(operations.describe()), {}),
            f"{INTERFACE}.List": (self._list, {}),
            f"{INTERFACE}.Get": (
                lambda name: {"worker": as_json(operations.get_worker(name))},
                {"name": TEXT},
            ),
            DOCTOR: (
                self._doctor,
                {"name": (str, NoneType), "watch": (float, int, NoneType), "probe": (bool, NoneType)},
            ),
            f"{INTERFACE}.Reload": (lambda: as_json(operations.reload()), {}),
            f"{INTERFACE}.Reopen": (operations.reopen, {}),
            f"{INTERFACE}.Start": (operations.start, {"name": TEXT}),
            f"{INTERFACE}.Stop": (operations.stop, {"name": TEXT}),
        }

    def answer(self, call: Call, client: Client = IN_PROCESS) -> Reply | Watching:
        """The reply to ``call``; every failure becomes an error reply."""
        try:
            result = self._perform(call, client)
            return result if isinstance(result, Watching) else Reply(result)
        except VarlinkError as error:
            return Reply(error.parameters, error.name)
        except NoSuchWorker as error:
            known = [worker.name for worker in self._operations.list_workers()]
            return Reply({"name": error.name, "known": known}, f"{INTERFACE}.NoSuchWorker")
        except ConfigError as error:
            return Reply({"problems": [str(p) for p in error.problems]}, f"{INTERFACE}.ConfigInvalid")
        except McastdError as error:
            return Reply({"reason": str(error)}, f"{INTERFACE}.Failed")
        except Exception as error:  # a bug, which must not cost the client its answer
            log.exception("call.failed", method=call.method)
            return Reply({"reason": f"internal error: {error!r}; see the log"}, f"{INTERFACE}.Failed")

    def _perform(self, call: Call, client: Client) -> Message | Watching:
        interface = call.method.rpartition(".")[0]
        if interface not in self._interfaces:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", interface=interface)
        if call.method not in self._methods and call.method != MONITOR:
            raise VarlinkError(f"{SERVICE}.MethodNotFound", method=call.method)
        if call.upgrade:  # no method of ours changes the protocol
            raise VarlinkError(f"{SERVICE}.MethodNotImplemented", method=call.method)
        if call.method == MONITOR:
            return _watching(call)
        perform, types = self._methods[call.method]
        for name in (*types, *call.parameters):
            if name not in types or type(call.parameters.get(name)) not in types[name]:
                raise VarlinkError(f"{SERVICE}.InvalidParameter", parameter=name)
        if call.method == DOCTOR:
            perform = partial(perform, client.gone)
        with self._turns[call.method].take(client) if call.method in self._turns else nullcontext():
            return perform(**call.parameters) or {}

    def _list(self) -> Message:
        return {"workers": [as_json(view) for view in with_pauses(self._operations.list_workers())]}

    def _get_info(self) -> Message:
        return {
            "vendor": "mcastd",
            "product": "mcastd",
            "version": __version__,
            "url": "",
            "interfaces": list(self._interfaces),
        }

    def _doctor(
        self,
        gone: Callable[[], bool],
        name: str | None = None,
        watch: float | None = None,
        probe: bool | None = None,
    ) -> Message:
        seconds = WATCH_SECONDS if watch is None else float(watch)
        if not 0 <= seconds <= LONGEST_WATCH_SECONDS:
            raise VarlinkError(f"{SERVICE}.InvalidParameter", parameter="watch")
        return self._operations.doctor(name, seconds, bool(probe), gone)

    def _get_description(self, interface: str) -> Message:
        if interface not in self._interfaces:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", interface=interface)
        return {"description": self._interfaces[interface]}


class _Turns:
    """Lets up to ``most`` calls run at the same time, and as many of privileged clients beside them."""

    def __init__(self, doing: str, most: int, patience: float) -> None:
        self._doing = doing
        self._most = most
        self._patience = patience
        self._left = {privileged: threading.BoundedSemaphore(most) for privileged in (False, True)}

    @contextmanager
    def take(self, client: Client) -> Iterator[None]:
        """Raises McastdError if there is no turn for it within ``patience`` seconds."""
        left = self._left[client.privileged]
        if not left.acquire(timeout=self._patience):
            raise McastdError(
                f"cannot {self._doing} now", f"{self._most} clients are at it already", "try again later"
            )
        try:
            yield
        finally:
            left.release()


def _watching(call: Call) -> Watching:
    if not call.more or call.oneway:
        raise VarlinkError(f"{SERVICE}.ExpectedMore")
    for name in call.parameters.keys() - {"interval"}:
        raise VarlinkError(f"{SERVICE}.InvalidParameter", parameter=name)
    match call.parameters.get("interval"):
        case None:
            return Watching(1.0)
        case bool():
            pass
        # A NaN is not within these
        case int() | float() as interval if 0 <= interval <= INTERVAL_MAX_SECONDS:
            return Watching(interval)
    raise VarlinkError(f"{SERVICE}.InvalidParameter", parameter="interval")
