"""Words and numbers as a terminal shows them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A time span as systemd writes them, by its two largest units: ``2min 3s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, length)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"


def printable(value: object) -> str:
    """As text that is safe on a terminal: control characters, and bytes that are no UTF-8, are escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
