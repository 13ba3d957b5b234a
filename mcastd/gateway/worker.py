"""The worker of a ``[gateway.NAME]``: one thread for all players and all groups.

```
   entrances.py  -- connections -->  players.py  -- asked for -->  streams.py
                                         ^                             |
                                         +------- what comes ----------+
```

While somebody has a group, what comes is taken each ``max_latency``, or as often as the receive buffer wants:
so much of it goes with each call.
Of connections, only those with something new are looked at.
"""

from __future__ import annotations

import math
import select

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import GatewaySettings, label_of
from mcastd.counters import GatewayCounters, copy_of
from mcastd.delivery.keys import REREAD_SECONDS, KeyFileError, read_key
from mcastd.gateway.entrances import Entrances
from mcastd.gateway.interest import Interest
from mcastd.gateway.overview import Overlooked, Overview
from mcastd.gateway.players import SLOW, Players
from mcastd.gateway.rules import PlayerRules
from mcastd.gateway.streams import NOT_RTP, OpenStream, Streams
from mcastd.gateway.subscriptions import Subscriptions
from mcastd.keytext import AccessToken
from mcastd.status import GatewayStatus
from mcastd.worker import Books, Context, GatewayBooks, Signal, Vitals, WorkerIdentity

NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER


class GatewayWorker:
    """Serves groups over HTTP: a :class:`mcastd.worker.Worker`."""

    def __init__(
        self,
        name: str,
        config: GatewaySettings,
        open_stream: OpenStream,
        subscriptions: Subscriptions = dict,
        daemon: Overlooked | None = None,
    ) -> None:
        """``subscriptions`` are had by their names; ``daemon`` is what runs it, for its page."""
        self.name = name
        self.counters = GatewayCounters()
        self._config = config
        self._subscriptions = subscriptions
        self._token: AccessToken | None = None
        self._token_trouble = ""  # why another token could not be read; the one before holds
        self._reread_at = math.inf  # monotonic seconds
        self._read_for: GatewaySettings | None = None  # the settings for which the token was read
        self._interest = Interest()
        self._entrances = Entrances(name, self._interest, self.counters.refused)
        self._reported = self._condition
        self._streams = Streams(name, config, open_stream, self.counters)
        self._overview = None if daemon is None else Overview(daemon)
        self._players = Players(self._rules_of(config), self._streams, self._interest, self.counters)
        self._log = log.get_logger(worker=name)
        self._identity = WorkerIdentity("", 0, label_of(config.interface), reasons=(SLOW, NOT_RTP))

    def run(self, context: Context) -> None:
        """Raises LinkError if it can listen nowhere at first, KeyFileError if it lacks its token."""
        self._read_for = None
        ready = self._interest.open()
        context.watch(ready, select.POLLIN)
        try:
            self._follow(context)
            while not context.stopping:
                context.take(NOT_FOR_US)
                if context.take(Signal.NETWORK | Signal.RETRY):
                    self._follow(context)
                self._interest.tell()
                if context.wait(self._due - clock.monotonic()):
                    self._see_to_ready()
                self._tick(context)
        finally:
            self._entrances.close()
            self._players.close(clock.monotonic())
            self._streams.close()
            context.unwatch(ready)
            self._interest.close()
            self._token, self._token_trouble, self._reread_at = None, "", math.inf

    def update(self, settings: object) -> bool:
        if not isinstance(settings, GatewaySettings):
            return False
        self._config = settings
        return True

    def close(self) -> None:
        self._log.info("gateway.closed", sent=self.counters.sent, requests=self.counters.requests)

    # -- for any thread

    def status(self, patience: Patience | None = None) -> GatewayStatus:
        now = clock.monotonic()
        return GatewayStatus(
            listen=self._entrances.ends,
            refused_listen=self._entrances.refused,
            interface=self._config.interface,
            connections=self._players.connections,
            served=self._players.served,
            max_clients=self._config.max_clients,
            refused_name=self._players.refused_name,
            groups=self._streams.listed(now),
            players=self._players.listed(now),
            counters=copy_of(self.counters),
            overflow=self._streams.overflow(),
        )

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=sum(dict(counters.dropped).values()),
            overflow=self._streams.overflow(),
            last_datagram=self._streams.last,
            players=self._players.served,
        )

    def books(self) -> Books:
        groups, lingering = self._streams.count()
        return Books(
            self._identity,
            self.counters,
            self._streams.last,
            overflow=self._streams.overflow(),
            gateway=GatewayBooks(self._players.served, groups, lingering),
        )

    # -- the worker's thread

    @property
    def _due(self) -> float:
        """When :meth:`_tick` has something to do, in monotonic seconds; inf: never."""
        shown = math.inf if self._overview is None else self._overview.deadline
        return min(
            self._entrances.deadline, self._players.deadline, self._streams.deadline, shown, self._reread_at
        )

    def _follow(self, context: Context) -> None:
        """Listen and receive as the settings have it and the network is now. Raises what :meth:`run` does."""
        config, now = self._config, clock.monotonic()
        if config is not self._read_for or self._token_trouble:
            self._read_token(config, context)
            self._read_for = config
        self._players.follow(self._rules_of(config), now)
        self._streams.follow(config)
        self._entrances.open(config.listen, now)
        if (label := label_of(config.interface)) != self._identity.interface:
            self._identity = self._identity._replace(interface=label)
        self._report(context)
        context.taken_over()

    def _rules_of(self, config: GatewaySettings) -> PlayerRules:
        title, shown = self.name.partition("/")[2], None if self._overview is None else self._overview.shown
        return PlayerRules(title, config, self._subscriptions, self._token, shown)

    def _read_token(self, config: GatewaySettings, context: Context) -> None:
        """Read the token. If there is one in use, it holds until another one can be had."""
        self._reread_at = math.inf
        if config.token is None:
            self._token, self._token_trouble = None, ""
            return
        context.waits_for = "its token"
        try:
            self._token, self._token_trouble = read_key(AccessToken, config.token), ""
        except KeyFileError as error:
            if self._token is None:
                raise
            trouble = f"{error.trouble}; the token before holds"
            if trouble != self._token_trouble:
                self._log.warning("token.refused", reason=trouble)
            self._token_trouble = trouble
            self._reread_at = clock.monotonic() + REREAD_SECONDS
        finally:
            context.waits_for = ""

    def _see_to_ready(self) -> None:
        """Those who connect come last: they get the numbers of connections that have ended meanwhile."""
        now, connecting = clock.monotonic(), list[int]()
        for fd, events in self._interest.ready():
            if fd in self._entrances:
                connecting.append(fd)
            elif fd in self._players:
                self._players.see_to(fd, events, now)
        for fd in connecting:
            for sock, address in self._entrances.accept(fd, now):
                self._players.add(sock, address, now)

    def _tick(self, context: Context) -> None:
        now = clock.monotonic()
        if now >= self._reread_at:
            self._follow(context)
        for piece in self._streams.taken(now):
            self._players.give(piece, now)
        self._players.tick(now)
        self._entrances.tick(now)
        if self._overview is not None:
            self._overview.tick(now)
        if self._condition != self._reported:
            self._report(context)

    @property
    def _condition(self) -> tuple[tuple[str, ...], dict[str, str], str]:
        """Where it listens, where it could not and why, and why nobody can be accepted."""
        return self._entrances.ends, self._entrances.refused, self._entrances.shortage

    def _report(self, context: Context) -> None:
        self._reported = ends, refused, shortage = self._condition
        detail = f"at {', '.join(ends) or 'no address'}"
        for end, why in refused.items():
            detail += f"; not at {end}: {why}"
        detail += f"; players wait: {shortage}" if shortage else ""
        detail += f"; {self._token_trouble}" if self._token_trouble else ""
        context.ready(detail, degraded=bool(refused or shortage or self._token_trouble))
