"""``announce`` of a channel: ``true``, or a table."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.types import FilePath, Group, Period, SessionName, Switch
from mcastd.config.words import show

DEFAULT_INTERVAL_SECONDS = 30.0


class Announcing(OfKind):
    """Announcements of the channel by SAP (RFC 2974), by which players find it."""

    kind: Literal["sap"] = Field("sap", description='"sap".')
    name: SessionName | None = Field(None, description="The name that listeners show; absent: the channel's.")
    group: Group | None = Field(
        None,
        description="The multicast address that announcements are sent to, port 9875; absent: that of the"
        " scope of the channel's group, as 239.255.255.255 for 239.255.0.0/16.",
    )
    interval: Period = Field(
        DEFAULT_INTERVAL_SECONDS,
        description="The time between announcements in seconds, give or take a third; longer where all that"
        " this daemon sends to one group would take more than 4000 bit/s.",
    )
    copies: Switch = Field(
        False,
        description="Whether the description names the channel's copies, too, as the same stream (RFC 7104):"
        " a receiver that knows this takes each datagram from whichever comes first. Players do not: some"
        " take them for streams of their own, ffmpeg 5.1 opens none.",
    )
    sdp: FilePath | None = Field(
        None,
        description="The path of a file that the description (SDP) is written to as well, for players that"
        " open it; it stays when the channel stops.",
    )


class _Announcements(Kinds[Announcing]):
    """``true`` stands for a table without keys, ``false`` for None."""

    def parse(self, value: object) -> Any:
        return None if value is None or value is False else super().parse(value)

    def dump(self, settings: Any) -> object:
        brief = settings is not None and settings.model_fields_set <= {"kind"}
        return True if brief else settings and super().dump(settings)

    def _as_table(self, value: object) -> dict[str, Any]:
        if value is True:
            return {}
        if not isinstance(value, dict):
            raise ValueError(f"must be true or false, or a table, not {show(value)}")  # noqa: TRY004
        return super()._as_table(value)


ANNOUNCEMENTS = _Announcements(Announcing, short="kind", words="true or false", brief=False)
