"""What the models of all tables have in common.

The configuration is frozen models: what a valid one holds, with every default filled in. A model is valid by
construction, whether it comes from TOML or from code. Each refusal is a ValueError on the key it is about;
those between keys, and between workers, come together in :class:`Conflicts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from mcastd.config.addresses import interface_address, interfaces_in
from mcastd.config.types import Location, Switch
from mcastd.ip import Address, Interfaces, Prefix

if TYPE_CHECKING:
    from mcastd.config.ends import ProgramEnd
    from mcastd.config.output import GroupEnd, OutputPath

Setting = TypeVar("Setting", str | None, Interfaces | None)


class Conflicts(ValueError):
    """Keys or workers that are sound by themselves, but not together: where in the model, and why."""

    def __init__(self, found: Sequence[tuple[Location, str]]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{'.'.join(map(str, location))}: {why}" for location, why in found))


class Model(BaseModel):
    # Most are used as parts of the whole: a validator of its own is made where one is used by itself
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def fields_by_key(cls) -> dict[str, FieldInfo]:
        """The fields, by the keys that the text has for them."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


class WorkerSettings(Model):
    """What every kind of worker is configured with."""

    # Workers that send start last, so that those of this host that receive hear the first datagram.
    sends: ClassVar[bool] = False

    # Whether a reload that changes nothing of it has its worker look again at the files that it names, and at
    # what other workers are set to.
    rereads: ClassVar[bool] = False

    enabled: Switch = Field(
        True, description="Whether it runs; false keeps it in the file and switches it off."
    )

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        """Each ``interface`` setting that the worker works by, with its group there.

        The worker is told when one of these interfaces, or the route to the group, changes.
        """
        return ()

    def reads(self) -> Iterable[tuple[Location, Path]]:
        """Each file, pipe or directory that it sends, with its key in the worker's table."""
        return ()

    def writes(self) -> Iterable[tuple[Location, OutputPath]]:
        """Each path that it writes, with its key in the worker's table."""
        return ()

    def listens(self) -> Iterable[tuple[Location, ProgramEnd]]:
        """Each end of TCP where it waits for connections, with its key in the worker's table."""
        return ()


def check_limit(rate: int | None) -> None:
    """Raise ValueError if nothing at all would go at a rate that is the most which may."""
    if rate == 0:
        raise ValueError("must be more than 0; leave it out for all, or set enabled = false for nothing")


def check_distinct(prefixes: Sequence[Prefix]) -> None:
    """Raise ValueError if a prefix is named twice."""
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise ValueError(f"{prefix} is named twice")


def check_interface(interface: Interfaces | None, group: Address | None) -> None:
    """Raise ValueError if ``interface`` has an address of another family than ``group``."""
    for each in interfaces_in(interface):
        address = interface_address(each)
        if group is not None and address is not None and address.version != group.version:
            raise ValueError(
                f"{address} is IPv{address.version}, but the group {group} is IPv{group.version}"
            )


class GroupSettings(WorkerSettings):
    """What a worker for one group and port is configured with."""

    if TYPE_CHECKING:  # a kind declares these where it wants them among its other keys
        group: Address
        port: int
        interface: Interfaces | None

    @field_validator("interface", check_fields=False)
    @classmethod
    def _interface_of_family(cls, interface: Setting, info: ValidationInfo) -> Setting:
        check_interface(interface, info.data.get("group"))
        return interface

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return ((leg.interface, leg.group) for leg in self.by_leg())

    def by_leg(self) -> Sequence[GroupSettings]:
        """The same settings once for each group and port that it sends to or receives; its own come first."""
        return (self,)

    @property
    def is_heard_here(self) -> bool:
        """True if receivers on this host get what it sends."""
        return False

    def hands_on(self) -> Iterable[tuple[Location, GroupEnd]]:
        """Each group that what comes to it is sent to, with its key in the worker's table."""
        return ()

    def reaches(self) -> Iterable[tuple[Location, ProgramEnd]]:
        """Each place where a program waits that what it receives is sent to, with its key in the table."""
        return ()

    @property
    def taken_at(self) -> ProgramEnd | None:
        """Where it waits for what programs send it; None if it does not."""
        return None

    def hears(self, sender: GroupSettings | GroupEnd) -> bool:
        """Return True if it surely receives what ``sender`` sends to the same group and port on this host."""
        return False
