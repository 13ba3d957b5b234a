"""Dataclasses as JSON values, and back: all that goes over the control socket, or out by ``--json``."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

PLAIN = frozenset((NoneType, bool, int, str))


def as_json(value: Any) -> Any:
    """Return ``value`` with each dataclass in it as an object of its fields, in their order.

    A number that is not finite becomes null: JSON has none. (dataclasses.asdict() cannot copy a Counter.)
    """
    kind: Any = type(value)
    if kind in PLAIN:  # most are
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return {name: as_json(getattr(value, name)) for name in _names_of(kind)}


@cache
def _names_of(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def from_json(kind: type[T], value: object) -> T:
    """Return the dataclass ``kind`` made of the object ``value``, which may come from another version.

    A field that is missing, or of another type, gets its default, or else the empty value of its type. An
    unknown one is left out. So ``{}`` makes one in which nothing is known.
    """
    values = value if isinstance(value, dict) else {}
    types = _types_of(kind)
    return kind(**{field.name: _field(field, types[field.name], values) for field in fields(kind)})


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _field(field: Field[Any], kind: Any, values: dict[str, object]) -> Any:
    with suppress(KeyError, TypeError, ValueError):
        return _fitted(kind, values[field.name])
    return _empty(kind) if field.default is MISSING else field.default


def _fitted(kind: Any, value: object) -> Any:
    """Return ``value`` so typed. Raises TypeError if it is of another, ValueError if it is no member."""
    of = get_args(kind)
    plain = get_origin(kind) or kind
    if plain is UnionType:
        return _first_fitting(of, value)
    if plain in (type(value), object) or (plain is float and type(value) is int):
        return value
    if isinstance(value, dict):
        return _fitted_object(plain, of, value)
    if plain in (tuple, Sequence) and isinstance(value, list | tuple):
        return tuple(_fitted(of[0], one) for one in value)
    if issubclass(plain, enum.Enum) and isinstance(value, str):
        return plain(value)
    raise TypeError(kind)


def _first_fitting(kinds: tuple[Any, ...], value: object) -> Any:
    for kind in kinds:
        with suppress(TypeError, ValueError):
            return _fitted(kind, value)
    raise TypeError(kinds)


def _fitted_object(plain: Any, of: tuple[Any, ...], value: dict[str, object]) -> Any:
    if plain is Mapping:
        return {key: _fitted(of[1], one) for key, one in value.items()}
    if plain is Counter:
        return Counter({key: _fitted(int, one) for key, one in value.items()})
    if is_dataclass(plain):
        return from_json(plain, value)  # type: ignore[arg-type] # is_dataclass() may be asked of an instance
    raise TypeError(plain)


def _empty(kind: Any) -> Any:
    """Return the value of a field that nothing is known of."""
    of = get_args(kind)
    plain = get_origin(kind) or kind
    if plain is UnionType:
        return None if NoneType in of else _empty(of[0])
    if is_dataclass(plain):
        return from_json(plain, {})  # type: ignore[arg-type] # as above
    if issubclass(plain, enum.Enum):
        return next(iter(plain))
    return {Mapping: dict, Sequence: tuple}.get(plain, plain)()
