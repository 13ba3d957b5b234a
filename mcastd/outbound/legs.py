"""The same datagrams by several ways: a leg that is down does not stop the others."""

from __future__ import annotations

import contextlib
import errno
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import OutboundChannel
from mcastd.errors import LinkError
from mcastd.net.link import FULL_ERRNOS, DatagramFlow, LastBurst, Sender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.reopening import Reopened, some_failed
from mcastd.net.sender import HeardHere
from mcastd.outbound.outlet import NO_CARRIER, TOO_BIG
from mcastd.status import LegStatus, SenderDescription
from mcastd.worker import SentLegBooks

# A leg that could not be opened is tried again after this long, and when the network has changed.
RETRY_SECONDS = 1.0
# Why a leg did not send what another has sent: else the name of an errno, or NO_CARRIER.
FULL, NO_WAY = "full", "no-way"
_NOTHING: Mapping[str, int] = {}


class Leg(Reopened[Sender]):
    """One way, and what became of the datagrams on it. It outlives the links of its channel."""

    def __init__(
        self,
        settings: OutboundChannel,
        open_sender: Callable[[OutboundChannel], Sender],
        heard: HeardHere | None = None,
    ) -> None:
        """``open_sender`` raises LinkError while there is no way. Its links leave to each other in ``heard``
        what they have looped."""
        super().__init__(lambda: open_sender(self._settings))
        self._settings = settings
        self._heard = heard or HeardHere()
        self.sent = 0  # datagrams
        self.refused: Counter[str] = Counter()  # calls that the kernel refused, by errno name
        self.dropped: Counter[str] = Counter()  # datagrams that another leg has sent and this one has not
        # With this the kernel refused to send for good. It holds until a datagram has gone: a new link may be
        # refused the same.
        self._refusal: LinkError | None = None

    @property
    def settings(self) -> OutboundChannel:
        """Those of the channel, but group, port and interface are its own."""
        return self._settings

    @settings.setter
    def settings(self, settings: OutboundChannel) -> None:
        """From the next link on. What the kernel refused with others says nothing of these."""
        if settings != self._settings:
            self._settings, self._refusal = settings, None

    @property
    def trouble(self) -> str:
        """What keeps it from sending, in words, or "". For any thread."""
        error, link = self.error or self._refusal, self.link
        if error is not None:
            return error.trouble
        return "" if link is None or link.carrier else f"{link.describe().interface} has no carrier"

    def status(self) -> LegStatus:
        """For any thread."""
        link = self.link
        return LegStatus(
            group=str(self.settings.group),
            port=self.settings.port,
            interface=None if link is None else link.describe().interface,
            sent=self.sent,
            refused=dict(self.refused.copy()),
            dropped=dict(self.dropped.copy()),
            trouble=self.trouble,
        )

    def books(self) -> SentLegBooks:
        """For any thread."""
        return SentLegBooks(self.sent, sum(self.dropped.copy().values()), not self.trouble)

    def refuse(self, error: LinkError | OSError) -> None:
        self.refused[errno.errorcode.get(error.errno or 0, "other")] += 1

    def send(self, link: Sender, payloads: Payloads) -> int:
        """Send by its ``link``, which is closed if the kernel refuses that for good. Raises LinkError."""
        try:
            return link.send(payloads)
        except LinkError as error:
            self.refuse(error)
            if error.errno not in FULL_ERRNOS and error.errno != errno.EMSGSIZE:
                self.fail(error)
                self._refusal = error
            raise

    def complete(self, payloads: Payloads, taken: int, error: LinkError | OSError | None) -> None:
        """Account for ``payloads``, which some leg has sent. This one took ``taken``, the first of them.

        The others are sent, too, as far as it goes, but for those that are too big; the first of them was
        refused with ``error``, if with any. What does not go then is dropped here.
        """
        most, tried = len(payloads), taken
        if taken == most:
            self.account(most)
            return
        dropped: Counter[str] = Counter()
        while tried < most and (link := self.link) is not None:
            if error is None:
                try:
                    more = self.send(link, payloads.part(tried, most))
                except LinkError as refusal:
                    error = refusal
                else:
                    taken, tried = taken + more, tried + more
                    continue
            if error.errno != errno.EMSGSIZE:
                link.skip(most - tried)
                break
            dropped[TOO_BIG] += 1
            tried, error = tried + 1, None
        if tried < most:
            dropped[_reason(error)] += most - tried
            self._heard.forget()  # a link that is opened later sends others
        self.account(taken, dropped)

    def account(self, taken: int, dropped: Mapping[str, int] = _NOTHING) -> None:
        """Of the datagrams that some leg has sent, this one took ``taken``; it has ``dropped`` the others."""
        if taken:
            self._refusal = None
        if self.link is not None and not self.link.carrier:
            self.dropped[NO_CARRIER] += taken + sum(dropped.values())
            return
        self.sent += taken
        self.dropped.update(dropped)


def _reason(error: LinkError | OSError | None) -> str:
    """Why what was refused with ``error`` is dropped; None: there was nothing to send by."""
    if error is None:
        return NO_WAY
    return FULL if error.errno in FULL_ERRNOS else errno.errorcode.get(error.errno or 0, "other")


class Legs:
    """A Sender that sends by each of its legs. What one took is sent; all refuse if each does.

    For a leg without a carrier the kernel takes everything. While another has one, those that have one
    decide what is sent, and the others get what these took.
    """

    held = 0
    _first: Sender  # the first that is open; once none is, the last that was

    def __init__(self, legs: Sequence[Leg], now: Clock = clock.monotonic) -> None:
        """Opens them. Raises LinkError, that of the first, if none can be opened."""
        self._legs = legs
        self._now = now
        self._retry_at = math.inf
        # What others have sent of a plan, and these are still to send: what was prepared for them did not do.
        self._unsent: list[tuple[Leg, Payloads]] = []
        for leg in legs:
            leg.open()
        self._look()

    def _look(self) -> None:
        """See which legs are open; those that are not are tried again. Raises LinkError if none is.

        What is sent meanwhile, however often, does not put that off.
        """
        is_waiting, some_are_closed = self._retry_at < math.inf, some_failed(self._legs)
        self._first = self._open[0][1]
        if not some_are_closed:
            self._retry_at = math.inf
        elif not is_waiting:
            self._retry_at = self._now() + RETRY_SECONDS

    @property
    def _open(self) -> list[tuple[Leg, Sender]]:
        return [(leg, leg.link) for leg in self._legs if leg.link is not None]

    @property
    def _carriers_first(self) -> list[tuple[Leg, Sender]]:
        """The legs that are open, those with a carrier first."""
        return sorted(self._open, key=lambda one: not one[1].carrier)

    def send(self, payloads: Payloads) -> int:
        taken: dict[Leg, int] = {}
        errors: dict[Leg, LinkError] = {}
        most = 0
        self._send_unsent()
        for leg, link in self._carriers_first:
            if not link.carrier and self.carrier:  # those that have one have decided
                if not taken:
                    break
                payloads = payloads.part(0, most)
            try:
                taken[leg] = leg.send(link, payloads)
            except LinkError as error:
                errors[leg] = error
            else:
                most = max(most, taken[leg])
        if not taken:
            self._look()
            refusals = [error for leg, error in errors.items() if leg.link is not None]
            # What is too big for one leg is not for another that is full
            raise min(refusals, key=lambda error: error.errno not in FULL_ERRNOS)
        if most < len(payloads):
            payloads = payloads.part(0, most)
        for leg in self._legs:
            leg.complete(payloads, taken.get(leg, 0), errors.get(leg))
        self._look()
        return most

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        """See Sender. What it returns raises the OSError of the first leg if none took it.

        If one leg refuses for another reason than a full queue, and another took the buffer, that is the
        LastBurst, and a tick is due: then it goes there by the leg's send(), which may look for another way,
        and so take long, or closes the leg. Nothing is prepared before that, nor while a leg is to be tried
        again.
        """
        if self._unsent or self._retry_at < math.inf:
            return None
        sends = []
        for leg, link in self._carriers_first:
            if (send := link.prepare(size, count)) is None:
                return None
            sends.append((leg, link, send))
        carriers = {leg for leg, link, _ in sends if link.carrier}  # they decide, as in send()

        def send_by_each(data: bytes | memoryview) -> None:
            datagrams = 1 if count == 1 else -(-len(data) // size)
            is_taken = False
            errors: dict[Leg, OSError] = {}
            for leg, link, send in sends:
                if carriers and not is_taken and leg not in carriers:
                    break
                try:
                    send(data)
                except OSError as error:
                    link.note_refusal(error, size, datagrams)
                    if error.errno in FULL_ERRNOS:  # else its own send() meets it again
                        leg.refuse(error)
                    errors[leg] = error
                else:
                    is_taken = True
            if not is_taken:
                raise next(iter(errors.values()))
            for leg, link, _ in sends:
                if leg not in errors:
                    leg.account(datagrams)
                elif errors[leg].errno in FULL_ERRNOS:
                    link.skip(datagrams)
                    leg.account(0, {FULL: datagrams})
                else:
                    parts = [data] if count == 1 else [data[at:][:size] for at in range(0, len(data), size)]
                    self._unsent.append((leg, ListPayloads(map(bytes, parts))))
            if self._unsent:
                raise LastBurst

        return send_by_each

    def _send_unsent(self) -> None:
        """Raises LinkError if no leg is open after that."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for leg, payloads in unsent:
                leg.complete(payloads, 0, None)
            self._look()

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        """Each leg was told of its own."""

    def skip(self, count: int) -> None:
        for _, link in self._open:
            link.skip(count)

    @property
    def deadline(self) -> float:
        if self._unsent:
            return -math.inf
        return min([self._retry_at, *(link.deadline for _, link in self._open)])

    def tick(self, now: float) -> None:
        self._send_unsent()
        for _, link in self._open:
            if link.deadline <= now:
                link.tick(now)
        if self._retry_at <= now:
            self._retry_at = math.inf
            for leg in self._legs:
                leg.open()
            self._look()

    def network_changed(self) -> None:
        for leg in self._legs:
            leg.follow_network()
        self._look()

    def describe(self) -> SenderDescription:
        """That of the first leg that is open, with a carrier or without: what is named after it stays so."""
        return self._first.describe()

    def flows(self) -> Sequence[DatagramFlow]:
        return [flow for _, link in self._open for flow in link.flows()]

    @property
    def carrier(self) -> bool:
        return any(link.carrier for _, link in self._open)

    @property
    def sending(self) -> str:
        return self._first.sending

    def close(self) -> None:
        with contextlib.suppress(LinkError):
            self._send_unsent()
        for leg in self._legs:
            leg.close()
