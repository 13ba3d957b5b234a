"""Fits replies to the varlink definition of io.mcastd, so that a client can rely on their fields and types.

A daemon of another version may lack a field, or have one more; a program that is no mcastd may send anything.
A missing field gets the empty value of its type, an unknown one is left out, a wrong type is an error.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mcastd.control.protocol import Message, ProtocolError

_TOKEN = re.compile(r"#[^\n]*|\s+|(\[string\]|\[\]|->|[?():,]|[A-Za-z][\w.]*)")


@dataclass(frozen=True, slots=True)
class Array:
    of: Type


@dataclass(frozen=True, slots=True)
class Maybe:
    of: Type


@dataclass(frozen=True, slots=True)
class Struct:
    fields: dict[str, Type]


Type = str | Array | Maybe | Struct  # str: a plain type, or the name of a defined one
_PLAIN: dict[str, tuple[tuple[type, ...], object]] = {  # Python's types for it, and its empty value
    "string": ((str,), ""),
    "int": ((int,), 0),
    "float": ((int, float), 0.0),
    "bool": ((bool,), False),
}


class Definition:
    """A parsed definition: its types, and what each method replies."""

    def __init__(self, text: str) -> None:
        self._words: list[str] = [word for word in _TOKEN.findall(text) if word]
        self._types: dict[str, Type] = {}
        self._replies: dict[str, Type] = {}
        while self._words:
            match self._next():
                case "interface":
                    self.name = self._next()
                case "type":
                    name = self._next()
                    self._types[name] = self._type()
                case "method":
                    name = f"{self.name}.{self._next()}"
                    self._type()
                    self._next()  # ->
                    self._replies[name] = self._type()
                case _:  # error
                    self._next()
                    self._type()

    def _next(self) -> str:
        return self._words.pop(0)

    def _type(self) -> Type:
        word = self._next()
        if word == "?":
            return Maybe(self._type())
        if word == "[]":
            return Array(self._type())
        return word if word != "(" else self._struct()

    def _struct(self) -> Type:
        """The rest of a struct, behind its parenthesis. An enumeration becomes a string."""
        fields: dict[str, Type] = {}
        kind: Type = Struct(fields)
        while (word := self._next()) != ")":
            if word == ",":
                continue
            if self._words[0] == ":":
                self._next()
                fields[word] = self._type()
            else:
                kind = "string"
        return kind

    def fitted(self, method: str, parameters: Message) -> Message:
        """The reply to ``method`` as it is defined. Raises ProtocolError if a value has the wrong type."""
        reply = self._replies.get(method)
        if reply is None:
            return parameters
        fitted = self._fit(parameters, reply, method.rpartition(".")[2])
        assert isinstance(fitted, dict)
        return fitted

    def _fit(self, value: object, kind: Type, where: str) -> object:
        fitted: object = None
        match kind:
            case Maybe(of):
                return None if value is None else self._fit(value, of, where)
            case Array(of):
                if isinstance(value := [] if value is None else value, list):
                    fitted = [self._fit(element, of, where) for element in value]
            case Struct(fields):
                if isinstance(value := {} if value is None else value, dict):
                    fitted = {
                        name: self._fit(value.get(name), of, f"{where}.{name}") for name, of in fields.items()
                    }
            case "object":
                fitted = {} if value is None else value if isinstance(value, dict) else None
            case str() if kind in self._types:
                return self._fit(value, self._types[kind], where)
            case str():
                types, empty = _PLAIN[kind]
                value = empty if value is None else value
                fits = isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))
                if fits and kind == "float" and isinstance(value, int | float):
                    fits = abs(value) <= sys.float_info.max  # neither NaN, nor infinite, nor too long
                fitted = value if fits else None
        if fitted is None:
            raise ProtocolError(f"{where!r} with the wrong type")
        return fitted


@cache
def mcastd() -> Definition:
    """The definition of io.mcastd."""
    return Definition(Path(__file__).with_name("io.mcastd.varlink").read_text())
