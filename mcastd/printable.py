"""Text that is safe on a terminal, whoever made it up: a sender, a daemon, a file's name."""

from __future__ import annotations


def toml_escaped(character: str) -> str:
    """A character that is not printable, as a string of TOML has it: ``\\u001b`` (TOML 1.0, "String")."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def printable(value: object) -> str:
    """``value`` as one line of text, in which nothing is obeyed, moved, hidden or turned round.

    Escaped are control characters (C0, C1), line and paragraph separators, marks of direction, tags and
    other format characters, and bytes that are no UTF-8.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
