"""The tables ``[inbound.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import may_meet
from mcastd.config.description import contradictions, filled, parse_description
from mcastd.config.model import Conflicts, GroupSettings
from mcastd.config.output import OutputPath, OutputSettings
from mcastd.config.outputs import OUTPUTS, OutputTables
from mcastd.config.protocols import INBOUND_PROTOCOLS, InboundProtocol, NumberedInbound, RawInbound
from mcastd.config.types import (
    AnyInterface,
    BufferSize,
    Group,
    Location,
    Moment,
    Period,
    Port,
    SessionDescribed,
    SourceAddress,
    Switch,
)
from mcastd.config.words import choose, show
from mcastd.ip import Address, Interfaces

DEFAULT_RECEIVE_BUFFER = 4 << 20  # bytes
# With a smaller receive buffer datagrams are taken at once: it holds too few to let them gather.
GATHERING_BUFFER_MIN_BYTES = 1 << 20


class InboundSubscription(GroupSettings):
    """A group that is received into outputs: ``[inbound.NAME]``."""

    sdp: SessionDescribed | None = Field(
        None,
        description="The path of a description (SDP), read with the configuration, or its text: group, port"
        " and sources are those of its stream.",
    )
    group: Group = Field(description="The multicast address that is received, IPv4 or IPv6.")
    port: Port = Field(description="The UDP port that is received.")
    interface: AnyInterface | None = Field(
        None,
        description='Where to join: a name, a pattern of names like "wg*", a local address, "all", or an'
        " array of these, followed as they come and go; absent, the route decides.",
    )
    sources: tuple[SourceAddress, ...] = Field(
        (), description="The only senders that are received (source-specific multicast); none named is any."
    )
    exclude_sources: tuple[SourceAddress, ...] = Field(
        (), description="Senders that are not received, instead of sources."
    )
    rejoin_every: Period | None = Field(
        None,
        description="How often the group is left and joined again, in seconds, for networks with no querier.",
    )
    expect_every: Period | None = Field(
        None,
        description="How long the group may be silent, in seconds, before the subscription is called stale.",
    )
    receive_buffer: BufferSize = Field(
        DEFAULT_RECEIVE_BUFFER,
        description="The kernel's buffer for datagrams that are not yet read, in bytes.",
    )
    coalesce: Switch = Field(
        True,
        description="Whether a sender's datagrams may be received in one piece where the kernel has them so;"
        " much cheaper, but of such a piece that is lost overflow counts one.",
    )
    max_latency: Moment = Field(
        0.001,
        description="How long datagrams may gather before they are taken together, in seconds; 0 is at once.",
    )
    protocol: Annotated[InboundProtocol, INBOUND_PROTOCOLS] = Field(
        RawInbound(),
        description='What stands on the wire: "raw" is written as it comes, "flute" is whole files; or a'
        " table with kind.",
    )
    reorder: Moment = Field(
        0.0,
        description="How long numbered datagrams are held back for one that is missing, in seconds, so that"
        " they go on in order; 0 is not at all.",
    )
    output: OutputTables = Field(
        description="Where datagrams go: a file's path, a table with kind and path, or an array of these."
    )

    @model_validator(mode="before")
    @classmethod
    def _described(cls, keys: Any) -> Any:
        """Fill in what a description says. It is the stream that the keys mean, if there are several."""
        if not isinstance(keys, dict) or keys.get("sdp") is None:
            return keys
        try:
            description = parse_description(keys["sdp"])
            said = filled(description, keys)
        except ValueError as error:
            raise Conflicts([(("sdp",), str(error))]) from None
        if found := [((key,), why) for key, why in contradictions(description, said, keys)]:
            raise Conflicts(found)
        return {**said, **keys, "sdp": description}

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return (*super().ways(), *(way for output in self.output for way in output.ways()))

    @field_validator("output")
    @classmethod
    def _outputs_of_protocol(
        cls, outputs: tuple[OutputSettings, ...], info: ValidationInfo
    ) -> tuple[OutputSettings, ...]:
        protocol: InboundProtocol | None = info.data.get("protocol")
        for output in outputs:
            if protocol is not None and output.takes_objects != protocol.gives_objects:
                raise ValueError(_not_together(protocol, output))
            if protocol is not None and output.format == "payload" and not protocol.has_payload:
                carriers = [kind for kind, model in INBOUND_PROTOCOLS.models.items() if model.has_payload]
                raise ValueError(
                    f'format = "payload" takes off the headers of a protocol, and {show(protocol.kind)} has'
                    f" none that are known; set protocol to {choose(carriers)}"
                )
            if protocol is not None and output.needs_listing and not protocol.lists_objects:
                raise ValueError(
                    'atomic = "tree" needs a manifest, which says what belongs to the tree: let protocol have'
                    ' "verify_keys" or "keys", and its sender "sign_key" or "key"'
                )
        return outputs

    @field_validator("reorder")
    @classmethod
    def _numbers_to_order_by(cls, reorder: float, info: ValidationInfo) -> float:
        protocol: InboundProtocol | None = info.data.get("protocol")
        if reorder and protocol is not None and not isinstance(protocol, NumberedInbound):
            numbered = [
                kind for kind, one in INBOUND_PROTOCOLS.models.items() if issubclass(one, NumberedInbound)
            ]
            raise ValueError(f"needs datagrams with numbers; set protocol to {choose(numbered)}")
        return reorder

    def writes(self) -> Iterable[tuple[Location, OutputPath]]:
        for index, output in enumerate(self.output):
            yield from ((("output", index, written.key), written) for written in output.paths())

    def hears(self, sender: GroupSettings) -> bool:
        filtered = self.sources or self.exclude_sources
        return sender.is_heard_here and not filtered and may_meet(sender.interface, self.interface)

    @field_validator("sources", "exclude_sources")
    @classmethod
    def _sources_of_family(cls, sources: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        group: Address | None = info.data.get("group")
        if info.field_name == "exclude_sources" and sources and info.data.get("sources"):
            raise ValueError('contradicts "sources"; keep one of the two')
        seen: set[Address] = set()
        for source in sources:
            if group is not None and source.version != group.version:
                raise ValueError(f"{source} is IPv{source.version}, but the group is IPv{group.version}")
            if source in seen:
                raise ValueError(f"{source} is named twice")
            seen.add(source)
        return sources


def _not_together(protocol: InboundProtocol, output: OutputSettings) -> str:
    """Why a protocol and an output of a subscription contradict each other, with the way out."""
    if output.takes_objects:
        givers = [kind for kind, model in INBOUND_PROTOCOLS.models.items() if model.gives_objects]
        return (
            f"{show(output.kind)} takes files, and protocol {show(protocol.kind)} gives none; set protocol to"
            f" {choose(givers)}"
        )
    takers = [kind for kind, model in OUTPUTS.models.items() if model.takes_objects]
    return (
        f"protocol {show(protocol.kind)} gives files, which {show(output.kind)} does not take; let the output"
        f" have kind = {choose(takers)}"
    )
