"""Requests of HTTP/1.0 and 1.1 for something to be fetched: RFC 9112, as far as GET and HEAD go.

One request is taken of a connection, and none has a body. So nothing that two programs could read in two ways
goes on to a third (request smuggling, RFC 9112 section 11.2): a request with a body is refused.

```
   GET /udp/239.1.1.1:5004?x=1 HTTP/1.1 CRLF      method, target, version
   Host: tv.example.net:4022 CRLF                 fields: a name, a value
   CRLF                                           the end of the head
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

# Bytes of a head at most, and fields in it: browsers send a tenth of that.
HEAD_MAX_BYTES = 8192
FIELDS_MAX = 64
# Parameters of a query at most.
PARAMETERS_MAX = 32

METHODS = ("GET", "HEAD")
_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
# White space around a value is taken off behind it: a pattern that does would try all ways to share it out.
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r\n]*)")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::[0-9]{1,5})?")


class HttpRefusal(ValueError):
    """A request that is not served: ``status`` is the code of the answer, the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is asked for."""

    method: str  # one of METHODS
    path: str  # decoded; it begins with a slash
    query: Mapping[str, str]  # decoded parameters; of several of a name, the last one
    version: tuple[int, int]  # (1, 0) or (1, 1)
    host: str  # that the client means, without its port, in lower case; "": HTTP/1.0 need not say it
    authority: str  # the same as the client wrote it, with its port, as it stands in URLs
    fields: Mapping[str, str]  # by name in lower case; several of a name are joined by commas


class HttpRequestReader:
    """Takes the bytes of a connection until they are a request. It keeps no more than HEAD_MAX_BYTES."""

    def __init__(self) -> None:
        self._head = b""
        self._has_skipped = False  # the empty line that may come first

    @property
    def asks_head(self) -> bool:
        """True if the method is HEAD, whether all else can be read or not: then no answer has a body."""
        return self._head.startswith(b"HEAD ")

    def feed(self, data: bytes) -> HttpRequest | None:
        """Returns the request once its head is whole; what comes behind it is left out.

        Raises HttpRefusal. After either, nothing more may be fed.
        """
        looked = max(0, len(self._head) - 3)
        self._head += data[: HEAD_MAX_BYTES + 1 - len(self._head)]
        if not self._has_skipped and self._head.startswith(b"\r\n"):  # RFC 9112 section 2.2
            self._head, self._has_skipped, looked = self._head[2:], True, 0
        if (end := self._head.find(b"\r\n\r\n", looked)) >= 0:
            return parse_request(self._head[:end])
        if len(self._head) > HEAD_MAX_BYTES:
            raise HttpRefusal(431, f"the head of the request is longer than {HEAD_MAX_BYTES} bytes")
        begins = b"" if self._head == b"\r" else self._head[:1]
        if begins and not b"A" <= begins <= b"Z":  # TLS, say: it is not waited for more
            raise HttpRefusal(400, "this is no request of HTTP")
        return None


def parse_request(head: bytes) -> HttpRequest:
    """The request of a head without its final empty line. Raises HttpRefusal."""
    try:
        lines = head.decode("latin-1").split("\r\n")
    except UnicodeDecodeError as error:  # never: Latin-1 has all bytes
        raise HttpRefusal(400, "the head is no text") from error
    if (line := _REQUEST_LINE.fullmatch(lines[0])) is None:
        raise HttpRefusal(400, "the request line is not METHOD TARGET HTTP/VERSION")
    method, target = line[1], line[2]
    version = int(line[3]), int(line[4])
    if version[0] != 1:
        raise HttpRefusal(505, "HTTP/1.0 and HTTP/1.1 are spoken here")
    fields = _fields(lines[1:])
    _require_no_body(fields)
    if method not in METHODS:
        raise HttpRefusal(501 if method.lower() == method else 405, f"{' and '.join(METHODS)} are served")
    if "host" not in fields and version[1] >= 1:  # RFC 9112 section 3.2
        raise HttpRefusal(400, "Host is missing")
    authority = fields.get("host", "")
    host = _host_of(authority, "Host") if "host" in fields else ""
    if (whole := _ABSOLUTE.match(target)) is not None:  # which counts, whatever Host says: section 3.2.2
        authority, target = whole[1], target[whole.end() :]
        host = _host_of(authority, "the host of the target")
        target = target if target.startswith("/") else f"/{target}"
    path, query = _split(target)
    return HttpRequest(method, path, query, (1, min(version[1], 1)), host, authority, fields)


def _fields(lines: list[str]) -> dict[str, str]:
    if len(lines) > FIELDS_MAX:
        raise HttpRefusal(431, f"the head has more than {FIELDS_MAX} fields")
    fields: dict[str, str] = {}
    for line in lines:
        if (field := _FIELD.fullmatch(line)) is None:  # also one that goes on from the line before
            raise HttpRefusal(400, "a field of the head is not NAME: VALUE")
        name, value = field[1].lower(), field[2].strip(" \t")
        if name in fields and name in {"host", "content-length", "transfer-encoding"}:
            raise HttpRefusal(400, f"{field[1]} is there twice")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _require_no_body(fields: Mapping[str, str]) -> None:
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        raise HttpRefusal(413, "a request has no body here")
    if "expect" in fields:
        raise HttpRefusal(417, "nothing is expected here")


def _host_of(authority: str, what: str) -> str:
    """The host of a ``HOST:PORT``, or of a ``HOST`` alone."""
    if (host := _HOST.fullmatch(authority)) is None:
        raise HttpRefusal(400, f"{what} is not a name or address, and maybe a port")
    return host[1].lower()


def _split(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a target in origin-form (RFC 9112 section 3.2.1)."""
    if not target.startswith("/"):
        raise HttpRefusal(400, "the target is neither a path nor a URL")
    path, _, query = target.partition("?")
    if _ESCAPE.search(target) or "#" in target:
        raise HttpRefusal(400, "the target is not encoded as URLs are")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
        decoded = _decoded(path)
    except ValueError as error:
        raise HttpRefusal(400, "the target is not encoded as URLs are") from error
    return decoded, dict(pairs)


def _decoded(path: str) -> str:
    """Raises ValueError for what no path should have."""
    raw = re.sub(rb"%(..)", lambda escape: bytes([int(escape[1], 16)]), path.encode("ascii"))
    text = raw.decode()
    if not text.isprintable():
        raise ValueError
    return text
