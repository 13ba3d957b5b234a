"""The queues through which interfaces send (qdiscs), by rtnetlink: see tc(8)."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass

from mcastd.errors import LinkError
from mcastd.net import _abi
from mcastd.net.netlink import attributes_of, number, request, text
from mcastd.net.routes import Ask

# Its length is the interface's txqueuelen, and follows it.
FAST = "pfifo_fast"


@dataclass(frozen=True, slots=True)
class Queue:
    """The outermost queue of an interface at one moment."""

    kind: str  # "pfifo_fast", "tbf", "mq", "noqueue", ...
    drops: int  # packets that it had no room for, since it was made; counted modulo 2**32
    length: int  # the interface's txqueuelen, in packets
    limit: str = ""  # what bounds it, as tc(8) shows it, where that is known

    def __str__(self) -> str:
        return f"{self.kind} {self.limit}" if self.limit else self.kind


def queues(ask: Ask = request) -> dict[int, Queue]:
    """The queue of each interface, by ifindex; none if the kernel does not say. Takes no privilege."""
    found: dict[int, Queue] = {}
    with contextlib.suppress(LinkError):
        lengths = {}
        for body in ask(_abi.RTM_GETLINK, _abi.ifinfomsg.pack(0, 0, 0, 0, 0), dump=True):
            link = attributes_of(body, _abi.ifinfomsg.size)
            lengths[_abi.ifinfomsg.unpack_from(body)[2]] = number(link.get(_abi.IFLA_TXQLEN, b""))
        for body in ask(_abi.RTM_GETQDISC, _abi.tcmsg.pack(0, 0, 0, 0, 0), dump=True):
            _family, ifindex, _handle, parent, _info = _abi.tcmsg.unpack_from(body)
            if parent == _abi.TC_H_ROOT:
                found[ifindex] = _queue(attributes_of(body, _abi.tcmsg.size), lengths.get(ifindex, 0))
    return found


def _queue(attributes: dict[int, bytes], length: int) -> Queue:
    kind = text(attributes.get(_abi.TCA_KIND, b""))
    counted = attributes_of(attributes.get(_abi.TCA_STATS2, b""), 0).get(_abi.TCA_STATS_QUEUE, b"")
    drops = _abi.gnet_stats_queue.unpack_from(counted)[2] if len(counted) >= 20 else 0
    return Queue(kind, drops, length, _limit(kind, attributes.get(_abi.TCA_OPTIONS, b""), length))


def _limit(kind: str, options: bytes, length: int) -> str:
    """Of the kinds that are asked for by hand most often."""
    with contextlib.suppress(struct.error):
        if kind == FAST:
            return f"txqueuelen {length}"
        if kind in ("pfifo", "bfifo"):
            return f"limit {_abi.tc_fifo_qopt.unpack_from(options)[0]}{kind[0]}"
        if kind == "tbf":
            parameters = attributes_of(options, 0).get(_abi.TCA_TBF_PARMS, b"")
            rate, limit = _abi.tc_tbf_qopt.unpack_from(parameters)
            return f"rate {8 * rate}bit limit {limit}b"
    return ""
