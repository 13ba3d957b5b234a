"""The worker of a ``[gateway.NAME]``: one thread for all players and all groups.

```
   a player  -- request -->  joined, if it may be  -- first datagrams -->  streaming
                                 |                                            |
                                 +-- nothing comes: 504                       +-- it goes; the group lingers
```

While somebody has a group, what comes is taken each ``max_latency``: so much of it goes with each call.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from operator import itemgetter

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import GatewaySettings, label_of, split_end
from mcastd.counters import GatewayCounters, copy_of
from mcastd.errors import LinkError, reason_of
from mcastd.gateway.player import Player
from mcastd.gateway.streams import JoinedStream
from mcastd.ip import Address, stays_on_link
from mcastd.net.link import Receiver
from mcastd.net.tcp_socket import be_watchful, listening
from mcastd.protocols.gateway_paths import PageResource, StreamResource, SubscriptionResource, parse_path
from mcastd.protocols.http_request import HttpRefusal, HttpRequest
from mcastd.status import GatewayStatus, PlayedGroupStatus, PlayerStatus
from mcastd.worker import Books, Context, Signal, Vitals, WorkerIdentity

# Connections that wait to be accepted; and those that have not asked yet, beside the players that are served.
WAITING_CONNECTIONS = 64
ASKING_MAX = 256
ACCEPTED_AT_ONCE = 32
READ_BYTES = 4096
# Between two attempts to listen, or to accept where there are no descriptors.
RETRY_SECONDS = 1.0
# Players that a status has.
LISTED_MAX = 200
# Reasons: of datagrams, and of connections and requests.
SLOW, NOT_RTP = "slow", "not-rtp"
CLIENT, FULL, REQUEST, GROUP, NO_WAY, SILENT = "client", "full", "request", "group", "no-way", "silent"
PLAYLIST = "audio/x-mpegurl; charset=utf-8"
NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER | Signal.RETRY

StreamKey = tuple[Address, int, Address | None]
OpenStream = Callable[[GatewaySettings, StreamResource], Receiver]


class GatewayWorker:
    """Serves groups over HTTP: a :class:`mcastd.worker.Worker`."""

    def __init__(
        self,
        name: str,
        config: GatewaySettings,
        open_stream: OpenStream,
        subscriptions: Callable[[], Mapping[str, StreamResource]] = dict,
    ) -> None:
        """``open_stream`` joins a group, and raises LinkError; ``subscriptions`` are had by their names."""
        self.name = name
        self.counters = GatewayCounters()
        self._config = config
        self._open_stream = open_stream
        self._subscriptions = subscriptions
        self._listeners: dict[
            int, tuple[str, socket.socket]
        ] = {}  # by fd; these are only replaced: others read
        self._not_listening: dict[str, str] = {}
        self._players: dict[int, tuple[socket.socket, Player]] = {}
        self._streams: dict[StreamKey, JoinedStream] = {}
        self._watched: dict[int, int] = {}
        self._overflow_before = 0  # of streams that are left
        self._accept_at = 0.0  # monotonic seconds, before which none is accepted
        self._last: float | None = None
        self._log = log.get_logger(worker=name)
        self._identity = WorkerIdentity("", 0, label_of(config.interface), reasons=(SLOW, NOT_RTP))

    # -- as a worker

    def run(self, context: Context) -> None:
        """Raises LinkError if it can listen nowhere."""
        try:
            self._listen()
            self._report(context)
            while not context.stopping:
                context.take(NOT_FOR_US)
                if context.take(Signal.NETWORK):
                    self._follow()
                    self._listen()
                    self._report(context)
                self._watch(context)
                ready = context.wait(self._due() - clock.monotonic())
                self._see_to(ready)
                self._tick(clock.monotonic())
        finally:
            self._end(context)

    def update(self, settings: object) -> bool:
        """Other settings take another run: players are few seconds without."""
        return False

    def close(self) -> None:
        self._log.info("gateway.closed", sent=self.counters.sent, requests=self.counters.requests)

    def status(self, patience: Patience | None = None) -> GatewayStatus:
        now = clock.monotonic()
        players = [player for _, player in list(self._players.values())]
        return GatewayStatus(
            listen=tuple(end for end, _ in list(self._listeners.values())),
            refused_listen=dict(self._not_listening),
            interface=self._config.interface,
            connections=len(players),
            groups=tuple(_told(stream, now) for stream in list(self._streams.values())),
            players=tuple(
                PlayerStatus(
                    address=player.address,
                    path=player.path,
                    seconds=now - player.since,
                    sent=player.queue.sent,
                    dropped=player.queue.dropped,
                    held_bytes=player.queue.size,
                )
                for player in players[:LISTED_MAX]
            ),
            counters=copy_of(self.counters),
            overflow=self._overflow(),
        )

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=sum(dict(counters.dropped).values()),
            overflow=self._overflow(),
            last_datagram=self._last,
        )

    def books(self) -> Books:
        return Books(self._identity, self.counters, self._last, overflow=self._overflow())

    def _overflow(self) -> int:
        streams = list(self._streams.values())
        return self._overflow_before + sum(stream.link.glance().overflow for stream in streams)

    # -- what there is to wait for

    def _due(self) -> float:
        """When :meth:`_tick` is due, in monotonic seconds."""
        now = clock.monotonic()
        due = [player.deadline for _, player in self._players.values()]
        due += [self._accept_at] if self._accept_at > now else []
        due += [now + RETRY_SECONDS] if self._not_listening else []
        for stream in self._streams.values():
            retry_at = stream.link.retry_at
            due.append(math.inf if retry_at is None else retry_at)
            due.append(now + self._config.max_latency)  # while it lingers, too: who comes gets nothing old
        return min(due, default=now + 3600.0)

    def _watch(self, context: Context) -> None:
        wanted = {fd: select.POLLIN for fd in self._listeners if clock.monotonic() >= self._accept_at}
        for fd, (_, player) in self._players.items():
            wanted[fd] = select.POLLIN | (select.POLLOUT if len(player.queue) else 0)
        for fd in self._watched.keys() - wanted.keys():
            context.unwatch(fd)
        for fd, events in wanted.items():
            if self._watched.get(fd) != events:
                context.watch(fd, events)
        self._watched = wanted

    def _see_to(self, ready: dict[int, int]) -> None:
        for fd, events in ready.items():
            if fd in self._listeners:
                self._accept(self._listeners[fd][1])
            elif fd in self._players:
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read(fd)
                if fd in self._players and events & select.POLLOUT:
                    self._send(fd)

    def _tick(self, now: float) -> None:
        counters = self.counters
        for key, stream in [*self._streams.items()]:
            if stream.link.retry_at is not None and now >= stream.link.retry_at:
                self._repair(stream)
            if stream.left_at is not None and now >= stream.left_at + self._config.linger:
                self._leave(key)
                continue
            before = stream.received, stream.received_bytes, stream.not_rtp
            try:
                stream.pump(now)
            except LinkError as error:
                self._log.warning("group.failed", group=str(key[0]), port=key[1], reason=str(error))
                self._repair(stream)
            counters.received += stream.received - before[0]
            counters.received_bytes += stream.received_bytes - before[1]
            counters.dropped[NOT_RTP] += stream.not_rtp - before[2]
            self._last = stream.last if stream.received > before[0] else self._last
        for fd, (_, player) in [*self._players.items()]:
            if len(player.queue):
                self._send(fd)
            if fd in self._players and now >= player.deadline:
                self._expire(fd, player, now)
        if self._not_listening:
            self._listen()

    # -- players

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, (host, *_) = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:  # no descriptor is left: those that are served go on
                self._log.warning("player.refused", reason=reason_of(error))
                self._accept_at = clock.monotonic() + RETRY_SECONDS
                return
            sock.setblocking(False)
            address = ip_address(str(host).partition("%")[0])
            allowed = self._config.allow_clients
            if allowed and not any(address.version == one.version and address in one for one in allowed):
                self.counters.refused[CLIENT] += 1
                sock.close()
                continue
            asking = [fd for fd, (_, one) in self._players.items() if one.resource is None]
            if len(asking) >= ASKING_MAX:  # the one that has had most time to ask
                self.counters.refused[FULL] += 1
                self._drop(asking[0])
            with contextlib.suppress(OSError):  # it has gone already, which the next read tells
                be_watchful(sock)
            player = Player(str(address), self._config.client_buffer, clock.monotonic())
            self._players = {**self._players, sock.fileno(): (sock, player)}

    def _read(self, fd: int) -> None:
        sock, player = self._players[fd]
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        now = clock.monotonic()
        try:
            request = player.feed(data)
            if request is not None:
                self._serve(player, request, now)
        except HttpRefusal as refusal:
            self.counters.refused[REQUEST] += 1
            player.refuse(refusal, now)
        if len(player.queue):
            self._send(fd)

    def _serve(self, player: Player, request: HttpRequest, now: float) -> None:
        """Join what is asked for. Raises HttpRefusal for what is no request to this gateway."""
        self.counters.requests += 1
        self._require_own_name(request.host)
        try:
            resource = parse_path(request.path)
        except ValueError as error:
            raise HttpRefusal(400, str(error)) from error
        if isinstance(resource, PageResource) and resource.page == "playlist":
            player.answer(200, PLAYLIST, self._playlist(request.fields.get("host", "")).encode(), now)
            return
        if isinstance(resource, SubscriptionResource):
            resource = self._subscriptions().get(resource.name)
        if not isinstance(resource, StreamResource):
            raise HttpRefusal(
                404, "there is nothing; ask for /udp/GROUP:PORT, /rtp/GROUP:PORT or /playlist.m3u"
            )
        if not self._allows(resource):
            self.counters.refused[GROUP] += 1
            player.refuse(HttpRefusal(403, f"{resource.group} is not in allow_groups"), now)
            return
        if request.method == "HEAD":
            player.answer_head(now)
            return
        served = sum(one.is_streaming for _, one in self._players.values())
        if served >= self._config.max_clients:
            self.counters.refused[FULL] += 1
            player.refuse(HttpRefusal(503, f"{served} players are served, and no more"), now)
            return
        key = resource.group, resource.port, resource.sender
        try:
            stream = self._streams.get(key) or self._join(key, resource)
        except LinkError as error:
            self.counters.refused[NO_WAY] += 1
            player.refuse(HttpRefusal(503, str(error)), now)
            return
        stream.players.add(player)
        stream.left_at = None
        player.wait_for(resource, now + self._config.first_data, now)

    def _allows(self, resource: StreamResource) -> bool:
        group, allowed = resource.group, self._config.allow_groups
        is_allowed = any(group.version == one.version and group in one for one in allowed)
        return is_allowed and not stays_on_link(group)

    def _playlist(self, host: str) -> str:
        """The subscriptions that may be asked for, as players take them, with URLs by the name they used."""
        lines = ["#EXTM3U"]
        for name, resource in self._subscriptions().items():
            if self._allows(resource):
                lines += [f"#EXTINF:-1,{name}", f"http://{host}/{name}" if host else f"/{name}"]
        return "\n".join([*lines, ""])

    def _require_own_name(self, host: str) -> None:
        """A page of another site may have its name lead here (DNS rebinding): it is not told anything."""
        name = host.rstrip(".")
        if "." not in name or name in self._config.names or name.startswith("["):
            return
        try:
            ip_address(name)
        except ValueError:
            raise HttpRefusal(421, f"{name} is not in names") from None

    def _send(self, fd: int) -> None:
        sock, player = self._players[fd]
        queue = player.queue
        sent, size = queue.sent, queue.sent_bytes
        try:
            while buffers := queue.buffers():
                queue.went(sock.sendmsg(buffers) if len(buffers) > 1 else sock.send(buffers[0]))
        except BlockingIOError:
            pass
        except OSError:
            self._drop(fd)
        self.counters.sent += queue.sent - sent
        self.counters.sent_bytes += queue.sent_bytes - size
        self._count_dropped(player)
        if player.ends and not len(queue) and fd in self._players:
            self._finish(fd)

    def _count_dropped(self, player: Player) -> None:
        if (dropped := player.queue.dropped) != player.counted_dropped:
            self.counters.dropped[SLOW] += dropped - player.counted_dropped
            player.counted_dropped = dropped

    def _finish(self, fd: int) -> None:
        """An answer has gone: let the player close, so that nothing of it is lost (RFC 9112 section 9.6)."""
        with contextlib.suppress(OSError):
            self._players[fd][0].shutdown(socket.SHUT_WR)

    def _expire(self, fd: int, player: Player, now: float) -> None:
        if player.ends:
            self._drop(fd)
        elif player.resource is None:
            self.counters.refused[REQUEST] += 1
            player.refuse(HttpRefusal(408, "the request takes too long"), now)
            self._send(fd)
        else:
            self.counters.refused[SILENT] += 1
            resource = player.resource
            self._release(player, now)
            why = f"nothing comes to {resource.group} port {resource.port}"
            player.refuse(HttpRefusal(504, why), now)
            self._send(fd)

    def _drop(self, fd: int) -> None:
        sock, player = self._players[fd]
        self._release(player, clock.monotonic())
        self._count_dropped(player)
        self._players = {other: one for other, one in self._players.items() if other != fd}
        sock.close()

    def _release(self, player: Player, now: float) -> None:
        """It has no stream any more."""
        if (resource := player.resource) is None:
            return
        player.resource = None
        stream = self._streams.get((resource.group, resource.port, resource.sender))
        if stream is not None:
            stream.players.discard(player)
            stream.left_at = stream.left_at if stream.players else now

    # -- groups

    def _join(self, key: StreamKey, resource: StreamResource) -> JoinedStream:
        """Raises LinkError."""
        self._make_room()
        stream = JoinedStream(resource, self._open_stream(self._config, resource))
        self._streams = {**self._streams, key: stream}
        self._log.info("group.joined", group=str(resource.group), port=resource.port)
        return stream

    def _make_room(self) -> None:
        """Leave those that have lingered longest: no more groups are joined than players are served.

        Who asks for one after the other would have as many sockets as groups are allowed.
        """
        lingering = sorted(
            ((stream.left_at, key) for key, stream in self._streams.items() if stream.left_at is not None),
            key=itemgetter(0),
        )
        for _, key in lingering[: max(0, len(self._streams) + 1 - self._config.max_clients)]:
            self._leave(key)

    def _leave(self, key: StreamKey) -> None:
        stream = self._streams[key]
        self._streams = {other: one for other, one in self._streams.items() if one is not stream}
        self._overflow_before += stream.link.load().overflow
        stream.link.close()
        self._log.info("group.left", group=str(key[0]), port=key[1])

    def _follow(self) -> None:
        """The network has changed."""
        for stream in self._streams.values():
            self._repair(stream)

    def _repair(self, stream: JoinedStream) -> None:
        with contextlib.suppress(LinkError):  # which its trouble tells, and it is tried again
            stream.link.network_changed()

    # -- where players connect to

    def _listen(self) -> None:
        """Listen where it is not done yet. Raises LinkError if that is nowhere."""
        have = {end for end, _ in self._listeners.values()}
        refused: dict[str, str] = {}
        number = 0
        for end in self._config.listen:
            if end in have:
                continue
            host, port = split_end(end)
            try:
                sock = listening(ip_address(host), port, WAITING_CONNECTIONS)
            except OSError as error:
                refused[end], number = reason_of(error), error.errno or 0
            else:
                self._listeners = {**self._listeners, sock.fileno(): (end, sock)}
        self._not_listening = refused
        if not self._listeners:
            end, why = next(iter(refused.items()))
            way_out = "choose an address of this host, and a port that nobody has, in listen"
            raise LinkError(f"cannot listen at {end}", why, way_out, waits="trying again", errno=number)

    def _report(self, context: Context) -> None:
        detail = f"at {', '.join(end for end, _ in self._listeners.values())}"
        for end, why in self._not_listening.items():
            detail += f"; not at {end}: {why}"
        context.ready(detail, degraded=bool(self._not_listening))

    def _end(self, context: Context) -> None:
        for fd in self._watched:
            context.unwatch(fd)
        self._watched = {}
        for fd in [*self._players]:
            self._drop(fd)
        for key in [*self._streams]:
            self._leave(key)
        for _, sock in self._listeners.values():
            sock.close()
        self._listeners = {}


def _told(stream: JoinedStream, now: float) -> PlayedGroupStatus:
    seen, resource = stream.link.glance(), stream.resource
    return PlayedGroupStatus(
        group=str(resource.group),
        port=resource.port,
        sender="" if resource.sender is None else str(resource.sender),
        interfaces=seen.interfaces,
        players=len(stream.players),
        received=stream.received,
        overflow=seen.overflow,
        age=None if stream.last is None else now - stream.last,
        trouble=stream.link.trouble or stream.link.problem,
    )
