"""The kernel's numbers and structs that Python's socket module lacks, under their C names.

From linux/in.h, linux/in6.h, linux/udp.h, linux/if_packet.h, asm-generic/socket.h, linux/netlink.h,
linux/rtnetlink.h, linux/pkt_sched.h, linux/if_addr.h, linux/if_link.h, linux/mroute.h, linux/mroute6.h,
linux/icmpv6.h and linux/virtio_net.h. Imports nothing of the project, and
no ctypes: see ``_libc.py`` for that.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from mcastd.ip import Address

# Socket options, sorted by header and name
ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ICMPV6_FILTER = 1
IP_MTU_DISCOVER = 10
IP_MULTICAST_ALL = 49
IP_PKTINFO = 8
IP_PMTUDISC_PROBE = 3
IP_RECVERR = 11
IP_RECVTTL = 12
IP_TRANSPARENT = 19
IPV6_MTU_DISCOVER = 23
IPV6_MULTICAST_ALL = 29
IPV6_RECVERR = 25
IPV6_TRANSPARENT = 75
MCAST_EXCLUDE = 0
MCAST_INCLUDE = 1
MCAST_JOIN_GROUP = 42
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_GROUP = 45
MCAST_MSFILTER = 48
PACKET_ADD_MEMBERSHIP = 1
PACKET_AUXDATA = 8
PACKET_MR_ALLMULTI = 2
PACKET_STATISTICS = 6
PACKET_VNET_HDR = 15
SOL_PACKET = 263
SO_ATTACH_FILTER = 26
SO_BINDTOIFINDEX = 62
SO_DETACH_FILTER = 27
SO_MEMINFO = 55
SO_RCVBUFFORCE = 33
SO_RCVTIMEO = 20
MSG_WAITFORONE = 0x10000
SO_TIMESTAMPNS = 35
SOL_UDP = 17
UDP_GRO = 104
TP_STATUS_VLAN_VALID = 0x10
UDP_SEGMENT = 103
VIRTIO_NET_HDR_F_DATA_VALID = 2
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_GSO_ECN = 0x80
VIRTIO_NET_HDR_GSO_UDP_L4 = 5

sk_meminfo = struct.Struct("=9I")  # SO_MEMINFO's array (linux/sock_diag.h), indexed by these:
SK_MEMINFO_RMEM_ALLOC = 0
SK_MEMINFO_RCVBUF = 1
SK_MEMINFO_DROPS = 8

# sock_diag(7)
INET_DIAG_SKMEMINFO = 7
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20

inet_diag_req_v2 = struct.Struct("=BBBBI48s")  # sdiag_family, protocol, ext, pad, states, id
inet_diag_msg = struct.Struct("=68xI")  # what comes before it, idiag_inode

# rtnetlink(7)
IFA_ADDRESS = 1
IFA_FLAGS = 8
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
IFA_LOCAL = 2
BRIDGE_QUERIER_IPV6_OTHER_TIMER = 7
BRIDGE_QUERIER_IP_OTHER_TIMER = 3
DEVCONF_DISABLE_IPV6 = 26
IFLA_AF_SPEC = 26
IFLA_ALT_IFNAME = 53
IFLA_BR_MCAST_QUERIER = 25
IFLA_BR_MCAST_QUERIER_STATE = 47
IFLA_BR_MCAST_SNOOPING = 23
IFLA_CARRIER_CHANGES = 35
IFLA_IFNAME = 3
IFLA_INET6_CONF = 2
IFLA_INFO_DATA = 2
IFLA_INFO_KIND = 1
IFLA_INFO_SLAVE_KIND = 4
IFLA_LINKINFO = 18
IFLA_MASTER = 10
IFLA_MTU = 4
IFLA_PROP_LIST = 52
IFLA_TXQLEN = 13
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_GET_STRICT_CHK = 12
NETLINK_ROUTE = 0
NLMSG_DONE = 3
NLMSG_ERROR = 2
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10
NLM_F_REQUEST = 1
RTAX_MTU = 2
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PREFSRC = 7
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_VIA = 18
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV4_RULE = 0x80
RTMGRP_IPV6_IFADDR = 0x100
RTMGRP_IPV6_ROUTE = 0x400
RTMGRP_IPV6_RULE = 1 << 18
RTMGRP_LINK = 1
RTM_DELADDR = 21
RTM_DELLINK = 17
RTM_DELNEXTHOP = 105
RTM_DELROUTE = 25
RTM_F_FIB_MATCH = 0x2000
RTM_GETADDR = 22
RTM_GETLINK = 18
RTM_GETQDISC = 38
RTM_GETROUTE = 26
RTM_NEWADDR = 20
RTM_NEWLINK = 16
RTM_NEWNEXTHOP = 104
RTM_NEWROUTE = 24
RTNLGRP_NEXTHOP = 32
RTN_BLACKHOLE = 6
RTN_LOCAL = 2
RTN_PROHIBIT = 8
RTN_UNREACHABLE = 7
SOL_NETLINK = 270
TCA_KIND = 1
TCA_OPTIONS = 2
TCA_STATS2 = 7
TCA_STATS_QUEUE = 3
TCA_TBF_PARMS = 1
TC_H_ROOT = 0xFFFFFFFF

# net_device_flags (linux/if.h)
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
IFF_MULTICAST = 0x1000
IFF_RUNNING = 0x40
IFF_DORMANT = 0x20000

# Multicast routing: option numbers are the same in both families, MRT_* and MRT6_*
MAXVIFS = 32
MRT_ADD_MFC = 204
MRT_ADD_VIF = 202
MRT_ASSERT = 207
MRT_DEL_MFC = 205
MRT_DEL_VIF = 203
MRT_INIT = 200
MRT_PIM = 208
IGMPMSG_NOCACHE = 1
IGMPMSG_WRONGVIF = 2
SIOCGETSGCNT = 0x89E1
SIOCGETVIFCNT = 0x89E0  # of IPv6 as well, as SIOCGETMIFCNT_IN6
VIFF_USE_IFINDEX = 0x8
vifctl = struct.Struct("@HBBIi4x")  # vifi, flags, threshold, rate_limit, lcl_ifindex
mfcctl = struct.Struct("@4s4sH32sxxIIIi")  # origin, mcastgrp, parent, ttls, and four that are not read
mif6ctl = struct.Struct("@HBBHI")  # mifi, flags, threshold, pifi, rate_limit
mf6cctl = struct.Struct("@28s28sH2x32s")  # origin, mcastgrp, parent, ifset
sioc_sg_req = struct.Struct("@4s4sLLL")  # src, grp, pktcnt, bytecnt, wrong_if
sioc_sg_req6 = struct.Struct("@28s28sLLL")
sioc_vif_req = struct.Struct("@HLLLL")  # vifi, icount, ocount, ibytes, obytes; sioc_mif_req6 is the same
igmpmsg = struct.Struct("@8xBBBB4s4s")  # msgtype, mbz, vif, vif_hi, src, dst
mrt6msg = struct.Struct("@BBHI16s16s")  # mbz, msgtype, mif, pad, src, dst
in_pktinfo = struct.Struct("@i4s4s")  # ifindex, spec_dst, addr
in6_pktinfo = struct.Struct("@16si")  # addr, ifindex

nlmsghdr = struct.Struct("=IHHII")  # len, type, flags, seq, pid
rtattr = struct.Struct("=HH")  # len, type
ifinfomsg = struct.Struct("=BxHiII")  # family, type, index, flags, change
ifaddrmsg = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
tcmsg = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
gnet_stats_queue = struct.Struct("=5I")  # qlen, backlog, drops, requeues, overlimits
tc_fifo_qopt = struct.Struct("=I")  # limit
tc_tbf_qopt = struct.Struct("=8xI12xI8x")  # the rate in its tc_ratespec, limit
rtnexthop = struct.Struct("=HBBi")  # len, flags, hops, ifindex
rtmsg = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
tpacket_auxdata = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid
timespec = struct.Struct("@ll")
timeval = struct.Struct("@ll")
sock_extended_err = struct.Struct("=IBBBxII")  # errno, origin, type, code, info, data (linux/errqueue.h)
SO_EE_ORIGIN_LOCAL = 1
cmsghdr = struct.Struct("@Lii0L")  # cmsg_len, cmsg_level, cmsg_type
_cmsg_align = struct.calcsize("L")
StructLetter = Literal["i", "I", "l", "L", "Q"]  # struct's letters for C's int, long, and 64 bits
# By level and type: what the data holds, as names with format and offset
_CONTROL_FIELDS: dict[tuple[int, int], tuple[tuple[str, StructLetter, int], ...]] = {
    (socket.SOL_SOCKET, SO_TIMESTAMPNS): (("seconds", "l", 0), ("nanoseconds", "l", struct.calcsize("l"))),
    (SOL_UDP, UDP_GRO): (("segment", "i", 0),),
    (socket.IPPROTO_IP, socket.IP_TTL): (("ttl", "i", 0),),
    (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT): (("ttl", "i", 0),),
    (socket.IPPROTO_IP, IP_PKTINFO): (("local", "I", 4),),  # ipi_spec_dst
    (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO): (("local", "Q", 0), ("local_low", "Q", 8)),
}
_group_req_head = struct.Struct("@I0L")  # gr_interface, and the padding before a sockaddr_storage
SOCKADDR_STORAGE_SIZE = 128


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    return rtattr.pack(rtattr.size + len(value), kind) + value + bytes(-len(value) % 4)


def family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def socket_name(address: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What connect(2) takes of an address: of a link-local one its interface is told by number.

    Raises OSError if the host has no such interface.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        try:
            ifindex = socket.if_nametoindex(address.scope_id)
        except OSError as error:  # which has no number
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
        return str(address).partition("%")[0], port, 0, ifindex
    return str(address), port


def has_gone(ifindex: int) -> bool:
    """Return True if there is no interface of that number: one that was seen was deleted since."""
    try:
        socket.if_indextoname(ifindex)
    except OSError as error:
        return error.errno in (errno.ENXIO, errno.ENODEV)
    return False


def sockaddr_storage(address: Address) -> bytes:
    """``struct sockaddr_in`` or ``sockaddr_in6`` with port 0, padded to a sockaddr_storage."""
    head = struct.pack("=HH", family_of(address), 0)
    body = address.packed if address.version == 4 else bytes(4) + address.packed
    return (head + body).ljust(SOCKADDR_STORAGE_SIZE, b"\0")


def group_req(ifindex: int, group: Address) -> bytes:
    """``struct group_req`` (RFC 3678 section 5.1)."""
    return _group_req_head.pack(ifindex) + sockaddr_storage(group)


def group_source_req(ifindex: int, group: Address, source: Address) -> bytes:
    """``struct group_source_req`` (RFC 3678 section 5.1)."""
    return group_req(ifindex, group) + sockaddr_storage(source)


def group_filter(ifindex: int, group: Address, mode: int, sources: Sequence[Address], room: int = 0) -> bytes:
    """``struct group_filter`` (RFC 3678 section 5.2), with ``room`` for more sources to be read into."""
    head = group_req(ifindex, group) + struct.pack("=II", mode, len(sources) + room)
    return head + b"".join(map(sockaddr_storage, sources)) + bytes(room * SOCKADDR_STORAGE_SIZE)


def parse_group_filter(data: bytes, group: Address) -> tuple[int, list[Address]]:
    """The filter mode and the sources of a ``struct group_filter``."""
    head = len(group_req(0, group))
    mode, count = struct.unpack_from("=II", data, head)
    start, size = head + 8 + (4 if group.version == 4 else 8), len(group.packed)
    offsets = range(start, start + count * SOCKADDR_STORAGE_SIZE, SOCKADDR_STORAGE_SIZE)
    packed = [data[offset : offset + size] for offset in offsets]
    return mode, [ipaddress.ip_address(source) for source in packed if len(source) == size]


def parse_sockaddr(name: bytes) -> tuple[str, int]:
    """The address, as text without scope, and the port of a ``struct sockaddr_in`` or ``sockaddr_in6``."""
    port = int.from_bytes(name[2:4], "big")
    if int.from_bytes(name[:2], sys.byteorder) == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port


def control_fields(data: bytes) -> Iterator[tuple[str, StructLetter, int]]:
    """What a socket's control messages say (cmsg(3)): names of fields, each with its format and offset."""
    start = 0
    while start + cmsghdr.size <= len(data):
        length, level, kind = cmsghdr.unpack_from(data, start)
        if length < cmsghdr.size:
            return
        for name, form, offset in _CONTROL_FIELDS.get((level, kind), ()):
            yield name, form, start + cmsghdr.size + offset
        start += -(-length // _cmsg_align) * _cmsg_align


def ip_mreqn(ifindex: int) -> bytes:
    """``struct ip_mreqn`` that names an interface by its index alone (ip(7), IP_MULTICAST_IF)."""
    return struct.pack("=4s4si", bytes(4), bytes(4), ifindex)
