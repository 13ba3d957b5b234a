"""The control server: several conversations at once, none of which can hold up another.

One thread accepts, and each connection has a thread of its own. Their number is bounded: when it is
reached, the client that has been silent for longest makes room, of those whose process has the most. So
clients that hang cost nobody a turn, and a flood of them costs only itself its connections. Root and the
daemon's own user always get in: some connections are for them alone, and nobody else makes theirs end.
One thread more than there are clients waits for the next. While no more can be had, it serves them in turn.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

from mcastd import clock
from mcastd.control.commands import INTERFACE, Client, Commands, Operations, Watching
from mcastd.control.listener import listen
from mcastd.control.monitor import Monitor
from mcastd.control.peer import Peer, peer_of
from mcastd.control.protocol import CALL_MAX_BYTES, Call, Decoder, ProtocolError, Reply
from mcastd.errors import McastdError, reason_of
from mcastd.log import get_logger
from mcastd.threads import Thread

MAX_CONNECTIONS = 40
MAX_OF_OTHERS = 32  # connections of all users but root and the daemon's own
# Seconds until the next accept() when the process is out of file descriptors or threads.
ACCEPT_RETRY_SECONDS = 1.0
# Seconds that a client may wait for others' calls to end, when there is no room.
ROOM_WAIT_SECONDS = 0.1
# Seconds that a client may wait for a thread, when no other can be had.
THREAD_WAIT_SECONDS = 1.0
NO_THREAD = "mcastd runs, and has no thread left to answer; raise TasksMax= of the service"
log = get_logger()


class ControlServer:
    """Serves ``operations`` by varlink on the Unix socket ``path``, mode 0660.

    ``timeout``: seconds for which a client may be silent, or not read its reply, before it is dropped.
    """

    def __init__(self, path: Path, operations: Operations, *, timeout: float = 30.0) -> None:
        self._path = path
        self._commands = Commands(operations)
        self._monitor = Monitor(operations)
        self._timeout = timeout
        self._listening = ExitStack()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # of those below
        self._busy: dict[socket.socket, bool] = {}  # in a call? The connection silent for longest is first
        self._peers: dict[socket.socket, Peer] = {}
        self._calls_end = threading.Condition(self._lock)
        self._threads: set[threading.Thread] = set()
        self._idle = 0  # threads less connections
        self._admitted: SimpleQueue[socket.socket | None] = SimpleQueue()  # for an idle thread; None: the end
        self._spare = _Spare()

    def start(self) -> None:
        """Raises ControlError if the socket cannot be had, for a reason named in it."""
        with ExitStack() as stack:
            listener = stack.enter_context(listen(self._path))
            acceptor = Thread(target=self._accept, args=(listener,), name="control")
            acceptor.start()
            stack.callback(acceptor.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)  # wakes accept()
            self._spare.save()
            with self._lock, suppress(RuntimeError):  # without: as when it is needed, later
                self._begin_thread()
            self._listening = stack.pop_all()

    def changed(self) -> None:
        """A worker's state has changed: let those know who watch. Never blocks; for any thread."""
        self._monitor.changed()

    def close(self, patience: float = 1.0) -> None:
        """Remove the socket and end every conversation; replies under way get ``patience`` seconds.

        A call that the daemon does not finish in that time is left to its thread, which ends with it.
        """
        self._closing.set()
        with self._lock:
            self._calls_end.notify_all()  # the thread that accepts may wait for one that ends
        self._listening.close()
        self._monitor.close()
        with self._lock:
            connections = list(self._busy)
            self._busy.clear()
            threads = list(self._threads)
            for _ in threads:
                self._admitted.put(None)
            self._spare.spend()  # none is saved any more
        for direction in (socket.SHUT_RD, socket.SHUT_RDWR):  # first hear no more, then say no more
            with self._lock:
                for connection in connections:
                    _shut_down(connection, direction)
            deadline = clock.monotonic() + patience
            for thread in threads:
                thread.join(max(0.0, deadline - clock.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                self._admit(listener.accept()[0])
            except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
                if isinstance(error, OSError) and error.errno == errno.EMFILE and self._spare.spend():
                    continue
                if not self._closing.wait(ACCEPT_RETRY_SECONDS):
                    log.warning("client.refused", reason=reason_of(error))

    def _admit(self, connection: socket.socket) -> None:
        with ExitStack() as unless_admitted, self._lock:
            unless_admitted.callback(connection.close)
            peer = peer_of(connection)
            others = [other for other in self._peers.values() if not _is_privileged(other)]
            full = len(self._busy) >= MAX_CONNECTIONS
            full |= not _is_privileged(peer) and len(others) >= MAX_OF_OTHERS
            if full and not self._make_room(peer):
                return
            if not self._has_thread() and not self._make_room(peer):
                _refuse(connection)
                raise RuntimeError(NO_THREAD)
            self._busy[connection] = False
            self._peers[connection] = peer
            self._idle -= 1
            self._admitted.put(connection)
            with suppress(RuntimeError):  # it is looked for again when it is needed
                self._begin_thread()
            unless_admitted.pop_all()

    def _has_thread(self) -> bool:
        """Have an idle thread, or wait a while for one, with the lock held. Returns True if there is one."""
        if self._idle <= 0:
            try:
                self._begin_thread()
            except RuntimeError:
                self._calls_end.wait_for(
                    lambda: self._closing.is_set() or self._idle > 0, THREAD_WAIT_SECONDS
                )
        return self._idle > 0

    def _begin_thread(self) -> None:
        """Have an idle thread more, unless there is one. The lock is held. Raises RuntimeError."""
        if self._idle <= 0:
            thread = Thread(target=self._stand_by, name="control-client")
            thread.start()
            self._threads.add(thread)
            self._idle += 1

    def _make_room(self, peer: Peer) -> bool:
        """Drop a client for one of the process ``peer``, with the lock held; whether there was one."""

        def silent_of(largest: int) -> socket.socket | None:
            """Return one to drop, of a process with ``largest`` or more: hung up, or idle longest."""
            crowd = [other for other in self._busy if crowds[self._peers[other]] >= largest]
            silent = (other for other in crowd if not self._busy[other])
            return next(filter(_has_hung_up, crowd), None) or next(silent, None)

        privileged = _is_privileged(peer)
        crowds = Counter(other for other in self._peers.values() if privileged or not _is_privileged(other))
        crowds[peer] += 1
        largest = max(crowds.values())
        # While it waits for an answer it is not dropped; most calls are over in no time
        self._calls_end.wait_for(lambda: self._closing.is_set() or silent_of(largest), ROOM_WAIT_SECONDS)
        victim = silent_of(largest) or silent_of(crowds[peer])
        if victim is None:
            return False
        self._busy.pop(victim)
        self._peers.pop(victim)
        _shut_down(victim, socket.SHUT_RDWR)
        return True

    def _stand_by(self) -> None:
        """Serve one connection after another, until there is another thread that is idle."""
        while (connection := self._admitted.get()) is not None:
            self._serve(connection)
            with self._lock:
                if self._idle > 0:
                    break
                self._idle += 1
                self._calls_end.notify_all()
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._converse(connection)
        except (OSError, ProtocolError) as error:  # OSError: gone, or silent for too long
            log.debug("client.dropped", reason=reason_of(error))
        except Exception:
            log.exception("client.dropped")
        with self._lock:  # so that no other thread shuts down a file descriptor that is no longer this one
            connection.close()
            if not self._closing.is_set():
                self._spare.save()
            self._busy.pop(connection, None)
            self._peers.pop(connection, None)

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(self._timeout)
        peer = peer_of(connection)
        client = Client(_is_privileged(peer), lambda: _has_hung_up(connection))
        decoder = Decoder(CALL_MAX_BYTES)
        while data := connection.recv(1 << 16):
            for message in decoder.feed(data):
                call = Call.decode(message)
                del message  # whatever else is in it: the call may take long
                if not self._begin(connection):
                    return
                log.debug("call.received", method=call.method, pid=peer.pid)
                answer = self._commands.answer(call, client)
                reply = self._tell(connection, peer, answer) if isinstance(answer, Watching) else answer
                self._end(connection)
                if reply and not call.oneway:
                    connection.sendall(reply.encode())

    def _tell(self, connection: socket.socket, peer: Peer, watching: Watching) -> Reply | None:
        """Tell a client what changes, for as long as it is there; or the reply that says why not."""
        try:
            self._monitor.tell(connection, watching.interval, privileged=_is_privileged(peer))
        except McastdError as error:
            return Reply({"reason": str(error)}, f"{INTERFACE}.Failed")
        except TimeoutError:
            log.warning("client.dropped", pid=peer.pid, reason="it does not read what it watches")
            raise
        return None

    def _begin(self, connection: socket.socket) -> bool:
        """Return True if the call is to go on, False if the connection was dropped meanwhile."""
        with self._lock:
            if connection not in self._busy:
                return False
            self._busy[connection] = True
            return True

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            if self._busy.pop(connection, False):
                self._busy[connection] = False  # now the one heard of last
                self._calls_end.notify()


def _is_privileged(peer: Peer) -> bool:
    """Return True if the client is root, or the user that the daemon runs as."""
    return peer.uid in (0, os.geteuid())


def _has_hung_up(connection: socket.socket) -> bool:
    """Return True if the client has closed; one that only ended its writing still waits for the answer."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _refuse(connection: socket.socket) -> None:
    """Tell a client that there is no thread for it. A call left unread would drop the reply."""
    connection.settimeout(ROOM_WAIT_SECONDS)
    with suppress(OSError):
        connection.recv(1 << 16)
        connection.sendall(Reply({"reason": NO_THREAD}, f"{INTERFACE}.Failed").encode())


def _shut_down(connection: socket.socket, direction: int) -> None:
    with suppress(OSError):  # it may be gone already
        connection.shutdown(direction)


class _Spare:
    """A file descriptor kept for the time when there is no other: who asks why then still gets an answer."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def save(self) -> None:
        """Have one, if that is possible now."""
        if not self._fds:
            with suppress(OSError):
                self._fds.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    def spend(self) -> bool:
        """Let go of it, for accept(2) to take; whether there was one."""
        try:
            fd = self._fds.pop()  # in one step: it is spent by one thread only
        except IndexError:
            return False
        os.close(fd)
        return True
