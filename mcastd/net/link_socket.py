"""The UDP socket of a link: many messages to one peer, in as few system calls as may be.

It is not connected, since the peer may come from another address at any time; and what it sends is not cut on
its way (DF), so that a link finds out what fits.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from itertools import groupby
from typing import NamedTuple

from mcastd import clock
from mcastd.errors import LISTENING_WAYS_OUT, LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.arenas import pools
from mcastd.net.burst import OFFLOAD_SECONDS, UNSUPPORTED, Offload
from mcastd.net.link import Origin
from mcastd.net.receive_buffer import dropped, enlarge
from mcastd.net.slots import Senders
from mcastd.rows import JoinedRows, Rows, chained, listed

# A link brings what many on its network receive.
RECEIVE_BUFFER_BYTES = 8 << 20
# So many messages of one size go as segments; fewer one by one.
SEGMENTS_MIN = 2
# What origins are asked for with: which interface a link comes by tells nothing.
_SOME_INTERFACE = 1
# What the kernel says where this host has an address no more.
_NO_SUCH_SOURCE = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH})
_LEVELS = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
_uint16 = struct.Struct("=H")
# Of what has come so much is given on at once, or one packet. Each part takes as many steps of Python; but it
# and all that is made of it should stay in the processor's cache, and others keep something for each number.
PART_BYTES, PART_ROWS = 1 << 18, 256
# So many peers are answered from the address that they have sent to.
ANSWERED_MAX = 1024
_TELL_LOCAL = {4: _abi.IP_PKTINFO, 6: socket.IPV6_RECVPKTINFO}
_MTU_DISCOVER = {4: _abi.IP_MTU_DISCOVER, 6: _abi.IPV6_MTU_DISCOVER}

PeerName = tuple[Address, int]
"""An address, and a port of UDP."""
ControlMessage = tuple[int, int, bytes]
"""A control message of a socket: its level, type and data."""


class SentMessages(NamedTuple):
    """What became of messages that were to be sent."""

    sent: int
    refusal: str  # why the rest was not, in words
    too_large: int  # bytes of one that does not fit the interface; 0: all do
    refused: Mapping[str, int]  # messages by errno


class LinkSocket:
    """For one thread, but for ``overflow``."""

    def __init__(self, version: int, address: Address | None = None, port: int = 0) -> None:
        """Bound to an address and port; None: to any address, 0: to any port. Raises LinkError.

        At a port of any address it answers from the address that a peer has sent to: this host may have
        several, and no firewall or NAT on the way lets an answer through that comes from another one.
        """
        self.version = version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        where = f"at {'any address' if address is None else address}, UDP port {port or 'of any number'}"
        with contextlib.ExitStack() as undo:
            try:
                sock = self._sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if version == 6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setblocking(False)
                # Without regard to what ICMP says of the path, which anybody can make
                sock.setsockopt(_LEVELS[version], _MTU_DISCOVER[version], _abi.IP_PMTUDISC_PROBE)
                enlarge(sock, RECEIVE_BUFFER_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECEIVE_BUFFER_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, 1)
                with contextlib.suppress(OSError):  # a kernel before 5.0
                    sock.setsockopt(socket.IPPROTO_UDP, _abi.UDP_GRO, 1)
                if answers := bool(port) and (address is None or address.is_unspecified):
                    sock.setsockopt(_LEVELS[version], _TELL_LOCAL[version], 1)
                sock.bind(("" if address is None else str(address), port))
            except OSError as error:
                what, number = f"cannot receive from the peer {where}", error.errno or 0
                way_out = LISTENING_WAYS_OUT.get(number, "")
                raise LinkError(what, reason_of(error), way_out, errno=number) from error
            self._pool = pools[version, "link", answers]
            self._arena = self._pool.lease(Senders())
            undo.pop_all()
        self.port = int(sock.getsockname()[1])
        self._offload = Offload()
        self._offload_until = math.inf  # monotonic seconds; infinity: nothing was refused
        self._locals = OrderedDict[PeerName, Address]()  # where peers have sent to, the last one last
        # Whom the last messages went to, its name as a socket has it, and what they are sent from
        self._to: PeerName | None = None
        self._name, self._from = ("", 0), list[ControlMessage]()
        # Messages of this size went last (-1: something has changed since): how many of them the kernel cuts
        # out of one string, and the control messages by which it does
        self._cut_size, self._cut_most = -1, 0
        self._cut = list[ControlMessage]()
        self._origin: Origin | None = None  # where the last ones came from, and whose that is
        self._sender: PeerName | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, messages: list[bytes] | JoinedRows, to: PeerName) -> SentMessages:
        """Send messages in order. One that is too large for the interface is left out."""
        if to is not self._to:  # as a rule it is the same one; its address takes long to write
            self._to, self._name, self._from = to, (str(to[0]), to[1]), self._source(to)
            self._cut_size = -1
        if self._offload_until < math.inf and self._offload_until < clock.monotonic():
            self._offload, self._offload_until, self._cut_size = Offload(), math.inf, -1
        name, source = self._name, self._from
        at, end = 0, len(messages)
        sent = too_large = 0
        refused: dict[str, int] = {}
        while at < end:
            size, count = self._together(messages, at)
            try:
                if count < SEGMENTS_MIN:
                    count = 1
                    if source:
                        self._sock.sendmsg(messages[at : at + 1], source, 0, name)
                    else:
                        self._sock.sendto(messages[at], name)
                else:
                    self._sock.sendmsg(_pieces(messages, at, count), self._cut, 0, name)
            except OSError as error:
                if source and error.errno in _NO_SUCH_SOURCE:  # this host has that address no more
                    self._locals.pop(to, None)
                    self._origin, self._from, source, self._cut_size = None, [], [], -1
                    continue
                if count > 1 and self._goes_alone(error, size):
                    continue
                number = error.errno or 0
                code = errno.errorcode.get(number, str(number))
                if number != errno.EMSGSIZE:
                    refused[code] = end - at
                    return SentMessages(sent, _refusal(error), too_large, refused)
                refused[code] = refused.get(code, 0) + count
                too_large = min(size, too_large or size)
            else:
                sent += count
            at += count
        return SentMessages(sent, "", too_large, refused)

    def receive(self) -> list[tuple[PeerName, Sequence[Rows]]]:
        """Messages that have come, in order, by whom they came from; none if there are none.

        They are valid until the next call. There may be several parts of one peer: whoever is
        through with one before the next finds all that it made of that in the processor's cache. Raises
        OSError.
        """
        batch = self._arena.receive(self._sock, _SOME_INTERFACE)
        if not (number := len(batch)):
            return []
        origins = batch.origins
        if origins.count(origins[0]) == number:
            name = self._met(origins[0])
            return [(name, part) for part in _in_parts(batch.rows)]
        pairs = zip(origins, batch.payloads, strict=True)
        return [
            (self._met(origin), listed(payload for _, payload in together))
            for origin, together in groupby(pairs, lambda pair: pair[0])
        ]

    @property
    def overflow(self) -> int:
        """Packets that the kernel dropped at the full receive buffer."""
        return dropped(self._sock)

    def close(self) -> None:
        self._pool.give_back(self._arena)
        self._sock.close()

    def _met(self, origin: Origin) -> PeerName:
        """Who has sent messages: note where to."""
        if origin is self._origin and self._sender is not None:
            return self._sender
        name = _name(origin)
        self._origin, self._sender = origin, name
        if origin.local and self._locals.get(name) != (local := _address(origin.local)):
            self._locals[name] = local
            self._locals.move_to_end(name)
            if len(self._locals) > ANSWERED_MAX:
                self._locals.popitem(last=False)
            if name == self._to:
                self._to = None
        return name

    def _source(self, to: PeerName) -> list[ControlMessage]:
        """What has the kernel send from the address that a peer has sent to; nothing: it chooses one."""
        if (local := self._locals.get(to)) is None:
            return []
        if local.version == 4:
            data = _abi.in_pktinfo.pack(0, local.packed, bytes(4))
            return [(socket.IPPROTO_IP, _abi.IP_PKTINFO, data)]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _abi.in6_pktinfo.pack(local.packed, 0))]

    def _together(self, messages: list[bytes] | JoinedRows, at: int) -> tuple[int, int]:
        """Bytes of a message, and how many go in one call: those of one size, and one that is shorter."""
        size = len(messages[at]) if isinstance(messages, list) else messages.size
        if size != self._cut_size:
            self._cut_size, self._cut_most = size, self._offload.segments_of(size)
            self._cut = [(_abi.SOL_UDP, _abi.UDP_SEGMENT, _uint16.pack(size)), *self._from]
        if not isinstance(messages, list):
            left = messages.number - at
            return size, self._cut_most if self._cut_most < left else left
        found = [*map(len, messages[at : at + self._cut_most])]
        if found.count(size) == len(found):
            return size, len(found)
        alike = next(index for index, other in enumerate(found) if other != size)
        return size, alike + (0 < found[alike] < size)

    def _goes_alone(self, error: OSError, size: int) -> bool:
        """Return True if what was refused is to be tried in another way: in fewer segments, or alone."""
        if error.errno not in UNSUPPORTED and error.errno != errno.EMSGSIZE:
            return False
        # Of segments that are too large some kernels say EINVAL: alone, the message tells
        offload = self._offload.without(error, size)
        assert offload is not None, "these are refusals that it knows"
        self._offload, self._offload_until = offload, clock.monotonic() + OFFLOAD_SECONDS
        self._cut_size = -1
        return True


def _pieces(messages: list[bytes] | JoinedRows, start: int, count: int) -> Sequence[bytes | memoryview]:
    """Some of the messages, as they lie in memory."""
    if isinstance(messages, list):
        return messages[start : start + count]
    if count == messages.number:
        return [messages.joined]
    size = messages.size
    return [memoryview(messages.joined)[start * size : (start + count) * size]]


_address = lru_cache(maxsize=1024)(ip_address)


def _in_parts(rows: Sequence[Rows]) -> Iterator[Sequence[Rows]]:
    """The same in order, as many together as a part has; what the kernel has put together stays so."""
    start = size = number = 0
    for at, each in enumerate(rows):
        count = len(each)
        if number and (size + count * each.size > PART_BYTES or number + count > PART_ROWS):
            yield chained(rows[start:at])
            start, size, number = at, 0, 0
        size += count * each.size
        number += count
    yield chained(rows[start:])


@lru_cache(maxsize=1024)
def _name(origin: Origin) -> PeerName:
    return ip_address(origin.source), origin.port


def _refusal(error: OSError) -> str:
    if error.errno in (errno.EAGAIN, errno.ENOBUFS):
        return "the queue of the interface is full"
    return reason_of(error)
