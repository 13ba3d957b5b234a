"""What people read of an error of the kernel: its words, and no ``[Errno 2]`` before them."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import mcastd

PACKAGE = Path(mcastd.__file__).parent
TO_TEXT = {"str", "printable", "echo", "join"}
FOR_PEOPLE = {"reason", "error", "detail", "problem"}


def takes_oserror(handler: ast.ExceptHandler) -> bool:
    names = [node.id for node in ast.walk(handler.type or ast.Tuple([])) if isinstance(node, ast.Name)]
    kinds = [getattr(builtins, name, None) for name in names]
    return any(isinstance(kind, type) and issubclass(OSError, kind) for kind in kinds) or any(
        isinstance(kind, type) and issubclass(kind, OSError) for kind in kinds
    )


def put_into_text(node: ast.AST) -> list[ast.expr]:
    """The values that a piece of the program writes as text, as ``str()`` has them."""
    match node:
        case ast.FormattedValue(value=value, conversion=conversion) if conversion != ord("r"):
            return [value]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in TO_TEXT:
            return args
        case ast.keyword(arg=name, value=value) if name in FOR_PEOPLE:
            return [value]
    return []


def texts_of_oserrors(source: str) -> Iterator[int]:
    """The lines that make a text of an OSError itself."""
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler) and takes_oserror(handler):
            for node in (node for statement in handler.body for node in ast.walk(statement)):
                for value in put_into_text(node):
                    if isinstance(value, ast.Name) and value.id == handler.name:
                        yield value.lineno


def test_no_text_is_made_of_an_oserror_but_by_reason_of() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line in texts_of_oserrors(path.read_text())
    }
    assert not found


def test_such_a_text_would_be_found() -> None:
    body = 'f"{error}"', "str(error)", 'log.warning("x", reason=error)', "click.echo(error)"
    for kind in ("OSError", "(ValueError, FileNotFoundError)", "Exception"):
        for line in body:
            assert list(texts_of_oserrors(f"try:\n    pass\nexcept {kind} as error:\n    {line}\n")) == [4]
        right = 'f"{reason_of(error)} {error.errno} {error!r}"'
        assert not list(texts_of_oserrors(f"try:\n    pass\nexcept {kind} as error:\n    {right}\n"))
    assert not list(texts_of_oserrors("try:\n    pass\nexcept ValueError as error:\n    str(error)\n"))
