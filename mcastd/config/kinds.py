"""A setting of several kinds, as ``source``: a table with a ``kind``, or a string that stands for one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema
from pydantic_core.core_schema import plain_serializer_function_ser_schema

from mcastd.config.model import Model
from mcastd.config.words import show


class OfKind(Model):
    """The settings of one kind: what models in :class:`Kinds` have in common."""

    kind: str


Settings = TypeVar("Settings", bound=OfKind)


class Kinds(Generic[Settings]):
    """The kinds of one setting, each a model. It annotates the field: ``Annotated[SourceSettings, SOURCES]``.

    A kind is added by its model in the call that makes this; a table of no kind is of the first one.
    """

    def __init__(self, *models: type[Settings], short: str, words: str, brief: bool = True) -> None:
        """A string stands for a table with that value at the key ``short``; errors call it ``words``.

        If ``brief``, dump() writes a table that has no other key as a string again.
        """
        self.models = {str(model.model_fields["kind"].default): model for model in models}
        self.first = next(iter(self.models))
        self._short = short
        self._words = words
        self._brief = brief

    def parse(self, value: object) -> Settings:
        """The model of a string or table. Raises ValueError; ValidationError has the keys in the table."""
        for model in self.models.values():
            if isinstance(value, model):
                return value
        table = self._as_table(value)
        if (wanted := self.model_of(table)) is None:
            raise self._no_such_kind(table["kind"])
        return wanted.model_validate(table)

    def model_of(self, value: object) -> type[Settings] | None:
        """The model that a value is of by its kind; None if there is no such kind."""
        kind = self._as_table(value).get("kind", self.first)
        return self.models.get(kind) if isinstance(kind, str) else None

    def dump(self, settings: Settings) -> object:
        """Return the value for TOML: a string if that is enough, else a table."""
        alone = self._brief and settings.model_fields_set <= {"kind", self._short}
        if alone and (self._short == "kind" or settings.kind == self.first):
            return str(getattr(settings, self._short))
        return settings.model_dump(mode="json", exclude_none=True)

    def _as_table(self, value: object) -> dict[str, Any]:
        if isinstance(value, str | Path):
            return {self._short: value}
        if isinstance(value, dict):
            return value
        raise ValueError(f"must be {self._words} or a table, not {show(value)}")

    def _no_such_kind(self, kind: object) -> ValidationError:
        """Return the error that pydantic raises for a union of models."""
        expected = ", ".join(f"'{known}'" for known in self.models)
        context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": expected}
        details = InitErrorDetails(type="union_tag_invalid", input={"kind": kind}, ctx=context)
        return ValidationError.from_exception_data("kind", [details])

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=plain_serializer_function_ser_schema(self.dump)
        )


def kinds_among(metadata: Iterable[object]) -> Kinds[Any] | None:
    """The kinds that a field with this metadata may be of; None if it is no such field."""
    return next((each for each in metadata if isinstance(each, Kinds)), None)
