"""The other end of the control socket: what ``mcastctl`` speaks through."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mcastd import clock
from mcastd.codec import from_json
from mcastd.control import definition
from mcastd.control.peer import peer_of
from mcastd.control.protocol import (
    REPLY_MAX_BYTES,
    Call,
    Decoder,
    Message,
    ProtocolError,
    Reply,
    VarlinkError,
)
from mcastd.errors import ControlError, reason_of
from mcastd.views import DaemonView, ReloadView, WorkerView

# Seconds until the next attempt while many others connect.
CONNECT_RETRY_SECONDS = 0.01
IS_IT_RUNNING = "is mcastd running? (systemctl status mcastd)"


class ControlClient:
    """A connection to a varlink service's Unix socket. A call may take ``timeout`` seconds in all."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        """Raises ControlError if nobody can be reached."""
        self._what = f"control socket {path}"
        self._timeout = timeout
        self._decoder = Decoder(REPLY_MAX_BYTES)
        self._method = ""  # that is called
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._connect(str(path))
        except OSError as error:
            self._socket.close()
            raise self._explained(error) from error

    def _connect(self, path: str) -> None:
        deadline = clock.monotonic() + self._timeout
        while True:
            try:
                return self._socket.connect(path)
            except BlockingIOError:  # its backlog is full, and it does not wait for room: unix(7)
                if clock.monotonic() >= deadline:
                    raise
                time.sleep(CONNECT_RETRY_SECONDS)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, /, **parameters: object) -> Message:
        """The reply's parameters. Raises VarlinkError for an error reply, ControlError if there is none.

        After a ControlError the connection is of no further use.
        """
        deadline = self._send(Call(method, parameters))
        while not (replies := self._receive(deadline)):
            pass
        return replies[0].parameters

    def workers(self) -> list[WorkerView]:
        """All workers. Raises as :meth:`call` does."""
        return [from_json(WorkerView, worker) for worker in self.call("io.mcastd.List")["workers"]]

    def describe(self) -> DaemonView:
        return from_json(DaemonView, self.call("io.mcastd.Describe"))

    def reload(self) -> ReloadView:
        return from_json(ReloadView, self.call("io.mcastd.Reload"))

    @property
    def pid(self) -> int:
        """The process that answers, by the kernel's word and not its own; 0 if we do not see it."""
        return peer_of(self._socket).pid

    def stream(self, method: str, /, **parameters: object) -> Iterator[Message]:
        """The parameters of each reply of a method that has several, until the service ends it.

        Raises as :meth:`call` does; each reply may take ``timeout`` seconds.
        """
        deadline = self._send(Call(method, parameters, more=True))
        while True:
            for reply in self._receive(deadline):
                yield reply.parameters
                if not reply.continues:
                    return
                deadline = clock.monotonic() + self._timeout

    def begin(self, method: str, /, **parameters: object) -> None:
        """Call a method that has several replies; they are for :meth:`receive`."""
        self._send(Call(method, parameters, more=True))

    def fileno(self) -> int:
        """Readable when :meth:`receive` will not block."""
        return self._socket.fileno()

    def receive(self) -> list[Reply]:
        """The replies that one read completes, maybe none. Raises as :meth:`call` does."""
        return self._receive(clock.monotonic() + self._timeout)

    def _send(self, call: Call) -> float:
        """Until when the reply has to be there."""
        deadline = clock.monotonic() + self._timeout
        self._method = call.method
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(call.encode())
        except OSError as error:
            raise self._explained(error) from error
        return deadline

    def _receive(self, deadline: float) -> list[Reply]:
        try:
            self._socket.settimeout(max(deadline - clock.monotonic(), 0.001))  # 0 would mean not to wait
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("closed before it replied")
            replies = [Reply.decode(message) for message in self._decoder.feed(data)]
        except OSError as error:
            raise self._explained(error) from error
        except ProtocolError as error:
            raise ControlError(self._what, f"no varlink service: it sent {error}", "see --socket") from error
        for reply in replies:
            if reply.error:
                raise VarlinkError(reply.error, **reply.parameters)
        return [replace(reply, parameters=self._fitted(reply.parameters)) for reply in replies]

    def _fitted(self, parameters: Message) -> Message:
        try:
            return definition.mcastd().fitted(self._method, parameters)
        except ProtocolError as error:
            way_out = "it is another version, or no mcastd: restart it, or see --socket"
            raise ControlError(self._what, f"not understood: it sent {error}", way_out) from error

    def _explained(self, error: OSError) -> ControlError:
        match error:
            case PermissionError():
                return ControlError(self._what, "permission denied", "join group mcastd or use sudo")
            case TimeoutError() | BlockingIOError():  # BlockingIOError: its backlog is full
                return ControlError(self._what, f"no answer within {self._timeout:g} s", IS_IT_RUNNING)
            case _:
                return ControlError(self._what, reason_of(error), IS_IT_RUNNING)
