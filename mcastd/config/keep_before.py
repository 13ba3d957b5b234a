"""``keep_before`` of a subscription: a duration, or a table."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.numbers import format_duration
from mcastd.config.types import DirectoryPath, FileCount, KeptSize, Period


class KeepBefore(OfKind):
    """What was received last, kept in memory: when something is lost it becomes a capture."""

    kind: Literal["pcapng"] = Field("pcapng", description='"pcapng".')
    time: Period = Field(description="How far a capture reaches back before the loss, in seconds.")
    memory: KeptSize = Field(
        64 << 20,
        description="The most memory that is used, in bytes: where more comes in that time, a capture"
        " reaches less far back.",
    )
    directory: DirectoryPath | None = Field(
        None,
        description='The directory of the captures, made if it is missing; absent: "captures" in the state'
        " directory, /var/lib/mcastd.",
    )
    files: FileCount = Field(
        10, description="How many captures of the subscription are kept there; older ones are removed."
    )


class _Keeping(Kinds[KeepBefore]):
    """A duration stands for a table without other keys."""

    def parse(self, value: object) -> Any:
        return None if value is None else super().parse(value)

    def dump(self, settings: Any) -> object:
        if settings is not None and settings.model_fields_set <= {"kind", "time"}:
            return format_duration(settings.time)
        return settings and super().dump(settings)

    def _as_table(self, value: object) -> dict[str, Any]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"time": value}
        return super()._as_table(value)


KEEPING = _Keeping(KeepBefore, short="time", words='a duration like "10s"', brief=False)
