"""The other end of the control socket: what ``mcastctl`` speaks through."""

from __future__ import annotations

import socket
from pathlib import Path

from mcastd import clock
from mcastd.control.protocol import REPLY_LIMIT, Call, Decoder, Message, ProtocolError, Reply, VarlinkError
from mcastd.errors import ControlError, reason_of

IS_IT_RUNNING = "is mcastd running? (systemctl status mcastd)"


class ControlClient:
    """A connection to a varlink service's Unix socket. A call may take ``timeout`` seconds in all."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        """Raises ControlError if nobody can be reached."""
        self._what = f"control socket {path}"
        self._timeout = timeout
        self._decoder = Decoder(REPLY_LIMIT)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise self._explained(error) from error

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, /, **parameters: object) -> Message:
        """The reply's parameters. Raises VarlinkError for an error reply, ControlError if there is none.

        After a ControlError the connection is of no further use.
        """
        try:
            reply = self._exchange(Call(method, parameters))
        except OSError as error:
            raise self._explained(error) from error
        except ProtocolError as error:
            raise ControlError(self._what, f"no varlink service: it sent {error}", "see --socket") from error
        if reply.error:
            raise VarlinkError(reply.error, **reply.parameters)
        return reply.parameters

    def _exchange(self, call: Call) -> Reply:
        deadline = clock.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        self._socket.sendall(call.encode())
        while True:
            self._socket.settimeout(max(deadline - clock.monotonic(), 0.001))  # 0 would mean not to wait
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("closed before it replied")
            for message in self._decoder.feed(data):
                return Reply.decode(message)

    def _explained(self, error: OSError) -> ControlError:
        match error:
            case PermissionError():
                return ControlError(self._what, "permission denied", "join group mcastd or use sudo")
            case TimeoutError() | BlockingIOError():  # BlockingIOError: its backlog is full
                return ControlError(self._what, f"no answer within {self._timeout:g} s", IS_IT_RUNNING)
            case _:
                return ControlError(self._what, reason_of(error), IS_IT_RUNNING)
