"""Numbers in the configuration: durations, sizes and rates with units, and plain ones, some with names.

See types.py for what all parsers have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from mcastd.config.words import show

MAX_DURATION = 366 * 86_400  # seconds
MAX_SIZE = 1 << 50  # bytes
MAX_RATE = 10**12  # bit/s

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
    "kB": 1000,  # format_size() writes the first of equal units: kB, not KB
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


_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_PERCENT = re.compile(rf"\s*(?P<number>{_NUMBER.pattern})\s*%\s*")
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


PERCENT_MAX = 50


def parse_percent(value: object) -> float:
    """A percentage from 0 to PERCENT_MAX, with its sign: ``"5%"``, ``"0.5%"``. Zero needs no sign."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not (percent := float(match["number"])) <= PERCENT_MAX:
        hint = ""
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= PERCENT_MAX:
            hint = f'; write "{value:g}%"' if value >= 1 else f'; "{100 * value:g}%" or "{value:g}%"?'
        raise ValueError(f'must be a percentage from "0%" to "{PERCENT_MAX}%", not {show(value)}{hint}')
    return percent


def format_percent(percent: float) -> str:
    return f"{str(percent).removesuffix('.0')}%"


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


def parse_number_size(value: object) -> int:
    """The bytes of a number in a datagram."""
    if isinstance(value, int) and not isinstance(value, bool) and value in {1, 2, 4, 8}:
        return value
    raise ValueError(f"must be 1, 2, 4 or 8 bytes, not {show(value)}")


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
