"""The one place that knows memberships: what every socket of ours wants of a group on an interface, and has.

All by interface index (RFC 3678), with one code path for any-source and source-specific, IPv4 and IPv6.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address, SourceFilter
from mcastd.net import _abi
from mcastd.net.guard import SourceGuard
from mcastd.net.interfaces import Host, Interface
from mcastd.net.tables import sysctl

try:
    from mcastd.net._libc import getsockopt
except ImportError:  # Python's own getsockopt cannot say of which group the filter is wanted
    getsockopt = None  # type: ignore[assignment] # where there is no ctypes

# Limits memory for the options of one socket, of which each source takes some.
OPTMEM_MAX = "net.core.optmem_max"
NOBODY: dict[int, Address] = {
    4: IPv4Address("192.0.2.0"),
    6: IPv6Address("2001:db8::"),
}  # RFC 5737, RFC 3849: sends nothing
# Sources that a filter read back from the kernel may have.
FILTER_SOURCES_MAX = 512


class Memberships:
    """All memberships of this process, under one lock: a rejoin must see every socket that holds a group."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: set[Membership] = set()
        self.edition = 0  # another one whenever any has been joined or left

    def rejoin(self, group: Address, interface: Interface) -> None:
        """Have the group reported on an interface as if it were new. The lock is held.

        The kernel reports a join only if it is the first on the host, and a leave only if it was the last: so
        all our sockets leave, then join. While another program holds the group, too, nothing is sent.
        """
        holders = [held for held in self.held if held.is_for(group, interface)]
        for held in holders:
            held.leave()
        for held in holders:
            try:
                held.enter(interface)
            except OSError:
                held.on_lost()


class Membership:
    """What one socket has joined: a group, on one interface, for some sources. For several threads."""

    def __init__(
        self,
        registry: Memberships,
        sock: socket.socket,
        group: Address,
        interface: Interface,
        source_filter: SourceFilter,
        *,
        guard: SourceGuard,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Join. Raises LinkError.

        ``on_lost`` is called by any thread that has the group joined again, if the kernel then refuses this
        socket: it must not block, and has to see to it that :meth:`keep` is called.
        """
        self.on_lost = on_lost
        self._registry = registry
        self._sock = sock
        self._group = group
        self._filter = source_filter
        self._guard = guard
        self._level = socket.IPPROTO_IP if group.version == 4 else socket.IPPROTO_IPV6
        self._joined: Interface | None = None  # as it was then
        self._joined_at = 0.0  # monotonic seconds
        with registry.lock:
            self._enter_or_raise(interface)
            registry.held.add(self)

    def keep(self, interface: Interface, host: Host) -> None:
        """Repair what ``host`` shows to be missing. Raises LinkError if it cannot be.

        After a loss of carrier, the group is joined again: by itself the kernel would report it for IPv6, but
        not for IPv4, and a switch that was restarted would send no more until the next query. The same holds
        for the first address of an interface: before it, IPv4 reports come from 0.0.0.0, which switches may
        ignore (RFC 4541 section 2.1.1).
        """
        # Checked without the lock, as mostly nothing is missing: its holder may wait for the kernel.
        if not (self._is_missing(host) or self._is_forgotten(interface)):
            return
        with self._registry.lock:
            if self._is_missing(host):
                self.leave()
                self._enter_or_raise(interface)
            elif self._is_forgotten(interface):
                self._registry.rejoin(self._group, interface)
                if self._joined is None:
                    self._enter_or_raise(interface)

    def set_filter(self, source_filter: SourceFilter) -> None:
        """Change the sources, without leaving the group. Raises LinkError."""
        with self._registry.lock:
            before, self._filter = self._filter, source_filter
            if self._joined is not None:
                try:
                    with self._guard.change(before, source_filter):
                        self._apply_filter(self._joined)
                except OSError as error:
                    raise self._refused(error, self._joined) from error

    def rejoin(self, interface: Interface) -> None:
        """Have the group reported again, in case a switch or router has forgotten it."""
        with self._registry.lock:
            self._registry.rejoin(self._group, interface)

    def end(self) -> None:
        """Leave for good; the socket stays open, for what it has received already."""
        with self._registry.lock:
            self._registry.held.discard(self)
            self.leave()

    def close(self) -> None:
        """Close the socket, under the lock: its number may be another's at once."""
        with self._registry.lock:
            self._registry.held.discard(self)
            self._joined = None
            self._registry.edition += 1
            self._sock.close()

    @property
    def joined(self) -> bool:
        """Return True if this socket has joined, and not left."""
        return self._joined is not None

    def actual(self, patience: Patience | None = None) -> str | None:
        """The filter that the kernel has for this socket, as SourceFilter's text; None: no membership.

        If others join and leave for longer than ``patience``: the filter that the kernel took last. Without
        ctypes the kernel cannot be asked: then it is ``unknown``.
        """
        if getsockopt is None:
            return "unknown"
        with (patience or Patience()).holding(self._registry.lock) as held:
            if self._joined is None:
                return None
            if not held:
                return str(self._filter)
            request = _abi.group_filter(self._joined.index, self._group, 0, (), room=FILTER_SOURCES_MAX)
            try:
                socket.if_indextoname(self._joined.index)
                answer = getsockopt(self._sock.fileno(), self._level, _abi.MCAST_MSFILTER, request)
            except OSError:
                return None
        mode, sources = _abi.parse_group_filter(answer, self._group)
        return str(SourceFilter(mode == _abi.MCAST_EXCLUDE, tuple(sources)))

    # -- with the registry's lock held

    def is_for(self, group: Address, interface: Interface) -> bool:
        return group == self._group and self._joined is not None and self._joined.index == interface.index

    def enter(self, interface: Interface) -> None:
        """Join with the whole filter, or not at all. Raises OSError."""
        exclude, sources = self._filter.exclude, self._filter.sources
        try:
            with self._guard.change(self._filter, self._filter):
                if exclude and not sources:
                    self._set(_abi.MCAST_JOIN_GROUP, _abi.group_req(interface.index, self._group))
                else:
                    # Not JOIN_GROUP for EXCLUDE: till the filter is set, those that it excludes would slip in
                    first = NOBODY[self._group.version] if exclude else sources[0]
                    request = _abi.group_source_req(interface.index, self._group, first)
                    self._set(_abi.MCAST_JOIN_SOURCE_GROUP, request)
                self._joined = interface
                self._registry.edition += 1
                self._joined_at = clock.monotonic()
                if sources[0 if exclude else 1 :]:
                    self._apply_filter(interface)
        except OSError:
            self.leave()
            raise

    def leave(self) -> None:
        if self._joined is not None:
            # Refused if the interface is gone, and the membership with it. LEAVE_GROUP drops all its sources.
            request = _abi.group_req(self._joined.index, self._group)
            try:
                with self._guard.change(self._filter, self._filter):
                    self._set(_abi.MCAST_LEAVE_GROUP, request)
            except OSError:
                with contextlib.suppress(OSError):  # if the guard was refused
                    self._set(_abi.MCAST_LEAVE_GROUP, request)
            self._joined = None
            self._registry.edition += 1

    def _enter_or_raise(self, interface: Interface) -> None:
        try:
            self.enter(interface)
        except OSError as error:
            raise self._refused(error, interface) from error

    def _apply_filter(self, interface: Interface) -> None:
        mode = _abi.MCAST_EXCLUDE if self._filter.exclude else _abi.MCAST_INCLUDE
        request = _abi.group_filter(interface.index, self._group, mode, self._filter.sources)
        self._set(_abi.MCAST_MSFILTER, request)

    def _is_missing(self, host: Host) -> bool:
        """Returns True if this socket is no member, or if the interface dropped the group behind our back.

        It may have been made anew with its old index, say.
        """
        joined = self._joined
        if joined is None:
            return True
        if host.asked <= self._joined_at:
            return False
        groups = host.groups(self._group.version)
        # None at all: the table cannot be read, since it has groups that the kernel itself joins
        return bool(groups) and self._group not in groups.get(joined.index, ())

    def _is_forgotten(self, interface: Interface) -> bool:
        """Returns True if the switch may not know the group: see :meth:`keep`."""
        joined = self._joined
        if joined is None or not interface.carrier:
            return False
        if interface.carrier_changes != joined.carrier_changes:
            return True
        return self._group.version == 4 and _has_ipv4(interface) and not _has_ipv4(joined)

    def _set(self, option: int, request: bytes) -> None:
        self._sock.setsockopt(self._level, option, request)

    def _refused(self, error: OSError, interface: Interface) -> LinkError:
        number = error.errno or 0
        return LinkError(
            f"cannot join {self._group} on {interface.name}",
            reason_of(error),
            self._way_out(number),
            waits="waiting for it" if number == errno.ENODEV else "",
            errno=number,
            group=str(self._group),
            interface=interface.name,
        )

    def _way_out(self, number: int) -> str:
        sources = len(self._filter.sources)
        if number == errno.ENOMEM:
            limit = OPTMEM_MAX
        elif number != errno.ENOBUFS:
            return ""
        elif self._group.version == 6:
            limit = _exceeded("net.ipv6.mld_max_msf", sources)
        elif sources < 2:
            limit = _exceeded("net.ipv4.igmp_max_memberships", 1)
        else:
            limit = _exceeded("net.ipv4.igmp_max_msf", sources)
        return f"name fewer sources, or raise {limit}" if sources > 1 else f"raise {limit}"


def _exceeded(limit: str, needed: int) -> str:
    """Return which sysctl is too low after ENOBUFS, which the kernel gives for two: ``limit`` or the memory.

    Both, if the first cannot be read, as in a network namespace or where the unit hides /proc/sys.
    """
    value = sysctl(limit.removeprefix("net.").replace(".", "/"))
    if value is None:
        return f"{limit}, or {OPTMEM_MAX}"
    return limit if int(value) < needed else OPTMEM_MAX


def _has_ipv4(interface: Interface) -> bool:
    return any(address.version == 4 for address in interface.addresses)
