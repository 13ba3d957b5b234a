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
