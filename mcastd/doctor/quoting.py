"""Names and paths that others chose, as a shell, the configuration and a unit have to have them.

An interface's name may hold anything but blanks, slashes and colons, and root carries out what a fix says.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from mcastd.printable import toml_escaped

_DOTTED = str.maketrans("./", "/.")
_ESCAPED = {'"': r"\"", "\\": r"\\"}


def command(*words: object) -> str:
    """A command of these words for a shell."""
    return shlex.join(map(str, words))


def by_itself(waits: str) -> str:
    """The fix where nothing else is known than what is done meanwhile: "trying again"."""
    return f"mend the cause, and it goes on by itself: it is {waits}"


def counted(numbers: Mapping[str, int]) -> str:
    """Numbers by what they count, such as ``full: 3, no-reader: 1,200``; ``-`` if there are none."""
    return ", ".join(f"{what}: {number:,}" for what, number in numbers.items()) or "-"


def sysctl(*keys: str, value: int = 0) -> str:
    """A command that sets keys such as ``net/ipv4/conf/eth0.7/rp_filter`` to a value.

    sysctl(8) wants dots for the slashes, and a slash for a dot that is in a name.
    """
    return command("sysctl", *(f"{key.translate(_DOTTED)}={value}" for key in keys))


def toml(text: str) -> str:
    """A string of the configuration (TOML 1.0, "Basic strings")."""
    return '"' + "".join(map(_of_toml, text)) + '"'


def _of_toml(character: str) -> str:
    if character.isprintable():
        return _ESCAPED.get(character, character)
    return toml_escaped(character)


def in_unit(path: Path) -> str:
    """A path in a list of a unit file: systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers"."""
    text = str(path).replace("%", "%%")
    if not set(text) & set(" \t'\"\\"):
        return text
    return '"' + "".join(_ESCAPED.get(character, character) for character in text) + '"'
