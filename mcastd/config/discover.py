"""The tables ``[discover.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, ValidationInfo, field_validator

from mcastd.config.addresses import interface_address, interfaces_in
from mcastd.config.model import WorkerSettings
from mcastd.config.types import AnyInterface, Group
from mcastd.ip import Address, Interfaces
from mcastd.protocols import sap


class Discover(WorkerSettings):
    """Sessions that others announce by SAP, heard and listed: ``[discover.NAME]``."""

    interface: AnyInterface | None = Field(
        None,
        description='Where to listen: a name, a pattern of names like "wg*", a local address, "all", or an'
        " array of these, followed as they come and go; absent, the route to each group decides.",
    )
    groups: tuple[Group, ...] = Field(
        sap.GROUPS,
        description="The groups that sessions are announced to, port 9875; absent: those of all scopes, of"
        " IPv4 and IPv6.",
    )

    @field_validator("groups")
    @classmethod
    def _groups_of_family(cls, groups: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        if not groups:
            raise ValueError("must have at least one group; leave it out for those of all scopes")
        for group in groups:
            if groups.count(group) > 1:
                raise ValueError(f"{group} is named twice")
        own = {
            address.version
            for each in interfaces_in(info.data.get("interface"))
            if (address := interface_address(each)) is not None
        }
        for group in () if groups == sap.GROUPS else groups:
            if own and group.version not in own:
                raise ValueError(f"{group} is IPv{group.version}, and the address of interface is not")
        return groups

    @property
    def named(self) -> bool:
        """Return True if the groups are those of a choice: then each of them has to be joined."""
        return self.groups != sap.GROUPS

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return tuple((self.interface, group) for group in self.groups)
