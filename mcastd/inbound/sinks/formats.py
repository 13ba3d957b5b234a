"""What a datagram becomes on an output. Pure: a batch in, one record for each of its datagrams out."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring as quoted  # in C; gives a JSON string, non-ASCII as it is

from mcastd.inbound.sinks.records import Record
from mcastd.net.link import Batch

Format = Callable[[Batch], Sequence[Record]]
"""The records of a raw batch are the batch's own buffers: valid as long as these."""

NEED_ARRIVALS = frozenset({"json"})


def make_format(name: str, group: str, interface_name: Callable[[int], str]) -> Format:
    """The format called ``name``: ``raw``, ``lines`` or ``json``.

    ``interface_name`` gives the name of an ifindex; it is asked once a batch for each sender.
    """
    match name:
        case "raw":
            return raw
        case "lines":
            return lines
        case "json":
            return lambda batch: list(_json(batch, group, interface_name))
        case _:
            raise ValueError(name)


def raw(batch: Batch) -> Sequence[Record]:
    """Payload bytes as they came."""
    return batch.payloads


def lines(batch: Batch) -> Sequence[Record]:
    """A line for each datagram: a newline is added where the payload does not end with one."""
    return [p if p[-1:] == b"\n" else b"".join((p, b"\n")) for p in batch.payloads]


def _json(batch: Batch, group: str, interface_name: Callable[[int], str]) -> Iterator[bytes]:
    """An object a line. Formatted by hand, at a third of the cost of json.dumps: what the datagrams of a
    batch have in common (the second, the sender) is formatted once for all of them."""
    seconds: dict[int, str] = {}
    senders: dict[tuple[str, int, int, int], str] = {}
    for payload, arrival in zip(batch.payloads, batch.arrivals, strict=True):
        source, port, ifindex, ttl, time_ns = arrival
        if time_ns:
            second, nanoseconds = divmod(time_ns, 1_000_000_000)
            stamp = seconds.get(second)
            if stamp is None:
                stamp = seconds[second] = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
            time = f'"{stamp}.{nanoseconds:09}Z"'
        else:
            time = "null"
        key = (source, port, ifindex, ttl)
        sender = senders.get(key)
        if sender is None:
            interface = quoted(interface_name(ifindex)) if ifindex else "null"
            sender = senders[key] = (
                f'"source":{quoted(source)},"port":{port},"group":{quoted(group)},'
                f'"interface":{interface},"ttl":{ttl if ttl >= 0 else "null"}'
            )
        try:
            content = quoted(str(payload, "utf-8"))
        except UnicodeDecodeError:
            content = f'"{b2a_base64(payload, newline=False).decode()}","encoding":"base64"'
        record = f'{{"time":{time},{sender},"length":{len(payload)},"payload":{content}}}\n'
        yield record.encode(errors="replace")  # an interface's name may be no UTF-8
