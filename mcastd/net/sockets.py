"""Receiving UDP sockets, set up as Linux needs it for multicast that is exact.

A receiving socket is bound to the group's own address, with IP_MULTICAST_ALL off and its own membership:
then group, interface and source filter hold for it, whatever others on the host have joined.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from mcastd.errors import LOW_PORTS, LinkError, SettingChange, reason_of
from mcastd.ip import Address, SourceFilter
from mcastd.net import _abi
from mcastd.net.arenas import Arena, OneSocket, Pool
from mcastd.net.drops import drops
from mcastd.net.guard import SourceGuard
from mcastd.net.interfaces import Interface
from mcastd.net.link import Batch, Load, Metadata
from mcastd.net.membership import Membership, Memberships
from mcastd.net.slots import Senders

# Asked for often:
SOL_SOCKET, SO_MEMINFO, MEMINFO_SIZE = socket.SOL_SOCKET, _abi.SO_MEMINFO, _abi.sk_meminfo.size

# The longest wait for a datagram in the call that receives it: a signal to the worker may wait that long.
WAIT_MICROSECONDS = 5000
SECOND_MICROSECONDS = 1_000_000

REFUSED_BY_FIREWALL = "a firewall rule of this host refuses it: see `nft list ruleset`"
WAYS_OUT: dict[int, str | SettingChange] = {
    errno.EADDRINUSE: "another program has this port for itself alone; stop it, or choose another port",
    errno.EACCES: LOW_PORTS,
    errno.EMSGSIZE: SettingChange("max_datagram", then=", or raise the interface's MTU", verb="lower"),
    errno.ENETUNREACH: SettingChange("interface", then=", or add a route to the group"),
    errno.EPERM: REFUSED_BY_FIREWALL,
    errno.EMFILE: "raise LimitNOFILE= of the service",
    # Of WireGuard (drivers/net/wireguard/device.c, wg_xmit)
    errno.ENOKEY: "WireGuard sends a peer only what is in its AllowedIPs: have them include this destination",
    errno.EDESTADDRREQ: "WireGuard knows no address of the peer yet: set its Endpoint, or have it send first",
}


def refused(
    error: OSError, what: str, group: Address, interface: str | None, way_out: str | SettingChange = ""
) -> LinkError:
    """``way_out`` is said in place of what usually helps; ``interface`` is the setting, if there is one."""
    number = error.errno or 0
    if number == errno.ENETUNREACH and interface and not way_out:
        way_out = f"see whether {interface} is up, and has an address: ip address"
    return LinkError(
        what,
        reason_of(error),
        way_out or WAYS_OUT.get(number, ""),
        waits="waiting for the address" if number == errno.EADDRNOTAVAIL else "",
        errno=number,
        group=str(group),
        interface=interface,
    )


class ReceivingSocket:
    """A UDP socket that is a member of one group on one interface, and receives nothing else."""

    def __init__(
        self,
        group: Address,
        port: int,
        interface: Interface,
        source_filter: SourceFilter,
        memberships: Memberships,
        *,
        receive_buffer: int,
        metadata: Metadata,
        coalesce: bool,
        on_lost: Callable[[], None] = lambda: None,
        bind: bool = True,
    ) -> None:
        """Open, join and bind. Raises LinkError.

        Not bound, it receives nothing. For ``on_lost`` see Membership.
        """
        self.interface = interface
        self._group, self._port = group, port
        self._tells = 0  # the ifindex that goes with what it tells of datagrams; 0: it tells nothing
        self._coalesce = coalesce
        self.coalesces = False
        self._load = Load(0)
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(socket.socket(_abi.family_of(group), socket.SOCK_DGRAM))
                self._guard = SourceGuard(self._sock)
                self._prepare(receive_buffer)
                if metadata:
                    self.set_metadata(metadata)
                self.membership = Membership(
                    memberships,
                    self._sock,
                    group,
                    interface,
                    source_filter,
                    guard=self._guard,
                    on_lost=on_lost,
                )
                undo.callback(self.membership.close)
                if bind:
                    self.bind()  # last: so nothing comes in before the source filter is whole
            except OSError as error:
                raise self._not_open(error) from error
            undo.pop_all()
        self._inode = os.fstat(self._sock.fileno()).st_ino

    def _prepare(self, receive_buffer: int) -> None:
        sock = self._sock
        # For receive() with ``wait`` alone: all else is asked for with MSG_DONTWAIT
        wait = _abi.timeval.pack(*divmod(WAIT_MICROSECONDS, SECOND_MICROSECONDS))
        sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVTIMEO, wait)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.set_receive_buffer(receive_buffer)
        if self._coalesce:
            self.coalesce()
        if self._group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _abi.IP_MULTICAST_ALL, 0)
        else:
            # An IPv6 membership filters by group and source, but takes what comes in by any interface
            sock.setsockopt(socket.SOL_SOCKET, _abi.SO_BINDTOIFINDEX, self.interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_MULTICAST_ALL, 0)

    def set_receive_buffer(self, size: int) -> None:
        """Have room for ``size`` bytes, or what the kernel grants of them; what is in it stays."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        if self.load().buffer < size:
            with contextlib.suppress(PermissionError):  # needs CAP_NET_ADMIN; status tells what was had
                self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVBUFFORCE, size)
        self.buffer = self.load().buffer

    def set_metadata(self, wanted: Metadata) -> None:
        """Have the kernel tell time or TTL of each datagram received from here on, or no more."""
        self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, Metadata.TIMES in wanted)
        origins = Metadata.ORIGINS in wanted
        if self._group.version == 4:
            self._sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVTTL, origins)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, origins)
        self._tells = self.interface.index if wanted else 0

    def coalesce(self) -> None:
        """Receive datagrams in one piece from here on, as far as the kernel does that.

        It cannot be undone: of a piece that is queued the kernel would no longer say where its datagrams end.
        """
        with contextlib.suppress(OSError):  # before Linux 5.0 there is no such option, nor any need
            self._sock.setsockopt(_abi.SOL_UDP, _abi.UDP_GRO, 1)
            self.coalesces = True

    def bind(self) -> None:
        """Receive from here on. Raises LinkError."""
        name = str(self._group), self._port
        try:
            self._sock.bind(name if self._group.version == 4 else (*name, 0, self.interface.index))
        except OSError as error:
            raise self._not_open(error) from error

    def _not_open(self, error: OSError) -> LinkError:
        what = f"cannot receive {self._group} port {self._port} on {self.interface.name}"
        return refused(error, what, self._group, self.interface.name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self, arena: Arena, wait: bool = False) -> Batch:
        """Take what has arrived, up to a batch, into ``arena``; with ``wait``, maybe wait for it a moment."""
        try:
            return arena.receive(self._sock, self._tells, wait)
        except OSError as error:
            raise self._broken(error) from error

    def way(self, pool: Pool, senders: Senders) -> OneSocket:
        """The same in parts, with what its arenas are of."""
        return OneSocket(self._sock, self._tells, pool, senders, self._broken)

    def _broken(self, error: OSError) -> LinkError:
        return refused(error, f"cannot receive {self._group}", self._group, self.interface.name)

    def load(self) -> Load:
        """The kernel's own figures, exact at any time; after close(), those of then."""
        # Not SO_RXQ_OVFL, which tells of a drop only with the next datagram received
        try:
            meminfo = self._sock.getsockopt(SOL_SOCKET, SO_MEMINFO, MEMINFO_SIZE)
        except OSError:  # another thread may ask while this one closes
            return self._load
        have = _abi.sk_meminfo.unpack(meminfo)
        filled = have[_abi.SK_MEMINFO_RMEM_ALLOC] / have[_abi.SK_MEMINFO_RCVBUF]
        # It doubles what was asked for, for its own overhead, and reports the double: socket(7)
        buffer = have[_abi.SK_MEMINFO_RCVBUF] // 2
        self._load = Load(self._overflow(have[_abi.SK_MEMINFO_DROPS]), filled, buffer)
        return self._load

    def _overflow(self, drops: int) -> int:
        """Of the kernel's drops, those of wanted datagrams. Never shrinks, whenever it is asked."""
        return max(self._load.overflow, drops - self._guard.rejected)

    def lost(self) -> int:
        """The overflow, as it was read for all sockets together up to a second ago."""
        lost = drops.of(self._inode)
        return self.load().overflow if lost is None else self._overflow(lost)

    def close(self) -> None:
        self.load()
        self.membership.close()  # and the socket: the kernel leaves the group


def port_refused(group: Address, port: int, ifindex: int) -> str:
    """Why a subscription's socket could not be bound, "" if it can be. Joins nothing."""
    with socket.socket(_abi.family_of(group), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(group), port) if group.version == 4 else (str(group), port, 0, ifindex))
        except OSError as error:
            return reason_of(error) if error.errno == errno.EADDRINUSE else ""
    return ""


def free_port() -> int:
    """A UDP port that nobody on this host has bound just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
