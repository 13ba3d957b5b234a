"""What a value in the configuration may be: a parser for each kind, and the annotated type made of it.

Parsers are pure and take what TOML gives, or the parsed value itself. They raise ValueError with one
line that says what is allowed. The types also know how to write their value as TOML, exactly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, PlainSerializer, PlainValidator, StrictBool

Address = IPv4Address | IPv6Address
Interfaces = str | tuple[str, ...]  # one, or several
Location = tuple[str | int, ...]  # of a value in the configuration: keys and indices

MAX_DATAGRAM = 65_507  # bytes of payload: 65,535 less 20 (IPv4 header) less 8 (UDP header)
MAX_DURATION = 366 * 86_400  # seconds
MAX_SIZE = 1 << 50  # bytes
MAX_RATE = 10**12  # bit/s
MAX_SHOWN = 60  # characters of a refused value that its refusal repeats
SUN_PATH = 107  # bytes: what sockaddr_un holds beside the final NUL, unix(7)
ALTIFNAMSIZ = 128  # bytes of an alternative name, with the final NUL, linux/if.h; a first name has up to 16

_MICROSECOND = Fraction(1, 1_000_000)
_SECONDS = {  # systemd.time(7), less months and years, which have no fixed length
    unit: length
    for units, length in (
        ("us µs μs usec", _MICROSECOND),
        ("ms msec", 1000 * _MICROSECOND),
        ("s sec second seconds", Fraction(1)),
        ("m min minute minutes", Fraction(60)),
        ("h hr hour hours", Fraction(3600)),
        ("d day days", Fraction(86_400)),
        ("w week weeks", Fraction(604_800)),
    )
    for unit in units.split()
}
_BYTES = {
    "B": 1,
    "kB": 1000,  # before KB: the first of equals is the one that is written
    **{f"{prefix}iB": 1 << 10 * power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
}
_BITS = {
    f"{prefix}bit{suffix}": 1000**power
    for power, prefixes in enumerate(("", "kK", "mM", "gG"))
    for prefix in prefixes or ("",)
    for suffix in ("", "/s")
}
DSCP = {
    **{f"CS{precedence}": 8 * precedence for precedence in range(8)},  # RFC 2474
    **{f"AF{x}{y}": 8 * x + 2 * y for x in range(1, 5) for y in range(1, 4)},  # RFC 2597
    "EF": 46,  # RFC 3246
    "VA": 44,  # RFC 5865
    "LE": 1,  # RFC 8622
}


def show(value: object) -> str:
    """A refused value as the user wrote it, or what it is if that is long; always one line."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value) if value.bit_length() < 128 else "a number of so many digits"
        case str():
            text = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
            return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'
        case dict():
            return "a table"
        case list() | tuple():
            return "an array"
    return str(value)


def choose(words: list[str]) -> str:
    """``"a", "b" or "c"``."""
    *most, last = (f'"{word}"' for word in words)
    return f"{', '.join(most)} or {last}" if most else last


# -- numbers with units


_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_TERM = re.compile(rf"\s*(?P<number>{_NUMBER.pattern})\s*(?P<unit>[A-Za-zµμ/]+)\s*")


def _amount(value: object, units: Mapping[str, Fraction | int], terms: int, expected: str) -> Fraction:
    """The number, or the sum of up to ``terms`` numbers with units, that ``value`` stands for."""
    refusal = ValueError(f"must be {expected}, not {show(value)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return Fraction(value)
        except (ValueError, OverflowError):  # nan, inf
            raise refusal from None
    if not isinstance(value, str) or not value.strip():
        raise refusal
    if number := _NUMBER.fullmatch(value.strip()):
        return Fraction(number[0])
    total, position = Fraction(0), 0
    while position < len(value) and terms:
        term = _TERM.match(value, position)
        if not term or term["unit"] not in units:
            raise refusal
        total += Fraction(term["number"]) * units[term["unit"]]
        position, terms = term.end(), terms - 1
    if position < len(value):
        raise refusal
    return total


def parse_duration(value: object) -> float:
    """Seconds, from a number of them or a span of systemd.time(7): ``"500ms"``, ``"1min 30s"``."""
    expected = 'a number of seconds, or a span like "500ms" or "1min 30s" (units: us ms s min h d w)'
    seconds = _amount(value, _SECONDS, len(_SECONDS), expected)
    if not 0 <= seconds <= MAX_DURATION:
        raise ValueError(f"must be from 0 to {MAX_DURATION // 86_400} days, not {show(value)}")
    return float(seconds)


def parse_period(value: object) -> float:
    """A duration above 0."""
    seconds = parse_duration(value)
    if not seconds:
        raise ValueError(f"must be longer than 0, not {show(value)}")
    return seconds


def parse_moment(value: object) -> float:
    """A duration of at most a second."""
    seconds = parse_duration(value)
    if seconds > 1:
        raise ValueError(f"must be at most 1 second, not {show(value)}")
    return seconds


def parse_burst(value: object) -> float:
    """A duration above 0, of at most a second."""
    parse_period(value)
    return parse_moment(value)


def format_duration(seconds: float) -> str | float:
    """The span that parses to exactly ``seconds``; the number itself if it is finer than microseconds."""
    rest = Fraction(repr(seconds)) / _MICROSECOND
    if rest.denominator != 1:
        return seconds
    parts = []
    for unit in ("d", "h", "min", "s", "ms", "us"):
        count, rest = divmod(rest, _SECONDS[unit] / _MICROSECOND)
        parts += [f"{count}{unit}"] if count else []
    return " ".join(parts) or "0s"


def size(lowest: int, highest: int = MAX_SIZE) -> Callable[[object], int]:
    """A parser of bytes, from a number of them or a size: ``"64KiB"``, ``"100MB"``."""

    def parse(value: object) -> int:
        expected = 'a number of bytes, or a size like "64KiB" or "1.5GB" (units: kB MB GB TB KiB MiB GiB TiB)'
        return _whole(_amount(value, _BYTES, 1, expected), lowest, highest, "bytes", value)

    return parse


def format_size(count: int) -> str | int:
    return _with_unit(count, {unit: factor for unit, factor in _BYTES.items() if factor > 1})


def parse_rate(value: object) -> int:
    """Bits per second, from a number of them or a rate: ``"10Mbit"``, ``"500kbit/s"``."""
    expected = (
        'a number of bits per second, or a rate like "10Mbit" or "500kbit/s" (units: bit kbit Mbit Gbit)'
    )
    return _whole(_amount(value, _BITS, 1, expected), 0, MAX_RATE, "bits per second", value)


def format_rate(bits: int) -> str | int:
    return _with_unit(bits, {unit: _BITS[unit] for unit in ("kbit", "Mbit", "Gbit")})


def _whole(amount: Fraction, lowest: int, highest: int, unit: str, value: object) -> int:
    if amount.denominator != 1 or not lowest <= amount <= highest:
        raise ValueError(f"must be a whole number from {lowest:,} to {highest:,} {unit}, not {show(value)}")
    return int(amount)


def _with_unit(count: int, units: Mapping[str, int]) -> str | int:
    """The shortest exact way to write ``count`` with a unit; the number itself if there is none."""
    exact = [f"{count // factor}{unit}" for unit, factor in units.items() if count % factor == 0]
    return min(exact, key=len) if count and exact else count


# -- plain numbers and names for them


def whole_number(lowest: int, highest: int) -> Callable[[object], int]:
    """A parser of whole numbers from ``lowest`` to ``highest``."""

    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        hint = ""
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
            hint = "; take its quotes away"
        elif isinstance(value, list | tuple):
            hint = "; one number: make a table for every one"
        raise ValueError(f"must be a whole number from {lowest} to {highest}, not {show(value)}{hint}")

    return parse


def parse_dscp(value: object) -> int:
    """A DiffServ code point by name or number."""
    if isinstance(value, str) and value.upper() in DSCP:
        return DSCP[value.upper()]
    try:
        return whole_number(0, 63)(value)
    except ValueError:
        names = "CS0 to CS7, AF11 to AF43, EF, VA, LE"
        raise ValueError(f"must be one of {names}, or from 0 to 63, not {show(value)}") from None


def format_dscp(value: int) -> str | int:
    return next((name for name, number in DSCP.items() if number == value), value)


def parse_mode(value: object) -> int:
    """Permission bits, from TOML's octal ``0o640`` or the string ``"0640"`` of chmod(1)."""
    if isinstance(value, str) and re.fullmatch(r"0?o?[0-7]{3}", value):
        return int(value[-3:], 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    raise ValueError(f'must be permission bits up to 0o777, like 0o640 or "0640", not {show(value)}')


def format_mode(mode: int) -> str:
    return f"{mode:04o}"


def parse_repeat(value: object) -> int | Literal["forever"]:
    """How often: a count, ``"once"`` (1), or ``"forever"``."""
    if value == "forever":
        return "forever"
    if value == "once":
        return 1
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 63:
        return value
    raise ValueError(f'must be "once", "forever" or a count from 1, not {show(value)}')


def format_repeat(value: int | Literal["forever"]) -> int | str:
    return "once" if value == 1 else value


# -- addresses and interfaces


def _address(value: object) -> Address | None:
    if not isinstance(value, str | IPv4Address | IPv6Address):
        return None
    try:
        address = ip_address(value)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f'{show(str(value))} has a zone; name the interface by the key "interface" instead')
    return address


def parse_group(value: object) -> Address:
    """A multicast address, RFC 5771 (IPv4) or RFC 4291 section 2.7 (IPv6)."""
    address = _address(value)
    if address is None:
        hint = ""
        if isinstance(value, list | tuple):
            hint = "; one group each: make a table for every one"
        elif isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f.:]+/[0-9]+", value):
            hint = "; a prefix cannot be joined: name one group, and make a table for every one"
        elif isinstance(value, str) and (parts := re.search(r"([0-9]+(?:\.[0-9]+){3}):[0-9]+$", value)):
            hint = f'; the address alone, "{parts[1]}": the port has a key of its own'
        elif isinstance(value, str) and (bare := re.search(r"[0-9]+(\.[0-9]+){3}$", value)):
            hint = f'; the address alone, "{bare[0].lstrip("0")}"'
        raise ValueError(
            f'must be a multicast address like "239.255.1.2" or "ff15::1", not {show(value)}{hint}'
        )
    if not address.is_multicast:
        raise ValueError(f"{address} is not a multicast address (IPv4: 224.0.0.0/4, IPv6: ff00::/8)")
    return address


def parse_source_address(value: object) -> Address:
    """A unicast address that datagrams come from."""
    address = _address(value)
    if address is None:
        raise ValueError(f'must be an address like "192.0.2.10" or "2001:db8::10", not {show(value)}')
    if not is_unicast(address):
        raise ValueError(f"{address} is not a unicast address: nothing is ever sent from it")
    return address


def is_unicast(address: Address) -> bool:
    """Whether a host can have ``address``."""
    return not (address.is_multicast or address.is_unspecified or address == IPv4Address("255.255.255.255"))


def stays_on_link(group: Address) -> bool:
    """Whether no router forwards ``group``, whatever the TTL: RFC 5771 section 4, RFC 4291 section 2.7."""
    if isinstance(group, IPv4Address):
        return group.packed[:3] == bytes([224, 0, 0])
    return group.packed[1] & 0x0F in {1, 2}  # interface-local and link-local scope, whatever the flags


def parse_interface(value: object) -> str:
    """One interface: by a name, also an alternative one, or by a local unicast address."""
    text = value if isinstance(value, str) else ""
    if why := _misread(text):
        raise ValueError(f"{show(text)} {why}")
    if ":" in text or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text):
        address = _address(text)
        if address is None or not is_unicast(address):
            raise ValueError(f"{show(text)} is not an address that an interface can have")
        return str(address)
    if not 0 < len(os.fsencode(text)) < ALTIFNAMSIZ or re.search(r"[\s/\0]", text) or text in {".", ".."}:
        longest = ALTIFNAMSIZ - 1
        raise ValueError(
            f"must be an interface's name (at most {longest} bytes) or its address, not {show(value)}"
        )
    return text


def _misread(text: str) -> str:
    """What to write instead of a setting that means an interface in other programs; "" if it is none."""
    if text in {"any", "*", "0.0.0.0", "::"}:
        return 'is no interface: leave it out for the route to the group; a subscription may say "all"'
    if len(names := re.findall(r"[^,\s]+", text)) > 1:
        return f"is no interface's name; a subscription may say {list_of(names)}"
    if text.startswith("!"):
        return 'leaves one out, which cannot be said: name those that are meant, or a pattern like "eth[!3]"'
    address, zone, name = text.partition("%")
    if zone and name and ":" in address:
        return f"has a zone: write {show(name)} alone"
    if label := re.fullmatch(r"([^@]+)@[^@]+|([^:/]*[g-zG-Z][^:/]*):[^:/]+", text):
        shown = f"is how ip(8) shows it, with the interface below: write {show(label[1])}"
        return (
            shown
            if label[1]
            else f"is the label of an address: write {show(label[2])}, or the address itself"
        )
    network = re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]+", text)
    return "is a network: write the name of the interface, or its address" if network else ""


def list_of(names: Sequence[str]) -> str:
    """``["eth0", "eth1"]``."""
    return f"[{', '.join(map(show, names))}]"


def is_pattern(interface: str) -> bool:
    """Whether it is a pattern of names, as glob(7) has it."""
    return any(character in interface for character in "*?[")


def parse_interfaces(value: object) -> Interfaces:
    """One interface or several: names, addresses, patterns of names like ``"wg*"``, and ``"all"``."""
    several = value if isinstance(value, list | tuple) else [value]
    found = tuple(parse_interface(each) for each in several)
    if not found:
        raise ValueError("must have at least one interface; leave it out for the route to the group")
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"{show(each)} is named twice")
    return found if len(found) > 1 else found[0]


def parse_one_interface(value: object) -> str:
    """An interface that is one: no list, no pattern and not ``"all"``."""
    several = isinstance(value, list | tuple)
    if several or value == "all" or (isinstance(value, str) and is_pattern(value) and not _misread(value)):
        what = "a list" if several else show(value)
        raise ValueError(f"{what} is for inbound subscriptions; a channel sends on one interface")
    return parse_interface(value)


def interfaces_in(interface: Interfaces | None) -> tuple[str, ...]:
    """The elements of a parsed ``interface``; none if the route is to decide."""
    if interface is None:
        return ()
    return interface if isinstance(interface, tuple) else (interface,)


def interface_address(interface: str | None) -> Address | None:
    """The address in a parsed ``interface``, None if it is a name."""
    return _address(interface)


def means_several(interface: Interfaces | None) -> bool:
    """Whether a parsed ``interface`` may mean several at once."""
    return isinstance(interface, tuple) or (
        interface is not None and (interface == "all" or is_pattern(interface))
    )


def label_of(interface: Interfaces | None) -> str:
    """What stands for a parsed ``interface`` in metrics, as long as nobody knows which one it is.

    Empty if it is an address, or the route is to decide. What may mean several stands as it is written.
    """
    if isinstance(interface, tuple):
        return ",".join(interface)
    return interface if interface is not None and interface_address(interface) is None else ""


def parse_metrics(value: object) -> str:
    """Where to serve metrics: ``HOST:PORT``, an IPv6 address in brackets."""
    if isinstance(value, str) and (
        parts := re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})", value)
    ):
        host, port = parts.groups()
        brackets_right = not host.startswith("[") or isinstance(_address(host[1:-1]), IPv6Address)
        if brackets_right and 0 < int(port) <= 65_535:
            return value
    raise ValueError(f'must be an address and port like "127.0.0.1:9465" or "[::1]:9465", not {show(value)}')


def may_meet(one: Interfaces | None, other: Interfaces | None) -> bool:
    """Whether two settings of ``interface`` can mean the same interface."""
    if one is None or other is None:
        return True
    return any(
        "all" in (this, that) or fnmatchcase(this, that) or fnmatchcase(that, this)
        for this in interfaces_in(one)
        for that in interfaces_in(other)
    )


# -- paths and names


def normal(path: Path) -> str:
    """A path as text that equal paths have in common; links are not followed: no host is asked."""
    return os.path.normpath(f"/{str(path).lstrip('/')}")


def parse_path(value: object) -> Path:
    """An absolute path of something that is not a directory."""
    text = str(value) if isinstance(value, str | Path) else ""
    if not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {show(value)}")
    if "\0" in text:
        raise ValueError(f"{show(text)} has a NUL character, which no path can have")
    if os.path.basename(text) in {"", ".", ".."}:
        raise ValueError(f"{show(text)} names a directory; add the file's name")
    return Path(text)


def parse_socket_path(value: object) -> Path:
    """The path of a Unix socket."""
    path = parse_path(value)
    if len(os.fsencode(path)) > SUN_PATH:
        raise ValueError(f"{show(str(path))} is longer than a Unix socket's path can be ({SUN_PATH} bytes)")
    return path


def check_name(name: str) -> str:
    """A worker's name, which also goes into metrics, logs and commands."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError(
            f"a name is up to 64 letters, digits, dots, dashes and underscores, a letter or digit first, "
            f"not {show(name)}"
        )
    return name


Duration = Annotated[
    float, PlainValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
Period = Annotated[float, PlainValidator(parse_period), PlainSerializer(format_duration, when_used="json")]
Burst = Annotated[float, PlainValidator(parse_burst), PlainSerializer(format_duration, when_used="json")]
Moment = Annotated[float, PlainValidator(parse_moment), PlainSerializer(format_duration, when_used="json")]
Size = Annotated[int, PlainValidator(size(1)), PlainSerializer(format_size, when_used="json")]
BufferSize = Annotated[int, PlainValidator(size(1, 1 << 30)), PlainSerializer(format_size, when_used="json")]
Rate = Annotated[int, PlainValidator(parse_rate), PlainSerializer(format_rate, when_used="json")]
Port = Annotated[int, PlainValidator(whole_number(1, 65_535))]
Ttl = Annotated[int, PlainValidator(whole_number(0, 255))]
PayloadSize = Annotated[int, PlainValidator(whole_number(1, MAX_DATAGRAM))]
Keep = Annotated[int, PlainValidator(whole_number(0, 10_000))]
Dscp = Annotated[int, PlainValidator(parse_dscp), PlainSerializer(format_dscp, when_used="json")]
Mode = Annotated[int, PlainValidator(parse_mode), PlainSerializer(format_mode, when_used="json")]
Repeat = Annotated[
    int | Literal["forever"],
    PlainValidator(parse_repeat),
    PlainSerializer(format_repeat, when_used="json"),
]
Switch = StrictBool
Group = Annotated[Address, PlainValidator(parse_group)]
SourceAddress = Annotated[Address, PlainValidator(parse_source_address)]
AnyInterface = Annotated[Interfaces, PlainValidator(parse_interfaces)]
OneInterface = Annotated[str, PlainValidator(parse_one_interface)]
MetricsAddress = Annotated[str, PlainValidator(parse_metrics)]
FilePath = Annotated[Path, PlainValidator(parse_path)]
SocketPath = Annotated[Path, PlainValidator(parse_socket_path)]
WorkerName = Annotated[str, AfterValidator(check_name)]
