"""Whole IP packets of groups as they pass on an interface, whatever is in them: AF_PACKET, packet(7).

Not a raw socket (raw(7)): that of IPv6 gives no header, and neither says which packets a sender on this host
has left to its network card, without a checksum or several in one. Here PACKET_VNET_HDR says it, and what the
card would have done is done. It receives what comes to the interface, and what this host sends by it, before
the firewall; it joins nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator

from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.bpf import (
    ACCEPT,
    AND,
    JUMP_EQUAL,
    LD_BYTE,
    LD_WORD,
    NETWORK_HEADER,
    PACKET_TYPE,
    PROTOCOL,
    REJECT,
    VLAN_TAG,
    Instruction,
    attach,
)
from mcastd.net.interfaces import Host, Interface
from mcastd.net.packet_memory import HEADER_AT, PacketMemory
from mcastd.net.receive_buffer import dropped, enlarge
from mcastd.net.slots import STRIDE
from mcastd.protocols.offloads import complete_checksum, datagrams_of
from mcastd.protocols.packet_rows import PacketRows, rows_of

# Bytes of the link's header, by the type of the link (linux/if_arp.h): Ethernet and the loopback interface,
# and tunnels and links between two ends, which have none.
LINK_HEADER_BYTES = {1: 14, 772: 14, 512: 0, 519: 0, 768: 0, 769: 0, 776: 0, 778: 0, 823: 0, 65534: 0}
_LOOPBACK = 772
# More groups than that take too long to look through for each packet: then all groups are taken.
GROUPS_MAX = 128
_ETHERTYPES = {4: _abi.ETH_P_IP, 6: _abi.ETH_P_IPV6}
# Of each version, which bytes of the header are the destination, and the first byte of a group with its mask.
_DESTINATION = {4: range(16, 20, 4), 6: range(24, 40, 4)}
_MULTICAST = {4: (0xF0, 0xE0), 6: (0xFF, 0xFF)}
_VLAN_ID = 0x0FFF
_VNET = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
# Values of flags that leave nothing to be done, and what else may be left to the card.
_DONE = bytes([0, _abi.VIRTIO_NET_HDR_F_DATA_VALID])
# The drop-in of the service that a way out names, by its heading in mcastd(8).
DROP_IN = "AMT relays"
WAYS_OUT = {
    errno.EPERM: "this takes CAP_NET_RAW: see the drop-in for {} in mcastd(8)",
    errno.EAFNOSUPPORT: "the unit has to allow AF_PACKET: see the drop-in for {} in mcastd(8)",
    errno.ENOMEM: "raise net.core.optmem_max",
}


class PacketTap:
    """The packets of one IP version on one interface. For one thread, but for ``overflow``."""

    def __init__(
        self, interface: Interface, version: int, memory: PacketMemory, *, receive_buffer: int
    ) -> None:
        """It takes nothing before :meth:`follow`. Raises LinkError."""
        self.interface = interface
        self.version = version
        self._memory = memory
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(open_packet_socket())
                attach(self._sock, [REJECT])
                self._sock.setsockopt(_abi.SOL_PACKET, _abi.PACKET_VNET_HDR, 1)
                enlarge(self._sock, receive_buffer)
                self._sock.bind((interface.name, _abi.ETH_P_ALL))
                self._link = int(self._sock.getsockname()[3])
            except OSError as error:
                raise _refused(error, interface.name) from error
            if self._link not in LINK_HEADER_BYTES:
                raise LinkError(
                    f"cannot take packets on {interface.name}",
                    f"its link is of type {self._link}, whose headers are not known",
                    interface=interface.name,
                )
            undo.pop_all()
        self._before = _VNET.size + LINK_HEADER_BYTES[self._link]

    def follow(self, groups: Collection[Address] | None) -> None:
        """Take the packets of these groups, of its IP version, from now on; None: of all groups.

        Raises LinkError.
        """
        try:
            attach(self._sock, program(groups, self.version, is_loopback=self._link == _LOOPBACK))
        except OSError as error:
            raise _refused(error, self.interface.name) from error

    def set_receive_buffer(self, size: int) -> None:
        """Have room for ``size`` bytes, as far as the kernel grants; what waits stays. Raises LinkError."""
        try:
            enlarge(self._sock, size)
        except OSError as error:
            raise _refused(error, self.interface.name) from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> Iterator[PacketRows]:
        """Packets that have come, up to a bounded number; each batch is valid until the next.

        Raises LinkError.
        """
        try:
            lengths = self._memory.receive(self._sock, self._before)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # told once; it goes on when the interface is up again
                return
            raise _refused(error, self.interface.name) from error
        if not lengths:
            return
        rows = PacketRows(self._memory.rows, HEADER_AT, STRIDE, self.version, lengths)
        flags, kinds = rows.column(-self._before), rows.column(1 - self._before)
        if flags.translate(None, _DONE) or any(kinds):
            yield from rows_of([*self._mended(rows)], self._memory.mended, STRIDE, self.version)
        else:
            yield rows

    def _mended(self, rows: PacketRows) -> Iterator[bytes]:
        """The packets as they would be on a wire."""
        memory = rows.memory.bytes
        for row, length in enumerate(rows.lengths):
            at = rows.start + row * rows.stride
            flags, kind, _, size, start, offset = _VNET.unpack_from(memory, at - self._before)
            start -= self._before - _VNET.size
            packet = memory[at : at + length]
            try:
                if kind & ~_abi.VIRTIO_NET_HDR_GSO_ECN == _abi.VIRTIO_NET_HDR_GSO_UDP_L4:
                    yield from datagrams_of(bytes(packet), start, size)
                    continue
                changed = bytearray(packet)
                if flags & _abi.VIRTIO_NET_HDR_F_NEEDS_CSUM:
                    complete_checksum(changed, start, offset)
                yield bytes(changed)
            except (IndexError, KeyError, ValueError, struct.error):  # whoever takes it finds it malformed
                yield bytes(packet)

    @property
    def overflow(self) -> int:
        """Packets that the kernel dropped at the full receive buffer."""
        return dropped(self._sock)

    def close(self) -> None:
        self._sock.close()


def open_packet_socket() -> socket.socket:
    """One that receives nothing before it is bound. Raises OSError."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setblocking(False)
    return sock


def check_privilege(drop_in: str = DROP_IN) -> None:
    """Raise LinkError if this process may not take packets; it names that drop-in of the service."""
    try:
        open_packet_socket().close()
    except OSError as error:
        raise _refused(error, "any interface", drop_in) from error


def _refused(error: OSError, interface: str, drop_in: str = DROP_IN) -> LinkError:
    number = error.errno or 0
    return LinkError(
        f"cannot take packets on {interface} (AF_PACKET)",
        reason_of(error),
        WAYS_OUT.get(number, "").format(drop_in),
        errno=number,
        interface=interface,
    )


def program(
    groups: Iterable[Address] | None, version: int, *, is_loopback: bool = False
) -> list[Instruction]:
    """The kernel's filter: whole packets to one of these groups, or any, that are for the interface itself.

    Frames of another VLAN, or for another host, are not; and what the loopback interface sends it receives.
    """
    found = sorted({group.packed for group in groups or () if group.version == version})
    unwanted = [socket.PACKET_OTHERHOST, *([socket.PACKET_OUTGOING] if is_loopback else [])]
    instructions: list[Instruction] = [(LD_WORD, 0, 0, PACKET_TYPE)]
    for kind in unwanted:
        instructions += [(JUMP_EQUAL, 0, 1, kind), REJECT]
    instructions += [
        (LD_WORD, 0, 0, VLAN_TAG),
        (AND, 0, 0, _VLAN_ID),
        (JUMP_EQUAL, 1, 0, 0),
        REJECT,
        (LD_WORD, 0, 0, PROTOCOL),
        (JUMP_EQUAL, 1, 0, _ETHERTYPES[version]),
        REJECT,
    ]
    words = _DESTINATION[version]
    if groups is None or len(found) > GROUPS_MAX:
        mask, first = _MULTICAST[version]
        at = NETWORK_HEADER + words[0]
        return [
            *instructions,
            (LD_BYTE, 0, 0, at),
            (AND, 0, 0, mask),
            (JUMP_EQUAL, 0, 1, first),
            ACCEPT,
            REJECT,
        ]
    for group in found:
        left = len(words)
        for at in words:
            left -= 1
            operand = int.from_bytes(group[at - words[0] : at - words[0] + 4])
            instructions += [(LD_WORD, 0, 0, NETWORK_HEADER + at), (JUMP_EQUAL, 0, 2 * left + 1, operand)]
        instructions.append(ACCEPT)
    return [*instructions, REJECT]


def obstacles(host: Host, interfaces: Iterable[Interface]) -> Iterator[str]:
    """What keeps packets from coming by these interfaces, as far as they show it."""
    for interface in interfaces:
        if (taker := host.taken_by(interface)) is not None:
            yield (
                f"{interface.name} is a port of {taker.name}, which takes all that arrives there:"
                f' set interface = "{taker.name}"'
            )
        elif not interface.up:
            yield f"{interface.name} is down: nothing comes from there"
        elif not interface.carrier:
            yield f"{interface.name} has no carrier: nothing comes from there"
