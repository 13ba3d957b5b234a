"""Where each key of a TOML text stands. Needed for error messages only, so a valid text is not read twice.

tomllib keeps no positions. But a TOML text is a sequence of statements (a table header, or a key with
its value), each of which tomllib parses alone; what is left to find is where a statement ends.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from mcastd.config.types import Location

# Keys below this depth are none of ours: the position of the path above them is enough.
KEY_PARTS_MAX = 8

# Line ends and brackets, and what may contain them without meaning them. In valid TOML no more is needed.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # the closing quotes may follow one or two that belong to the string
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)


def statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut valid TOML into its statements and what is between them, each with its first line, from 1."""
    start, first, line, depth = 0, 1, 1, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        line += token.count("\n")
        depth += (token in "[{") - (token in "]}")
        if token == "\n" and not depth:
            yield first, text[start : match.end()]
            start, first = match.end(), line
    yield first, text[start:]


def positions(text: str) -> dict[Location, int]:
    """The line of each table and key in valid TOML; a value inside another has the line of its statement."""
    lines: dict[Location, int] = {}
    elements: dict[Location, int] = {}  # of each array of tables, the index that headers now mean
    table: Location = ()
    for line, statement in statements(text):
        tree = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = ()
            while tree:
                ((key, below),) = tree.items()
                table += (key,)
                lines.setdefault(table, line)
                if isinstance(below, list):  # [[key]], always the last
                    elements[table] = elements.get(table, -1) + 1
                    below = {}
                if table in elements:
                    table += (elements[table],)
                tree = below
            lines[table] = line  # rather than where something below it was named before
        else:
            for path in _paths(tree, table):
                lines.setdefault(path, line)
    return lines


def _paths(tree: dict[str, object], table: Location) -> Iterator[Location]:
    """The path of everything in ``tree``."""
    todo: list[tuple[Location, object]] = [(table, tree)]
    while todo:
        path, node = todo.pop()
        yield path
        if len(path) < KEY_PARTS_MAX and isinstance(node, dict):
            todo += [((*path, key), value) for key, value in node.items()]
        elif len(path) < KEY_PARTS_MAX and isinstance(node, list):
            todo += [((*path, index), value) for index, value in enumerate(node)]


def nearest(lines: dict[Location, int], path: Location) -> tuple[int, int]:
    """How much of ``path`` has a position, and the line: that of the longest part that has one; 0 if none."""
    while path and path not in lines:
        path = path[:-1]
    return len(path), lines[path] if path else 0
