"""The configuration as frozen models: what a valid one holds, with every default filled in.

A model is valid by construction, whether it comes from TOML or from code. Each refusal is a ValueError
on the key it is about; those between workers come together in one :class:`Conflicts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mcastd.config.addresses import Address, Interfaces, interface_address, interfaces_in
from mcastd.config.loops import loops
from mcastd.config.types import (
    MAX_DATAGRAM,
    AnyInterface,
    BufferSize,
    Burst,
    Dscp,
    Duration,
    FilePath,
    Group,
    Keep,
    Location,
    MetricsAddress,
    Mode,
    Moment,
    OneInterface,
    PayloadSize,
    Period,
    Port,
    Rate,
    Repeat,
    Size,
    SocketPath,
    SourceAddress,
    Switch,
    Ttl,
    WorkerName,
    normal,
)
from mcastd.config.words import show

DEFAULT_INTERVAL = 2.0  # seconds
DEFAULT_RECEIVE_BUFFER = 4 << 20  # bytes
# With a smaller receive buffer datagrams are taken at once: it holds too few to let them gather.
GATHERING_BUFFER_MIN_BYTES = 1 << 20
ETHERNET_PAYLOAD = {4: 1472, 6: 1452}  # bytes: 1500 less the IP and UDP headers, by IP version

Format = Literal["raw", "lines", "json"]
FORMAT = "How a datagram is written: its bytes, a line, or a line of JSON with its metadata."


Setting = TypeVar("Setting", str | None, Interfaces | None)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Daemon(Model):
    """The daemon itself: ``[daemon]``."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe events that are logged."
    )
    log_format: Literal["auto", "console", "json", "journal"] = Field(
        "auto", description="How events are logged on stderr; auto is journal under systemd, else console."
    )
    control_socket: SocketPath = Field(
        Path("/run/mcastd/control"), description="The path of the Unix socket that mcastctl talks to."
    )
    metrics: MetricsAddress | None = Field(
        None, description="The host and port at which Prometheus metrics are served; absent is off."
    )
    stop_timeout: Period = Field(
        10.0, description="How long workers may take to flush and end when the daemon stops, in seconds."
    )


ENABLED = "Whether it runs; false keeps it in the file and switches it off."


def _default_interval(valid: dict[str, Any]) -> float | None:
    return DEFAULT_INTERVAL if valid.get("rate") is None else None


def _default_max_datagram(valid: dict[str, Any]) -> int:
    """From the keys before it that are valid: if ``group`` is not, the channel is refused anyway."""
    if valid.get("framing") == "file" or "group" not in valid:
        return MAX_DATAGRAM
    return ETHERNET_PAYLOAD[valid["group"].version]


class OutboundChannel(Model):
    """A source that is sent to a group: ``[outbound.NAME]``."""

    enabled: Switch = Field(True, description=ENABLED)
    source: FilePath = Field(description="The path of the file or named pipe that is sent.")
    group: Group = Field(description="The multicast address it is sent to, IPv4 or IPv6.")
    port: Port = Field(description="The UDP port it is sent to.")
    ttl: Ttl = Field(
        1,
        description="How many networks a datagram may cross, 0 to 255; 0 stays on this host, 1 on the link.",
    )
    rate: Rate | None = Field(
        None, description="The constant rate of payload in bits per second, instead of interval; 0 is paused."
    )
    interval: Duration | None = Field(
        default_factory=_default_interval,
        description="The time between datagrams in seconds, 2 if there is no rate; 0 is as fast as possible.",
    )
    burst: Burst = Field(
        0.001,
        description="How much of the rate may go at once, in seconds; less is smoother, and costs more.",
    )
    interface: OneInterface | None = Field(
        None,
        description="The interface it is sent on, by name or local address; absent, the route decides.",
    )
    framing: Literal["line", "chunk", "file"] = Field(
        "line",
        description="What a datagram is: a line, a chunk of max_datagram bytes, or the whole file.",
    )
    max_datagram: PayloadSize = Field(
        default_factory=_default_max_datagram,
        description="The largest payload in bytes; the default fits Ethernet: 1472 (IPv4) or 1452 (IPv6).",
    )
    repeat: Repeat = Field(1, description='How often the source is sent: "once", a count, or "forever".')
    follow: Switch = Field(
        False, description="Whether to keep sending what is appended to the source, as tail -F does."
    )
    loop: Switch = Field(True, description="Whether receivers on this host get the datagrams too.")
    dscp: Dscp = Field(0, description='The DiffServ code point, by name like "CS5" or number from 0 to 63.')

    @field_validator("interval")
    @classmethod
    def _one_pace(cls, interval: float | None, info: ValidationInfo) -> float | None:
        if interval is not None and info.data.get("rate") is not None:
            raise ValueError('contradicts "rate"; keep one of the two')
        return interval

    @field_validator("interface")
    @classmethod
    def _interface_of_family(cls, interface: str | None, info: ValidationInfo) -> str | None:
        return _check_interface(interface, info)

    @field_validator("max_datagram")
    @classmethod
    def _max_datagram_applies(cls, length: int, info: ValidationInfo) -> int:
        if info.data.get("framing") == "file" and length != MAX_DATAGRAM:
            raise ValueError('does not apply to framing = "file", which sends the whole file as one datagram')
        return length

    @field_validator("follow")
    @classmethod
    def _can_follow(cls, follow: bool, info: ValidationInfo) -> bool:
        if follow and info.data.get("framing") == "file":
            raise ValueError('contradicts framing = "file": a file that grows is never whole')
        if follow and info.data.get("repeat", 1) != 1:
            raise ValueError('contradicts "repeat": a source that is followed has no end to repeat from')
        return follow


class FileOutput(Model):
    """Received datagrams appended to a file."""

    kind: Literal["file"] = Field("file", description='"file".')
    path: FilePath = Field(description="The path of the file, made if it is missing.")
    format: Format = Field("raw", description=FORMAT)
    rotate_size: Size | None = Field(
        None, description="The size in bytes that the file never exceeds before a new one is begun."
    )
    rotate_every: Period | None = Field(
        None, description="How often a new file is begun, in seconds, aligned to multiples in UTC."
    )
    keep: Keep = Field(7, description="How many rotated files (PATH.1 is the newest) are kept.")
    mode: Mode = Field(0o640, description='The permission bits of a new file, like "0640".')
    fsync: Switch = Field(
        False, description="Whether data is forced to the disk (fdatasync) after each batch."
    )


class FifoOutput(Model):
    """Received datagrams written to a named pipe."""

    kind: Literal["fifo"] = Field("fifo", description='"fifo".')
    path: FilePath = Field(description="The path of the named pipe, made if it is missing.")
    format: Format = Field("raw", description=FORMAT)
    when_full: Literal["drop-newest", "drop-oldest", "block"] = Field(
        "drop-newest",
        description="What happens when the reader is slow and the queue full: a drop, or reception waits.",
    )
    queue: BufferSize = Field(
        1 << 20, description="How much is held for a slow reader beside the pipe itself, in bytes."
    )
    mode: Mode = Field(0o640, description='The permission bits of a new pipe, like "0640".')


def _as_table(output: object) -> object:
    """A path alone stands for a file output, and so does a table that does not name its kind."""
    if isinstance(output, str | Path):
        return {"kind": "file", "path": output}
    if isinstance(output, dict):
        return {"kind": "file"} | output
    if isinstance(output, Model):
        return output
    raise ValueError(f"must be a path or a table, not {show(output)}")


def _as_array(one_or_more: object) -> tuple[object, ...]:
    """One output stands for an array of one."""
    many = tuple(one_or_more) if isinstance(one_or_more, list | tuple) else (one_or_more,)
    if not many:
        raise ValueError("must have at least one output")
    return many


Output = Annotated[FileOutput | FifoOutput, Field(discriminator="kind"), BeforeValidator(_as_table)]


class InboundSubscription(Model):
    """A group that is received into outputs: ``[inbound.NAME]``."""

    enabled: Switch = Field(True, description=ENABLED)
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
    output: Annotated[tuple[Output, ...], BeforeValidator(_as_array)] = Field(
        description="Where datagrams go: a file's path, a table with kind and path, or an array of these."
    )

    @field_validator("interface")
    @classmethod
    def _interface_of_family(cls, interface: Interfaces | None, info: ValidationInfo) -> Interfaces | None:
        return _check_interface(interface, info)

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


Worker = OutboundChannel | InboundSubscription


class Conflicts(ValueError):
    """Workers that are sound by themselves, but not together: where, and why."""

    def __init__(self, found: Sequence[tuple[Location, str]]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{'.'.join(map(str, location))}: {why}" for location, why in found))


class Config(Model):
    """A whole configuration, of one file and its drop-ins."""

    daemon: Daemon = Field(default_factory=Daemon, description="The daemon itself.")
    outbound: dict[WorkerName, OutboundChannel] = Field({}, description="Outbound channels by name.")
    inbound: dict[WorkerName, InboundSubscription] = Field({}, description="Inbound subscriptions by name.")

    def workers(self) -> dict[str, Worker]:
        """The enabled workers by full name (``outbound/NAME``, ``inbound/NAME``), in the text's order."""
        return {name: worker for name, worker in self._all_workers() if worker.enabled}

    def disabled(self) -> list[str]:
        """The full names of the workers that are not enabled, in the order of the text."""
        return [name for name, worker in self._all_workers() if not worker.enabled]

    def of_enabled(self) -> Config:
        """The same configuration without the workers that are not enabled."""
        outbound = {name: channel for name, channel in self.outbound.items() if channel.enabled}
        inbound = {name: subscription for name, subscription in self.inbound.items() if subscription.enabled}
        return self.model_copy(update={"outbound": outbound, "inbound": inbound})

    def _all_workers(self) -> Iterator[tuple[str, Worker]]:
        yield from ((f"outbound/{name}", channel) for name, channel in self.outbound.items())
        yield from ((f"inbound/{name}", subscription) for name, subscription in self.inbound.items())

    @model_validator(mode="after")
    def _workers_agree(self) -> Config:
        if found := list(self._conflicts()):
            raise Conflicts(found)
        return self

    def _conflicts(self) -> Iterator[tuple[Location, str]]:
        """Outputs on a path that is something else already, and channels that send to themselves.

        An output may be a channel's source: that is a relay. Workers that are not enabled use no path. Paths
        are compared as text: no host is asked.
        """
        uses = {normal(self.daemon.control_socket): "the control socket"}
        outputs = [
            (name, index, output, normal(output.path))
            for name, subscription in self.inbound.items()
            if subscription.enabled
            for index, output in enumerate(subscription.output)
        ]
        rotated = {
            path: name
            for name, _, output, path in outputs
            if isinstance(output, FileOutput) and (output.rotate_size or output.rotate_every)
        }
        for name, index, _, path in outputs:
            location = ("inbound", name, "output", index, "path")
            stem, _, number = path.rpartition(".")
            if path in uses:
                yield location, f"{show(path)} is already {uses[path]}"
            elif stem in rotated and re.fullmatch("[1-9][0-9]{0,9}", number):
                yield location, f"{show(path)} is a name that inbound/{rotated[stem]} rotates its output to"
            uses.setdefault(path, f"an output of inbound/{name}")
        enabled = self.of_enabled()
        for loop in loops(enabled.outbound, enabled.inbound):
            yield ("outbound", loop.channel, "source"), f"{loop}; send to another group, or write elsewhere"


def _check_interface(interface: Setting, info: ValidationInfo) -> Setting:
    group: Address | None = info.data.get("group")
    for each in interfaces_in(interface):
        address = interface_address(each)
        if group is not None and address is not None and address.version != group.version:
            raise ValueError(
                f"{address} is IPv{address.version}, but the group {group} is IPv{group.version}"
            )
    return interface
