"""The tables ``[inbound.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import may_meet
from mcastd.config.description import (
    Description,
    contradictions,
    filled,
    legs_described,
    parse_description,
)
from mcastd.config.ends import ProgramEnd
from mcastd.config.inbound_conflicts import contradictions_of_keys, not_together, numbered_kinds
from mcastd.config.keep_before import KEEPING, KeepBefore
from mcastd.config.legs import (
    KEYS_OF_A_LEG,
    LEGS_MIN,
    LegSettings,
    check_sources,
    of_first_leg,
)
from mcastd.config.model import Conflicts, GroupSettings
from mcastd.config.output import GroupEnd, OutputPath, OutputSettings
from mcastd.config.outputs import OutputTables
from mcastd.config.protocol import InboundProtocol, NumberedInbound, RawInbound
from mcastd.config.protocols import INBOUND_PROTOCOLS
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
from mcastd.config.via import AUTO_RELAY, VIAS, AmtSettings, AmtVia, NativeVia, Via
from mcastd.config.words import choose, show
from mcastd.gather import LATENCY_SECONDS
from mcastd.ip import Address, Interfaces

DEFAULT_RECEIVE_BUFFER = 4 << 20  # bytes
# How long what is missing of one leg is waited for by the others: ST 2022-7 class B, moderate skew.
DEFAULT_MAX_SKEW_SECONDS = 0.05
# How long a gap is waited for with repair, if reorder does not say it: two matrices of 100 at 5 Mbit/s.
FEC_HOLD_SECONDS = 0.5
# The default of max_latency for whole files, of which no single datagram is urgent. At 1 Gbit/s as much comes
# in that time as the default buffer holds.
FILES_LATENCY_SECONDS = 0.02
# With a smaller receive buffer datagrams are taken at once: it holds too few to let them gather.
GATHERING_BUFFER_MIN_BYTES = 1 << 20


class InboundSubscription(GroupSettings):
    """A group that is received into outputs: ``[inbound.NAME]``."""

    sdp: SessionDescribed | None = Field(
        None,
        description="The path of a description (SDP), read with the configuration, or its text: group, port"
        " and sources are those of its stream.",
    )
    legs: tuple[LegSettings, ...] = Field(
        (),
        description="The ways by which one stream comes, each with group and port, and maybe interface and"
        " sources, instead of these: what is lost by one is taken from another.",
    )
    merge: Literal["sequence", "payload"] = Field(
        "sequence",
        description='How copies by several legs are told: by the numbers of protocol, or, with "payload", as'
        " datagrams that are equal.",
    )
    max_skew: Moment | None = Field(
        None,
        description="How much later than the first a leg may be, in seconds: what is missing is waited for so"
        " long, 0.05 if absent; 0 is not at all, the first copy goes on at once.",
    )
    group: Group = Field(description="The multicast address that is received, IPv4 or IPv6.")
    port: Port = Field(description="The UDP port that is received.")
    via: Annotated[Via, VIAS] = Field(
        NativeVia(),
        description='By which way it comes: "native" is multicast as the network has it, "amt" a tunnel from'
        ' an AMT relay, "amt-fallback" native, and such a tunnel while nothing comes; or a table with kind.',
    )
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
        description="How long the group may be silent, in seconds, before the subscription is called stale;"
        " what its protocol refuses is silence, too.",
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
    max_latency: Moment | None = Field(
        None,
        description="How long datagrams may gather before they are taken together, in seconds; 0 is at once;"
        " absent, 0.001, and 0.02 of files.",
    )
    protocol: Annotated[InboundProtocol, INBOUND_PROTOCOLS] = Field(
        RawInbound(),
        description='What stands on the wire: "raw" is written as it comes, "flute" is whole files; or a'
        " table with kind.",
    )
    payload: Literal["ts"] | None = Field(
        None,
        description='What is in the datagrams, or in their RTP: "ts" is an MPEG transport stream, which is'
        " checked after TR 101 290; absent, nothing is looked at.",
    )
    reorder: Moment = Field(
        0.0,
        description="How long numbered datagrams are held back for one that is missing, in seconds, so that"
        " they go on in order; 0 is not at all.",
    )
    fec: Switch = Field(
        False,
        description="Whether repair of RTP is received beside it, on port + 2 and port + 4 (SMPTE ST 2022-1),"
        " and what is lost is made of it; reorder is then 0.5 s if it is 0.",
    )
    keep_before: Annotated[KeepBefore | None, KEEPING] = Field(
        None,
        description="How much of what was received last is kept in memory, in seconds, to become a capture"
        " when datagrams are lost or none come; or a table for more.",
    )
    output: OutputTables = Field(
        description="Where datagrams go: a file's path, a table with kind and path, or an array of these."
    )

    @model_validator(mode="before")
    @classmethod
    def _described(cls, keys: Any) -> Any:
        """Fill in what a description says. It is the stream that the keys mean, if there are several."""
        if not isinstance(keys, dict):
            return keys
        if keys.get("sdp") is not None:
            try:
                description = parse_description(keys["sdp"])
                said = filled(description, keys)
                found = [((key,), why) for key, why in contradictions(description, said, keys)]
                keys = {**said, **keys, "sdp": description, **_legs_of(description, said, keys)}
            except ValueError as error:
                raise Conflicts([(("sdp",), str(error))]) from None
            if found:
                raise Conflicts(found)
        return {**of_first_leg(keys.get("legs")), **keys}

    @property
    def latency(self) -> float:
        """Seconds for which datagrams may gather."""
        if self.max_latency is not None:
            return self.max_latency
        return FILES_LATENCY_SECONDS if self.protocol.gives_objects else LATENCY_SECONDS

    @property
    def hold_back(self) -> float:
        """Seconds for which its protocol holds back datagrams for one that is missing."""
        if self.fec:
            return self.reorder or FEC_HOLD_SECONDS
        if not self.legs:
            return self.reorder
        return DEFAULT_MAX_SKEW_SECONDS if self.max_skew is None else self.max_skew

    @property
    def needs_metadata(self) -> bool:
        """Return True if what is done with datagrams before the outputs needs their origins and times."""
        matches = bool(self.legs) and self.merge == "payload"
        return self.protocol.needs_metadata or matches or self.payload is not None

    def receives_as(self, other: InboundSubscription) -> bool:
        """Return True if it receives the same stream as ``other``, by the same ways."""
        keys = ("group", "port", "legs", "merge", "fec")
        if not self.via.leads_as(other.via) or any(getattr(self, key) != getattr(other, key) for key in keys):
            return False
        is_found_by_sources = isinstance(self.via, AmtSettings) and self.via.relay == AUTO_RELAY
        return not is_found_by_sources or self.sources == other.sources

    def by_leg(self) -> Sequence[InboundSubscription]:
        if not self.legs:
            return (self,)
        ways = ({key: getattr(leg, key) for key in KEYS_OF_A_LEG} for leg in self.legs)
        return [self.model_copy(update={**way, "legs": ()}) for way in ways]

    @model_validator(mode="after")
    def _legs_fit(self) -> InboundSubscription:
        if found := list(contradictions_of_keys(self)):
            raise Conflicts(found)
        return self

    @property
    def is_tunnelled(self) -> bool:
        """Return True if it comes by a tunnel alone, so that no interface of this host has to do with it."""
        return isinstance(self.via, AmtVia)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        native = () if self.is_tunnelled else super().ways()
        return (*native, *(way for output in self.output for way in output.ways()))

    @field_validator("output")
    @classmethod
    def _outputs_of_protocol(
        cls, outputs: tuple[OutputSettings, ...], info: ValidationInfo
    ) -> tuple[OutputSettings, ...]:
        protocol: InboundProtocol | None = info.data.get("protocol")
        for output in outputs:
            if protocol is not None and output.takes_objects != protocol.gives_objects:
                raise ValueError(not_together(protocol, output))
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

    @field_validator("payload")
    @classmethod
    def _payload_of_protocol(cls, payload: str | None, info: ValidationInfo) -> str | None:
        protocol: InboundProtocol | None = info.data.get("protocol")
        if payload is not None and protocol is not None and not protocol.has_known_payload:
            carriers = [kind for kind, one in INBOUND_PROTOCOLS.models.items() if one.has_known_payload]
            raise ValueError(
                f"is looked for in datagrams as they come or in RTP, and protocol is {show(protocol.kind)};"
                f" set protocol to {choose(carriers)}"
            )
        return payload

    @field_validator("reorder")
    @classmethod
    def _numbers_to_order_by(cls, reorder: float, info: ValidationInfo) -> float:
        protocol: InboundProtocol | None = info.data.get("protocol")
        if reorder and protocol is not None and not isinstance(protocol, NumberedInbound):
            raise ValueError(f"needs datagrams with numbers; set protocol to {choose(numbered_kinds())}")
        return reorder

    def has_protocol_of(self, other: InboundSubscription) -> bool:
        """Return True if what is between link and outputs may stay, where these settings follow others."""
        return (self.protocol, self.payload) == (other.protocol, other.payload)

    def goes_on_from(self, other: InboundSubscription) -> bool:
        """Return True if it receives the stream of ``other`` by other legs, of which one is the same."""
        stays = self.merge == other.merge and self.has_protocol_of(other)
        return stays and any(leg in other.legs for leg in self.legs)

    def writes(self) -> Iterable[tuple[Location, OutputPath]]:
        for index, output in enumerate(self.output):
            yield from ((("output", index, written.key), written) for written in output.paths())

    def hands_on(self) -> Iterable[tuple[Location, GroupEnd]]:
        for index, output in enumerate(self.output):
            yield from ((("output", index, end.key), end) for end in output.sends())

    def reaches(self) -> Iterable[tuple[Location, ProgramEnd]]:
        to = self.group, self.port
        for index, output in enumerate(self.output):
            yield from ((("output", index, key), end) for key, end in output.reaches(*to))

    def listens(self) -> Iterable[tuple[Location, ProgramEnd]]:
        for index, output in enumerate(self.output):
            yield from ((("output", index, key), end) for key, end in output.listens())

    def hears(self, sender: GroupSettings | GroupEnd) -> bool:
        filtered = self.sources or self.exclude_sources or self.is_tunnelled
        return sender.is_heard_here and not filtered and may_meet(sender.interface, self.interface)

    @field_validator("sources", "exclude_sources")
    @classmethod
    def _sources_of_family(cls, sources: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        if info.field_name == "exclude_sources" and sources and info.data.get("sources"):
            raise ValueError('contradicts "sources"; keep one of the two')
        check_sources(sources, info.data.get("group"))
        return sources


def _legs_of(description: Description, said: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The legs that a description says. Where none are written, there are some only if all keys fit them."""
    if not keys.get("legs", True):  # there are none, as dump() writes it
        return {}
    legs = {"legs": legs_described(description, said, keys)}
    if "legs" not in keys:
        if len(legs["legs"]) < LEGS_MIN or {"group", "port"} & keys.keys():
            return {}
        try:
            InboundSubscription.model_validate({**said, **keys, "sdp": description, **legs})
        except ValidationError:  # what is wrong without them, too, is said then
            return {}
    return legs
