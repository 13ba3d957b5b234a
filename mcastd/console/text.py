"""Words and numbers as a terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def span(seconds: float) -> str:
    """A time span as systemd writes them, by its two largest units: ``2min 3s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, length)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"


def scaled(value: float, unit: str) -> str:
    """A quantity with three digits or so: ``12.7 Mbit/s``, ``1,203 bit/s``."""
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 9999.5 if not prefix else abs(value) < 999.5:
            break
        value /= 1000
    else:
        value, prefix = value * 1000, "G"
    return f"{value:,.0f} {unit}" if not prefix else f"{value:,.3g} {prefix}{unit}"


def plural(count: int, thing: str, things: str = "") -> str:
    """``1 datagram``, ``1,203 datagrams``."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def short(number: float) -> str:
    """A count or rate in at most five characters: ``0``, ``0.5``, ``123``, ``12.3k``, ``456M``."""
    if 0 < number < 9.95:
        return f"{number:.1f}".removesuffix(".0")
    for suffix in ("", "k", "M", "G", "T", "P"):
        if number < 99.95 and suffix:
            return f"{number:.1f}{suffix}"
        if number < 999.5:
            return f"{number:.0f}{suffix}"
        number /= 1000
    return "huge"


def age(seconds: float | None) -> str:
    """How long ago, in at most four characters: ``59s``, ``3m``, ``23h``, ``120d``; ``-`` for never."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{min(int(seconds / length), 999)}{unit}"
    return f"{max(0, int(seconds))}s"


def bar(part: float, width: int = 20) -> str:
    """How much of something is done, 0 to 1: ``[#####---------------]  25%``. It is full only at the end."""
    part = min(max(0.0, part), 1.0)
    full = int(part * width)
    return f"[{'#' * full}{'-' * (width - full)}] {int(100 * part):3}%"


BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"


def sparkline(values: Sequence[float], width: int, span: int, blocks: str = BLOCKS) -> str:
    """``values``, the newest last and to the right, of which ``span`` would fill ``width`` characters.

    Each character stands for the largest of its values, as high as that is beside the largest of all; what is
    not zero can be seen.
    """
    largest = max(values, default=0.0)
    if largest <= 0:
        return " " * width
    line = []
    for place in range(width):  # from the right
        first, end = place * span // width, (place + 1) * span // width
        newest, oldest = len(values) - first, len(values) - max(end, first + 1)
        value = max(values[max(0, oldest) : max(0, newest)], default=0.0)
        line.append(blocks[math.ceil(value / largest * (len(blocks) - 1))])
    return "".join(reversed(line))
