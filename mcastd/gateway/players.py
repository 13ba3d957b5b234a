"""The connections of players: accepted, read, sent to, and ended.

```
   asking  -- request -->  waiting  -- first datagrams -->  streaming
      |                       |                                |
      +-- refused: why        +-- nothing comes: 504           +-- it goes, or takes nothing
```

What comes costs a player that keeps up one system call, and a few steps of Python. Only what it does not take
goes by its queue, and then the kernel says when it takes more.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.config import GatewaySettings
from mcastd.counters import GatewayCounters
from mcastd.deadlines import Deadlines
from mcastd.errors import LinkError
from mcastd.gateway.client_queue import StreamBlock
from mcastd.gateway.entrances import SHORTAGE
from mcastd.gateway.interest import Interest
from mcastd.gateway.pages import PlayedNow
from mcastd.gateway.places import Places
from mcastd.gateway.player import Player
from mcastd.gateway.rules import GROUP, NAME, TOKEN, NameRefusal, PlayerRefusal, PlayerRules
from mcastd.gateway.streams import StreamPiece, Streams
from mcastd.ip import Address, host_of
from mcastd.net.tcp_socket import TIMEOUT_MILLISECONDS, be_watchful, close_at_once
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.protocols.http_request import HttpRefusal, HttpRequest
from mcastd.status import PlayerStatus

# Connections that have not asked yet, or have got an answer, beside the players that are served.
ASKING_MAX = 256
READ_BYTES = 4096
# Players that a status has.
LISTED_MAX = 200
# The reason of datagrams that a player did not take in time.
SLOW = "slow"
# Reasons of connections and requests that were refused.
CLIENT, FULL, PER_ADDRESS, REQUEST = "client", "full", "per-address", "request"
NO_WAY, SILENT = "no-way", "silent"
REFUSALS = (CLIENT, FULL, GROUP, NAME, NO_WAY, PER_ADDRESS, REQUEST, SHORTAGE, SILENT, TOKEN)
# Why the stream of a player has ended.
GONE, UNREACHABLE, STALLED, STOPPED = "gone", "unreachable", "stalled", "stopped"
NOT_ALLOWED = "not-allowed"
ENDINGS = (GONE, NOT_ALLOWED, STALLED, STOPPED, UNREACHABLE)
# What setsockopt(2) takes; characters of the name of a host (RFC 1035 section 2.3.4).
INT_MAX = 2**31 - 1
HOST_NAME_MAX = 253

READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Connection(NamedTuple):
    sock: socket.socket
    player: Player
    host: Address  # that it counts for


class Players:
    """All connections, by descriptor. Times are monotonic seconds."""

    def __init__(
        self, rules: PlayerRules, streams: Streams, interest: Interest, counters: GatewayCounters
    ) -> None:
        self.refused_name = ""  # by which this host was asked for, and that is none of its names: the last
        self._rules = rules
        self._streams = streams
        self._interest = interest
        self._counters = counters
        self._by_fd: dict[int, Connection] = {}  # changed by the worker's thread alone; others copy it
        self._deadlines = Deadlines[int]()  # by descriptor
        self._places = Places()

    def __contains__(self, fd: int) -> bool:
        return fd in self._by_fd

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due; inf: never."""
        return self._deadlines.first

    @property
    def settings(self) -> GatewaySettings:
        return self._rules.settings

    # -- for any thread

    @property
    def served(self) -> int:
        """Players that have a stream, or wait for its first datagram."""
        return max(0, len(self._by_fd) - self._places.asking)

    @property
    def connections(self) -> int:
        return len(self._by_fd)

    def listed(self, now: float) -> tuple[PlayerStatus, ...]:
        return tuple(_listed(one.player, now) for one in list(self._by_fd.values())[:LISTED_MAX])

    # -- what happens

    def add(self, sock: socket.socket, address: Address, now: float) -> None:
        """Somebody has connected."""
        if not self._rules.allows_client(address):
            self._counters.refused[CLIENT] += 1
            sock.close()
            return
        if self._places.asking >= ASKING_MAX:
            self._counters.refused[FULL] += 1
            self._drop(self._places.first_asking(), GONE, now)
        _watch_over(sock, self.settings.stall)
        fd, answered = sock.fileno(), self._counters.answered
        player = Player(str(address), self.settings.client_buffer, now, answered, fd)
        self._by_fd[fd] = connection = Connection(sock, player, host_of(address))
        self._places.ask(fd, connection.host)
        self._settle(fd, player)

    def see_to(self, fd: int, events: int, now: float) -> None:
        """The kernel has ``events`` of poll(2) for a connection."""
        if events & READABLE:
            self._read(fd, now)
        elif events & select.POLLRDHUP:
            self._half_close(fd, now)
        if events & select.POLLOUT and fd in self._by_fd:
            self._send(fd, now)

    def give(self, piece: StreamPiece, now: float) -> None:
        """Have players get what has come: at once, where nothing waits that came before."""
        by_fd, block = self._by_fd, piece.block
        data, size, whole = block.data, len(block.data), 0
        for player in piece.players:
            if not player.keeps_up:
                self._add(player, piece, now)
                continue
            try:
                went = by_fd[player.fd].sock.send(data)
            except BlockingIOError:
                went = 0
            except OSError as error:
                self._drop(player.fd, _reason_of_end(error), now)
                continue
            if went == size:
                player.queue.passed(block)
                whole += 1
            else:
                self._fall_behind(player, block, went, now)
        self._counters.sent += whole * block.datagrams
        self._counters.sent_bytes += whole * size

    def tick(self, now: float) -> None:
        """End what takes too long."""
        for fd in self._deadlines.due(now):
            deadline = self._by_fd[fd].player.deadline
            if now >= deadline:
                self._expire(fd, now)
            else:
                self._deadlines.hasten(fd, deadline)

    def follow(self, rules: PlayerRules, now: float) -> None:
        """Go by other rules. Those who may not have any more what they have are ended."""
        before, self._rules = self._rules, rules
        if rules == before:  # the network has changed, which it may do often
            return
        for fd, (sock, player, _) in [*self._by_fd.items()]:
            resource = player.resource
            may_have = rules.allows_client(ip_address(player.address)) and (
                resource is None or (rules.token == before.token and rules.allows_group(resource.group))
            )
            if not may_have:
                self._drop(fd, NOT_ALLOWED, now)
            elif rules.settings.stall != before.settings.stall:
                _watch_over(sock, rules.settings.stall)

    def close(self, now: float) -> None:
        for fd in [*self._by_fd]:
            self._drop(fd, STOPPED, now)

    # -- a connection

    def _read(self, fd: int, now: float) -> None:
        sock, player, _ = self._by_fd[fd]
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(fd, _reason_of_end(error), now)
            return
        if not data:
            self._half_close(fd, now)
            return
        try:
            if (request := player.feed(data)) is not None:
                self._serve(fd, request, now)
        except HttpRefusal as refusal:
            reason = refusal.reason if isinstance(refusal, PlayerRefusal) else REQUEST
            if isinstance(refusal, NameRefusal):
                self.refused_name = refusal.name[:HOST_NAME_MAX]
            self._counters.refused[reason] += 1
            player.refuse(refusal, now)
        self._settle(fd, player)
        if len(player.queue):
            self._send(fd, now)

    def _half_close(self, fd: int, now: float) -> None:
        """It has closed its direction of the connection: it is sent what it has asked for (RFC 9293 3.6)."""
        _, player, host = self._by_fd[fd]
        has_all = player.ends and not len(player.queue)
        if player.is_half_closed or has_all or (player.request is None and not player.ends):
            self._drop(fd, GONE, now)
            return
        player.half_close(now)
        if player.resource is not None:
            self._places.half_close(fd, host)
        self._settle(fd, player)

    def _serve(self, fd: int, request: HttpRequest, now: float) -> None:
        """Give what is asked for. Raises HttpRefusal."""
        connection = self._by_fd[fd]
        player = connection.player
        self._counters.requests += 1
        shown = self._streams.shown
        resource = self._rules.asked_for(request, lambda: PlayedNow(self.served, shown(now)), now)
        if not isinstance(resource, StreamResource):
            player.answer(200, resource.kind, resource.body, now, resource.fields)
        elif request.method == "HEAD":
            player.answer_head(now)
        else:
            self._require_room(connection.host, now)
            try:
                self._streams.enter(player, resource, now)
            except LinkError as error:
                raise PlayerRefusal(503, str(error), NO_WAY) from error
            player.wait_for(resource, now + self.settings.first_data, now)
            self._places.serve(fd, connection.host)

    def _require_room(self, host: Address, now: float) -> None:
        """Raises HttpRefusal if no more players are served, of this host or at all."""
        settings, of_host = self.settings, self._places.served_of(host)
        if of_host >= settings.max_per_address and not self._makes_way(now, host):
            where = "your address" if host.version == 4 else "your network"
            raise PlayerRefusal(429, f"{of_host} players of {where} are served, and no more", PER_ADDRESS)
        if self.served >= settings.max_clients and not self._makes_way(now):
            raise PlayerRefusal(503, f"{self.served} players are served, and no more", FULL)

    def _makes_way(self, now: float, host: Address | None = None) -> bool:
        """End a player that has closed its end, if there is one, of a host or of any.

        It has gone as a rule, which only the answer to more data tells: who comes in its place is there now.
        """
        if (fd := self._places.first_half_closed(host)) is None:
            return False
        self._drop(fd, GONE, now)
        return True

    def _add(self, player: Player, piece: StreamPiece, now: float) -> None:
        """Have it wait. Where something did before, the kernel says when there is room for more."""
        waits = player.queue.size > 0
        player.take(piece.payloads, piece.block, now)
        if waits:
            self._count_dropped(player)
        elif player.queue.size:
            self._send(player.fd, now)

    def _fall_behind(self, player: Player, block: StreamBlock, went: int, now: float) -> None:
        """It has kept up, and took but ``went`` bytes of a block."""
        player.queue.add(block)
        player.queue.went(went)
        self._counters.sent_bytes += went
        player.went(went, now, self.settings.stall)
        self._settle(player.fd, player)

    def _send(self, fd: int, now: float) -> None:
        sock, player, _ = self._by_fd[fd]
        queue, counters = player.queue, self._counters
        sent, size = queue.sent, queue.sent_bytes
        failure = ""
        try:
            while buffers := queue.buffers():
                queue.went(sock.sendmsg(buffers) if len(buffers) > 1 else sock.send(buffers[0]))
        except BlockingIOError:
            pass
        except OSError as error:
            failure = _reason_of_end(error)
        counters.sent += queue.sent - sent
        counters.sent_bytes += queue.sent_bytes - size
        if failure:
            self._drop(fd, failure, now)
            return
        self._count_dropped(player)
        player.went(queue.sent_bytes - size, now, self.settings.stall)
        if player.ends and not len(queue):
            if player.is_half_closed:
                self._drop(fd, GONE, now)
                return
            _finish(sock)
        self._settle(fd, player)

    def _settle(self, fd: int, player: Player) -> None:
        """Wait for what the player waits for, and until it has to have happened."""
        if player.is_half_closed:
            events = 0  # its end could be read for ever
        elif player.resource is None:
            events = select.POLLIN
        else:
            events = select.POLLRDHUP  # what it sends behind its request is left where it is, and stops it
        self._interest.want(fd, events | (select.POLLOUT if len(player.queue) else 0))
        self._deadlines.hasten(fd, player.deadline)

    def _expire(self, fd: int, now: float) -> None:
        connection = self._by_fd[fd]
        player = connection.player
        if player.ends or player.has_begun:  # it takes neither its answer nor its stream, or has gone
            is_stuck = len(player.queue) > 0
            self._drop(fd, STALLED if is_stuck else GONE, now, at_once=is_stuck or player.ends)
            return
        if (resource := player.resource) is None:
            self._counters.refused[REQUEST] += 1
            player.refuse(HttpRefusal(408, "the request takes too long"), now)
        else:
            self._counters.refused[SILENT] += 1
            why = self._streams.why_nothing(resource, player.since)
            self._release(fd, connection, now)
            player.refuse(HttpRefusal(504, why), now)
        self._send(fd, now)

    def _drop(self, fd: int, reason: str, now: float, *, at_once: bool = False) -> None:
        """End a connection; ``at_once``: with all that waits in the kernel for it."""
        connection = self._by_fd[fd]
        if connection.player.has_begun:
            self._counters.ended[reason] += 1
        self._release(fd, connection, now)
        self._count_dropped(connection.player)
        del self._by_fd[fd]
        self._places.leave(fd, connection.host)
        self._interest.forget(fd)
        self._deadlines.set(fd, math.inf)
        if at_once:
            close_at_once(connection.sock)
        else:
            connection.sock.close()

    def _release(self, fd: int, connection: Connection, now: float) -> None:
        """It has no stream any more."""
        player = connection.player
        if (resource := player.resource) is None:
            return
        player.resource = None
        self._streams.leave(player, resource, now)
        self._places.release(fd, connection.host)

    # -- accounts

    def _count_dropped(self, player: Player) -> None:
        if (dropped := player.queue.dropped) != player.counted_dropped:
            self._counters.dropped[SLOW] += dropped - player.counted_dropped
            player.counted_dropped = dropped


def _watch_over(sock: socket.socket, stall: float) -> None:
    """Have the kernel find out that a player is no more: later than we say that it has stalled."""
    timeout = max(TIMEOUT_MILLISECONDS, min(int(2000 * stall), INT_MAX))
    with contextlib.suppress(OSError):  # it has gone already, which the next read tells
        be_watchful(sock, timeout)


def _reason_of_end(error: OSError) -> str:
    """A peer that has closed its end, or one that does not answer any more."""
    return GONE if isinstance(error, ConnectionError) else UNREACHABLE


def _finish(sock: socket.socket) -> None:
    """An answer has gone: let the player close, so that nothing of it is lost (RFC 9112 section 9.6)."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _listed(player: Player, now: float) -> PlayerStatus:
    return PlayerStatus(
        address=player.address,
        path=player.path,
        seconds=now - player.since,
        sent=player.queue.sent,
        dropped=player.queue.dropped,
        held_bytes=player.queue.size,
    )
