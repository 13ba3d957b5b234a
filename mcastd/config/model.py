"""What the models of all tables have in common.

The configuration is frozen models: what a valid one holds, with every default filled in. A model is valid by
construction, whether it comes from TOML or from code. Each refusal is a ValueError on the key it is about;
those between workers come together in one :class:`~mcastd.config.whole.Conflicts`.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationInfo

from mcastd.config.addresses import Address, Interfaces, interface_address, interfaces_in

ENABLED = "Whether it runs; false keeps it in the file and switches it off."

Setting = TypeVar("Setting", str | None, Interfaces | None)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def check_interface(interface: Setting, info: ValidationInfo) -> Setting:
    """Refuse a local address of the other IP version than the group, which has to be an earlier field."""
    group: Address | None = info.data.get("group")
    for each in interfaces_in(interface):
        address = interface_address(each)
        if group is not None and address is not None and address.version != group.version:
            raise ValueError(
                f"{address} is IPv{address.version}, but the group {group} is IPv{group.version}"
            )
    return interface
