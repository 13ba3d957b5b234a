"""Classic BPF: programs by which the kernel filters what a socket receives (linux/filter.h, socket(7))."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence

from mcastd.net import _abi

# Operations, by their numbers in linux/bpf_common.h: load a word or a byte of the packet, jump if equal,
# jump, return, mask
LD_WORD, LD_BYTE, JUMP_EQUAL, JUMP, RETURN, AND = 0x20, 0x30, 0x15, 0x05, 0x06, 0x54
STORE, LD_STORED = 0x02, 0x60  # the scratch memory
NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from here on count from the IP header
PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL: the EtherType
PACKET_TYPE = 0xFFFFF004  # SKF_AD_PKTTYPE: PACKET_OUTGOING and so on, packet(7)
VLAN_TAG = 0xFFFFF02C  # SKF_AD_VLAN_TAG: the one that was taken off the frame; 0: it had none
WHOLE = 0xFFFFFFFF  # operand of RETURN: how many bytes of the packet to accept; 0 rejects it

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, operand
ACCEPT: Instruction = (RETURN, 0, 0, WHOLE)
REJECT: Instruction = (RETURN, 0, 0, 0)


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Let ``program`` decide what ``sock`` gets, instead of any that was attached before. Raises OSError."""
    if len(program) > MAX_INSTRUCTIONS:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    address, _ = code.buffer_info()
    fprog = struct.pack("@HP", len(program), address)
    sock.setsockopt(socket.SOL_SOCKET, _abi.SO_ATTACH_FILTER, fprog)


def detach(sock: socket.socket) -> None:
    """Let the socket get everything again. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, _abi.SO_DETACH_FILTER, 0)
