"""How values of the configuration are shown to people."""

from __future__ import annotations

from mcastd.printable import printable

# Characters of a refused value that its refusal repeats.
MAX_SHOWN = 60


def show(value: object) -> str:
    """A refused value as the user wrote it, or what it is if that is long; always one line."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value) if value.bit_length() < 128 else "a number of so many digits"
        case str():
            text = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
            return f'"{printable(text)}"'
        case dict():
            return "a table"
        case list() | tuple():
            return "an array"
    return str(value)


def choose(words: list[str]) -> str:
    """``"a", "b" or "c"``."""
    *most, last = (f'"{word}"' for word in words)
    return f"{', '.join(most)} or {last}" if most else last
