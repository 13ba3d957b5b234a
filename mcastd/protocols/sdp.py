"""Session descriptions: SDP (RFC 8866), with source filters (RFC 4570) and duplicated streams (RFC 7104).

Of a description there is what a receiver of multicast needs: which streams there are, to which group and port
they are sent, by whom, and which of them are the same stream by two ways. Other attributes are kept as text.

```
  v=0
  o=mcastd 4711 3972651234 IN IP4 192.0.2.9         who made it; a higher number is a newer version
  s=News
  c=IN IP4 239.192.1.1/8                            group and TTL; of all media, or below the one it is of
  t=0 0                                             when, in NTP seconds: 0 0 is always
  m=video 5004 RTP/AVP 33                           a medium: kind, port, transport, formats
  a=source-filter: incl IN IP4 239.192.1.1 192.0.2.9
```
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.ip import Address
from mcastd.protocols.lct import Malformed

MEDIA_TYPE = "application/sdp"
# What a description may have at most. Real ones have some hundred bytes, those of ST 2110 a few thousand.
DESCRIPTION_MAX_BYTES = 16_384
LINES_MAX = 1000
MEDIA_MAX = 64
SOURCES_MAX = 64  # in the filters of a medium, or of the session
# Seconds from 1900, where NTP counts from, to 1970.
NTP_TO_UNIX_SECONDS = 2_208_988_800

# Letters of lines, by where they may stand
_SESSION_LINES = frozenset("osiuepcbtrzkam")
_MEDIUM_LINES = frozenset("icbkam")
_DIGITS_MAX = 20  # 64 bits
# Encodings of payload types that need no rtpmap: RFC 3551 section 6.
_STATIC_ENCODINGS = {"33": "MP2T/90000"}

Attribute = tuple[str, str | None]  # its name and value; None: it has none


class SessionOrigin(NamedTuple):
    """Who made a description, and which of that maker's it is (``o=``)."""

    user: str
    session: str  # digits
    version: int  # grows with each change of the description
    address: str  # of the maker, or a name; no program has to believe it

    @property
    def identity(self) -> tuple[str, str, str]:
        """What all versions of a description have in common."""
        return self.user, self.session, self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One stream of a session (``m=``)."""

    kind: str  # "video", "audio", "application" and so on
    port: int  # 0: it is not offered
    transport: str  # "RTP/AVP", "udp" and so on
    formats: tuple[str, ...]  # with RTP: payload types
    address: Address | None  # that it is sent to; None: the description says none
    ttl: int | None = None  # of IPv4
    addresses: int = 1  # how many there are, one after another (layers)
    sources: tuple[Address, ...] = ()  # the only senders; none: any
    excluded: tuple[Address, ...] = ()  # those that are no senders of it
    mid: str = ""  # the name that groups have it by (RFC 5888)
    attributes: tuple[Attribute, ...] = ()  # all others

    @property
    def encoding(self) -> str:
        """What its first format is, as ``MP2T/90000``; "" if that is not said."""
        first = self.formats[0]
        for name, value in self.attributes:
            if name == "rtpmap" and value is not None and value.partition(" ")[0] == first:
                return value.partition(" ")[2].strip()
        return _STATIC_ENCODINGS.get(first, "") if self.transport.startswith("RTP/") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDescription:
    origin: SessionOrigin
    name: str
    media: tuple[Medium, ...]
    information: str = ""
    ends: int | None = None  # Unix seconds; None: it does not
    duplicates: tuple[tuple[int, ...], ...] = ()  # media that are one stream by several ways: their indices
    attributes: tuple[Attribute, ...] = ()  # of the whole session

    def legs_of(self, index: int) -> tuple[Medium, ...]:
        """The medium of that index, and those that duplicate it, in the order of the description."""
        legs = next((group for group in self.duplicates if index in group), (index,))
        return tuple(self.media[leg] for leg in legs)


# -- reading


class _Connection(NamedTuple):
    address: Address
    ttl: int | None
    addresses: int


class _Filter(NamedTuple):
    include: bool
    group: Address | None  # None: "*", all
    sources: tuple[Address, ...]


@dataclass(slots=True)
class _Section:
    """The lines of the session, or of a medium."""

    connection: _Connection | None = None
    filters: list[_Filter] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # the first line of each letter
    ends: list[int] = field(default_factory=list)
    groups: list[Sequence[str]] = field(default_factory=list)
    mid: str = ""


class _MediumLine(NamedTuple):
    kind: str
    port: int
    transport: str
    formats: tuple[str, ...]


def parse(data: bytes) -> SessionDescription:
    """Read a description. Raises Malformed, whose text names the line."""
    session, opened = _Section(), list[tuple[_MediumLine, _Section]]()
    part, known = session, _SESSION_LINES
    for number, line in _lines(data):
        letter, value = line[0], line[2:]
        try:
            if line[1:2] != "=" or letter not in known:
                raise Malformed("line", "this line has no place here")
            if letter == "m":
                if len(opened) == MEDIA_MAX:
                    raise Malformed("too-many-media", f"it has more than {MEDIA_MAX} media")
                part, known = _Section(), _MEDIUM_LINES
                opened.append((_medium_line(value), part))
            else:
                _take(part, letter, value)
        except Malformed as error:
            raise Malformed(error.reason, f"line {number}: {error}") from None
    if "o" not in session.texts or "s" not in session.texts:
        raise Malformed(
            "incomplete", "it lacks its origin (o=) or its name (s=), as o=- 0 0 IN IP4 127.0.0.1 and s=-"
        )
    ends = None if not session.ends or 0 in session.ends else max(session.ends) - NTP_TO_UNIX_SECONDS
    shared = dict[tuple[int | None, tuple[int, ...]], _Sources]()
    return SessionDescription(
        origin=_origin(session.texts["o"]),
        name=session.texts["s"].strip(),
        media=tuple(_medium(line, part, session, shared) for line, part in opened),
        information=session.texts.get("i", "").strip(),
        ends=ends,
        duplicates=_duplicates(session.groups, [part.mid for _, part in opened]),
        attributes=tuple(session.attributes),
    )


def origin_in(data: bytes) -> SessionOrigin:
    """The origin that a message of deletion names, which has that line alone. Raises Malformed."""
    for line in data[:DESCRIPTION_MAX_BYTES].decode(errors="replace").split("\n"):
        if line.startswith("o="):
            return _origin(line[2:].strip())
    raise Malformed("incomplete", "it names no origin (o=)")


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """The lines after ``v=0``, without empty ones, with their numbers from 1.

    Programs in C send the NUL behind a text, too; editors put a byte order mark before it, and ffmpeg a line.
    """
    data = data.rstrip(b"\0").removeprefix(codecs.BOM_UTF8)
    if len(data) > DESCRIPTION_MAX_BYTES:
        raise Malformed("too-long", f"it is longer than {DESCRIPTION_MAX_BYTES} bytes")
    if b"\0" in data:
        raise Malformed("line", "it has a NUL character")
    latin = b"a=charset:iso-8859-1" in data.lower()
    lines = data.decode("latin-1" if latin else "utf-8", errors="replace").split("\n")
    if len(lines) > LINES_MAX:
        raise Malformed("too-many-lines", f"it has more than {LINES_MAX} lines")
    first = int(lines[0].rstrip() == "SDP:")
    if [line.rstrip() for line in lines[first : first + 1]] != ["v=0"]:
        raise Malformed("version", "line 1: it does not begin with v=0")
    for number, line in enumerate(lines[first + 1 :], first + 2):
        if text := line.rstrip("\r"):
            yield number, text


def _take(part: _Section, letter: str, value: str) -> None:
    """Take note of a line. Raises Malformed."""
    if letter == "c":
        # Of several, which are layers of one medium, the first is what everybody has to receive
        part.connection = part.connection or _connection(value)
    elif letter == "t":
        times = value.split()
        if len(times) != 2:
            raise Malformed("time", "t= has a time to begin and one to end")
        part.ends.append(_number(times[1], (1 << 64) - 1, "a time"))
    elif letter == "a":
        name, colon, text = value.partition(":")
        if name == "source-filter":
            part.filters.append(_filter(text))
            if sum(len(one.sources) for one in part.filters) > SOURCES_MAX:
                raise Malformed("source-filter", f"there are more than {SOURCES_MAX} sources")
        elif name == "mid":
            part.mid = text.strip()
        elif name == "group" and text.split()[:1] == ["DUP"]:
            part.groups.append(text.split()[1:])
        else:
            part.attributes.append((name, text if colon else None))
    else:
        part.texts.setdefault(letter, value)


def _number(text: str, most: int, what: str, least: int = 0) -> int:
    sound = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    if not sound or not least <= int(text) <= most:
        raise Malformed("number", f"{what} is a number from {least} to {most}")
    return int(text)


def _address(family: str, text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise Malformed("address", "it has no address, and names are not looked up") from None
    if family != f"IP{address.version}" or "%" in text:
        raise Malformed("address", f"it is no address of {family or 'any kind'}")
    return address


def _origin(value: str) -> SessionOrigin:
    words = value.split()
    if len(words) != 6:
        raise Malformed("origin", "o= has six words")
    user, session, version, _, _, address = words
    _number(session, (1 << 64) - 1, "the session of o=")
    return SessionOrigin(user, session, _number(version, (1 << 64) - 1, "the version of o="), address)


def _connection(value: str) -> _Connection:
    words = value.split()
    if len(words) != 3 or words[0] != "IN":
        raise Malformed("address", "c= has a network (IN), a family and an address")
    text, *numbers = words[2].split("/")
    address = _address(words[1], text)
    if len(numbers) > (2 if address.version == 4 else 1):
        raise Malformed("address", "c= has more numbers than a TTL and how many addresses there are")
    ttl = _number(numbers.pop(0), 255, "a TTL") if numbers and address.version == 4 else None
    return _Connection(
        address, ttl, _number(numbers[0], 1 << 16, "how many addresses there are", 1) if numbers else 1
    )


def _medium_line(value: str) -> _MediumLine:
    words = value.split()
    if len(words) < 4:
        raise Malformed("medium", "m= has a kind, a port, a transport and formats")
    kind, ports, transport, *formats = words
    port, _, count = ports.partition("/")
    if count:
        _number(count, 65_535, "how many ports there are", 1)
    return _MediumLine(kind, _number(port, 65_535, "a port"), transport, tuple(formats))


def _filter(text: str) -> _Filter:
    words = text.split()
    if len(words) < 5 or words[0] not in ("incl", "excl") or words[1] != "IN":
        raise Malformed("source-filter", "it needs incl or excl, IN, a family, a group and sources")
    mode, _, family, group, *sources = words
    if family == "*":  # RFC 4570 section 3.1: of either family, which goes with names
        family = "IP6" if ":" in group + sources[0] else "IP4"
    return _Filter(
        mode == "incl",
        None if group == "*" else _address(family, group),
        tuple(_address(family, source) for source in sources),
    )


_Sources = tuple[tuple[Address, ...], tuple[Address, ...]]  # included, and excluded


def _medium(
    line: _MediumLine,
    part: _Section,
    session: _Section,
    shared: dict[tuple[int | None, tuple[int, ...]], _Sources],
) -> Medium:
    """A medium, with what the session says for all. Raises Malformed.

    ``shared`` are sources by the filters of the session that they are of: those of 64 media may be the same.
    """
    connection = part.connection or session.connection
    address = connection and connection.address
    # RFC 4570 section 3: what the medium says of a group replaces what the session says of it
    if own := _filters_of(address, part.filters):
        included, excluded = _sources(own, address)
    else:
        found = _filters_of(address, session.filters)
        key = None if address is None else address.version, tuple(map(id, found))
        if key not in shared:
            shared[key] = _sources(found, address)
        included, excluded = shared[key]
    return Medium(
        **line._asdict(),
        address=address,
        ttl=connection and connection.ttl,
        addresses=connection.addresses if connection else 1,
        sources=included,
        excluded=excluded,
        mid=part.mid,
        attributes=tuple(part.attributes),
    )


def _filters_of(address: Address | None, filters: Sequence[_Filter]) -> list[_Filter]:
    return [one for one in filters if one.group in (None, address)]


def _sources(filters: Sequence[_Filter], address: Address | None) -> _Sources:
    """The sources that filters include, and those that they exclude, of the family of ``address``."""
    found: dict[bool, dict[Address, None]] = {True: {}, False: {}}
    for one in filters:
        of_family = (source for source in one.sources if address is None or source.version == address.version)
        found[one.include].update(dict.fromkeys(of_family))
    return tuple(found[True]), tuple(found[False])


def _duplicates(groups: Sequence[Sequence[str]], mids: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The indices of the media that each group names; a name that no medium has counts for nothing."""
    by_mid = {mid: index for index, mid in reversed(list(enumerate(mids))) if mid}
    found = (tuple(dict.fromkeys(by_mid[mid] for mid in group if mid in by_mid)) for group in groups)
    return tuple(group for group in found if len(group) > 1)


# -- building


def build(session: SessionDescription) -> bytes:
    """The text of a description. All that it holds is text without line ends; what has some, has spaces."""
    origin, media = session.origin, session.media
    # Of a single medium at the session: ffmpeg 5.1 overlooks what is said of MPEG-TS below it
    alone = media[0] if len(media) == 1 else None
    lines = [
        "v=0",
        f"o={origin.user} {origin.session} {origin.version} IN {_family(origin.address)} {origin.address}",
        f"s={session.name or '-'}",
        *([f"i={session.information}"] if session.information else []),
        *([_connection_line(alone)] if alone and alone.address else []),
        f"t=0 {0 if session.ends is None else session.ends + NTP_TO_UNIX_SECONDS}",
        *(f"a=group:DUP {' '.join(media[index].mid for index in group)}" for group in session.duplicates),
        *map(_attribute_line, session.attributes),
    ]
    for medium in media:
        lines.append(f"m={medium.kind} {medium.port} {medium.transport} {' '.join(medium.formats)}")
        if medium.address and not alone:
            lines.append(_connection_line(medium))
        for mode, sources in (("incl", medium.sources), ("excl", medium.excluded)):
            if medium.address and sources:
                to = f"IN IP{medium.address.version} {medium.address}"
                lines.append(f"a=source-filter: {mode} {to} {' '.join(map(str, sources))}")
        if medium.mid:
            lines.append(f"a=mid:{medium.mid}")
        lines += map(_attribute_line, medium.attributes)
    return "".join(f"{' '.join(line.splitlines())}\r\n" for line in lines).encode(errors="replace")


def _family(address: str) -> str:
    return "IP6" if ":" in address else "IP4"


def _connection_line(medium: Medium) -> str:
    assert medium.address is not None
    parts = [str(medium.address)]
    if medium.address.version == 4 and medium.address.is_multicast:
        parts.append(str(1 if medium.ttl is None else medium.ttl))
    if medium.addresses > 1:
        parts.append(str(medium.addresses))
    return f"c=IN IP{medium.address.version} {'/'.join(parts)}"


def _attribute_line(attribute: Attribute) -> str:
    name, value = attribute
    return f"a={name}" if value is None else f"a={name}:{value}"
