"""What a datagram becomes on an output. Pure: a batch in, one record for each of its datagrams out."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from json.encoder import encode_basestring as quote  # in C; gives a JSON string, non-ASCII as it is

from mcastd.inbound.sinks.records import Parts, Payloads, Records
from mcastd.net.link import Batch, Origin

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment] # optional: the standard library's takes longer for long payloads

Format = Callable[[Batch], Records]

NEED_METADATA = frozenset({"json"})
NANO = 1_000_000_000


def make_format(name: str, group: str, interface_name: Callable[[int], str]) -> Format:
    """The format called ``name``: ``raw``, ``lines`` or ``json``.

    ``interface_name`` gives the name of an ifindex; it is asked once a batch for each sender.
    """
    match name:
        case "raw":
            return Payloads
        case "lines":
            return lines
        case "json":
            return lambda batch: Parts(list(_json(batch, group, interface_name)))
        case _:
            raise ValueError(name)


def lines(batch: Batch) -> Records:
    """A line for each datagram: a newline is added where the payload does not end with one."""
    return Parts([p if p[-1:] == b"\n" else b"".join((p, b"\n")) for p in batch.payloads])


def _json(batch: Batch, group: str, interface_name: Callable[[int], str]) -> Iterator[bytes]:
    """An object a line. Formatted by hand, at a fraction of the cost of json.dumps: what the datagrams of a
    batch have in common (the second, the sender) is formatted once for all of them."""
    senders: dict[Origin, bytes] = {}
    second, stamp = -1, b""
    for payload, origin, time_ns in zip(batch.payloads, batch.origins, batch.times, strict=True):
        sender = senders.get(origin)
        if sender is None:
            sender = senders[origin] = _sender(origin, group, interface_name)
        nanoseconds = time_ns - second * NANO
        if not 0 <= nanoseconds < NANO:
            second, nanoseconds = divmod(time_ns, NANO)
            stamp = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}".encode()
        time = b'"%b.%09dZ"' % (stamp, nanoseconds) if time_ns else b"null"
        try:
            content = quoted(str(payload, "utf-8"))
        except UnicodeDecodeError:
            content = b'"%b","encoding":"base64"' % b2a_base64(payload, newline=False)
        yield b'{"time":%b,%b,"length":%d,"payload":%b}\n' % (time, sender, len(payload), content)


def _in_quotes(text: str) -> bytes:
    return quote(text).encode()


quoted: Callable[[str], bytes] = _in_quotes if orjson is None else orjson.dumps


def _sender(origin: Origin, group: str, interface_name: Callable[[int], str]) -> bytes:
    source, port, ifindex, ttl = origin
    interface = quote(interface_name(ifindex)) if ifindex else "null"
    text = (
        f'"source":{quote(source)},"port":{port},"group":{quote(group)},'
        f'"interface":{interface},"ttl":{ttl if ttl >= 0 else "null"}'
    )
    return text.encode(errors="replace")  # an interface's name may be no UTF-8
