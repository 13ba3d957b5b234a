"""Workers without a daemon: each one's sockets are opened as the daemon would, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from mcastd.codec import from_json
from mcastd.config import InboundSubscription, OutboundChannel, WorkerSettings
from mcastd.counters import InboundCounters
from mcastd.doctor.subject import Subject
from mcastd.errors import LinkError, NoArenaError
from mcastd.net.link import Receiver, Sender
from mcastd.status import ChannelStatus, LegStatus, ReceiveBuffer, SenderStatus, SubscriptionStatus
from mcastd.views import Status

# Batches that are taken from a socket at once: datagrams may come all the time.
BATCHES_MAX = 1000


class Trial:
    """Holds the sockets open, and joined, for as long as the context lasts."""

    def __init__(
        self,
        workers: Mapping[str, WorkerSettings],
        open_sender: Callable[[OutboundChannel], Sender],
        open_receiver: Callable[[InboundSubscription], Receiver],
    ) -> None:
        self._workers = workers
        self._open_sender = open_sender
        self._open_receiver = open_receiver
        self._refused: dict[str, LinkError] = {}
        self._senders: dict[str, Sender] = {}
        self._legs: dict[str, list[LegStatus]] = {}  # of channels with copies
        self._receivers: dict[str, Receiver] = {}
        self._received: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Trial:
        for name, settings in self._workers.items():
            try:
                if isinstance(settings, OutboundChannel):
                    self._try_to_send(name, settings)
                elif isinstance(settings, InboundSubscription) and not settings.is_tunnelled:
                    self._receivers[name] = self._open_receiver(settings)
                    self._received[name] = 0
                    self._stack.callback(self._receivers[name].close)
            except LinkError as error:
                self._refused[name] = error
        return self

    def _try_to_send(self, name: str, settings: OutboundChannel) -> None:
        """Open the channel's way, or each of several. Raises LinkError if none can be had."""
        refused: list[LinkError] = []
        legs = []
        for leg in settings.by_leg():
            trouble = ""
            try:
                sender = self._open_sender(leg)
            except LinkError as error:
                refused.append(error)
                trouble = error.trouble
            else:
                self._stack.callback(sender.close)
                self._senders.setdefault(name, sender)
            group = {"group": str(leg.group), "port": leg.port, "interface": leg.interface}
            legs.append(from_json(LegStatus, {**group, "trouble": trouble}))
        if len(refused) == len(legs):
            raise refused[0]
        if settings.copies:
            self._legs[name] = legs

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def subjects(self) -> list[Subject[WorkerSettings]]:
        """All workers, and what their sockets have and got until now."""
        return [self._subject(name, settings) for name, settings in self._workers.items()]

    def _subject(self, name: str, settings: WorkerSettings) -> Subject[WorkerSettings]:
        subject = Subject(name, settings, status=self._status(name, settings))
        if (error := self._refused.get(name)) is None:
            return subject
        return replace(subject, detail=str(error), errno=error.code, way_out=error.way_out, waits=error.waits)

    def _status(self, name: str, settings: WorkerSettings) -> Status | None:
        """What the daemon's status would have of it. Not the overflow: here nobody reads all the time."""
        if sender := self._senders.get(name):
            way = sender.describe()
            link = SenderStatus(way.interface, way.address, sender.sending)
            return replace(from_json(ChannelStatus, {}), link=link, legs=tuple(self._legs.get(name, ())))
        receiver = self._receivers.get(name)
        if receiver is None or not isinstance(settings, InboundSubscription):
            return None
        self._take(name, receiver)
        return replace(
            from_json(SubscriptionStatus, {}),
            memberships=receiver.memberships(),
            counters=InboundCounters(received=self._received[name]),
            receive_buffer=ReceiveBuffer(settings.receive_buffer, receiver.load().buffer, None),
        )

    def _take(self, name: str, link: Receiver) -> None:
        """Count what has come. It is refused for as long as there is no memory to receive into."""
        self._refused.pop(name, None)
        try:
            for _ in range(BATCHES_MAX):
                self._received[name] += len(link.receive())
                if link.emptied:
                    break
        except NoArenaError as error:  # the kernel holds what comes
            self._refused[name] = error
        link.idle()
