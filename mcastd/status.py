"""The status of each kind of worker: one definition for the workers that make it and all that read it.

As JSON each class is an object of its fields, in their order: see codec.py.

Long as it is, this is one module: the reference of all that is told, of which mcastctl(1) is made. It is data
alone, kinds of worker share parts of it, and each start of a program reads one file instead of a dozen.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcastd.counters import (
    AmtRelayCounters,
    BridgeCounters,
    DiscoveryCounters,
    GatewayCounters,
    InboundCounters,
    LinkCounters,
    OutboundCounters,
    OutputCounters,
    SequenceCounters,
    TransportCounters,
)
from mcastd.views import Status


@dataclass(frozen=True, slots=True)
class SenderDescription:
    """The effective settings of a way to a group."""

    interface: str  # that it sends by
    address: str  # that it sends from
    stream: str | None = field(default=None, kw_only=True)  # its SSRC in RTP; None: it has nothing like it


@dataclass(frozen=True, slots=True)
class SenderStatus(SenderDescription):
    sending: str  # by which system call: "gso", "sendmmsg" or "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegStatus:
    """One of the ways of a channel that has copies."""

    group: str  # that it sends to
    port: int  # that it sends to
    interface: str | None  # None: it has none now
    sent: int  # datagrams
    refused: dict[str, int]  # calls, by errno name
    dropped: dict[str, int]  # datagrams that another leg has sent and this one has not, by reason
    trouble: str  # what keeps it from sending; ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStatus:
    """The signed or sealed list of files that a channel sends, or that a subscription goes by."""

    serial: int | None  # None: there is none now
    signer: str  # the verifying key of its signature; "": it is not signed
    issued: int | None  # seconds since 1970
    expires: int | None  # the same: from then on it does not hold
    files: int  # that it lists
    total_bytes: int  # of these
    refused: str  # the reason why the last one was not taken, if that came since; ""
    refusal: str  # the same in words


NO_MANIFEST = ManifestStatus(
    serial=None, signer="", issued=None, expires=None, files=0, total_bytes=0, refused="", refusal=""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesStatus:
    """Files that a channel sends whole, in passes over all of them."""

    files: int  # of the pass under way
    total_bytes: int  # of these
    refused: Mapping[str, int]  # files that are not sent, by reason
    refusals: tuple[str, ...]  # some of these, in words
    given_up: int  # in the pass under way: they changed, and go with the next one
    pass_number: int  # from 1; 0: none has begun
    pass_percent: float  # of it that has gone
    repair_percent: float  # repair symbols of the blocks that have been on air in it, of their source symbols
    described_seconds: float | None = None  # for which at least what is said of them holds; None: not known
    manifest: ManifestStatus | None = None  # None: it has no keys


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncementStatus:
    """How a channel is announced."""

    group: str  # that it is announced to
    interval: float  # seconds, on average
    sent: int  # announcements, without deletions
    failed: int  # that could not be sent
    error: str | None  # why the last one could not, in words; None: it was sent
    file_error: str | None  # the same of the file of the description


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionStatus:
    """What came to a source that others send to: each datagram is sent, dropped or pending."""

    received: int  # datagrams; of a stream, those that it was cut into
    received_bytes: int  # of these
    overflow: int  # datagrams that the kernel dropped at the full receive buffer: not in received
    receive_buffer: int | None  # bytes of it that the kernel granted; None: there is none now
    connected: str | None  # of a stream, who writes it now; of an engine, which server; "": nobody
    returned_by: str  # who sends back what is sent, so that it would go in a circle for ever; "": nobody
    by_sender: dict[str, int]  # datagrams, of the busiest addresses
    other_senders: int  # datagrams of all others
    refused: dict[str, int]  # datagrams, or connections, of addresses that may not send
    other_refused: int  # of all others of these


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatus(Status):
    group: str  # that it sends to
    port: int  # that it sends to
    ttl: int  # TTL or hop limit of what is sent
    framing: str | None  # how the source is cut into datagrams; None: its protocol sends files
    max_datagram: int  # bytes
    pacing: str  # in words
    rate: int | None = None  # bits per second, by the clock in the source; None: there is none, or not yet
    protocol: str  # its kind: "raw"
    source: str  # what it is called: its path
    source_state: str  # in words
    reception: ReceptionStatus | None = None  # None: its source is not what others send
    files: FilesStatus | None = None  # None: its protocol sends no files
    position: int  # bytes of the source that were read
    pending: int  # datagrams that were read and not sent yet
    repeat: int | str  # rounds, or "forever"
    counters: OutboundCounters
    hanging: Hanging | None = None  # the source, for too long
    announcement: AnnouncementStatus | None = None  # None: it is not announced
    link: SenderStatus | None  # None: there is none now
    legs: tuple[LegStatus, ...] = ()  # with copies: each way, the channel's own first


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelStatus:
    """A tunnel that groups come by. Subscriptions with the same relay have one together."""

    kind: str  # "amt"
    asked: str  # the address or name where a relay is asked for; "auto": one is looked for
    candidates: dict[str, str]  # where one is known to be, the best first; and how, as in found_by
    relay: str  # the address of the one that has answered; "": none has
    found_by: str  # how it is known: "setting", "name", "dns-sd", "anycast", "amtrelay"; "": it is not
    local_port: int  # of this host, UDP
    phase: str  # "idle", "discovering", "requesting" or "open"
    round_trip_ms: float | None  # from the last request to its answer; None: there was none
    unanswered: int  # questions in a row without an answer
    full: bool  # the relay takes no new gateways
    hindrance: str  # why this host cannot ask: a name without an address, no route, no socket; "": it can
    received: int  # packets of data
    dropped: dict[str, int]  # of these, by reason
    overflow: int  # dropped by the kernel at the full receive buffer of all tunnels to this port


@dataclass(frozen=True, slots=True)
class ReceiverDescription:
    """The effective settings of what receives a group."""

    interfaces: tuple[str, ...]  # on which the group is joined, in order
    receive_buffer: int  # bytes of the smallest, in the measure of SO_RCVBUF
    reading: str  # by which system call
    coalesced: bool  # the kernel may hand over several datagrams in one piece
    tunnel: TunnelStatus | None = None  # None: it comes by none


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipStatus:
    """A group on one interface."""

    interface: str  # that it is on
    ifindex: int  # its number
    group: str  # that is joined
    wanted: str  # the filter of sources, in words
    actual: str | None  # the one that the kernel has; None: no membership
    refused: str | None  # why the kernel did not take it
    retry_in: float | None  # seconds until the next attempt, if it was refused


@dataclass(frozen=True, slots=True)
class BySource:
    """Datagrams by the address that they came from."""

    top: Mapping[str, int]  # the busiest sources, busiest first
    rest: int  # of all others


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStatus:
    """A file that is being received."""

    name: str  # its path below the directory
    state: str  # "waiting", "receiving", "complete", "verified", "landed", "refused" or "expired"
    length: int  # bytes that are sent of it
    percent: float  # of its source symbols that are there
    blocks: int  # that it is cut into
    blocks_done: int  # of these, those that are whole
    seconds_left: float | None  # as fast as it has come so far; None: not known
    trouble: str  # what the file system did not take; "": nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesStatus:
    """The pipe that gets a line for each file that has landed."""

    path: str  # of the pipe
    written: int  # lines that the pipe has taken
    queued: int  # lines that wait for a slow reader
    dropped: Mapping[str, int]  # lines by reason
    error: str | None  # what is wrong, in words; None: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStatus:
    """A tree that is exchanged as a whole."""

    switched: bool  # the tree that its sender lists is the one in place
    missing: int  # files that it still lacks
    switches: int  # times that a tree was exchanged for another


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsStatus:
    """The files of an output, and what became of their symbols. Those are datagrams."""

    states: Mapping[str, int]  # files by state; "expired" counts all that ever were
    total_bytes: int  # of the files that are or will be received, as they are sent
    present_bytes: int  # of these, what is there
    receiving: tuple[ObjectStatus, ...]  # those that were touched last, latest first
    source: int  # written to their place
    repair: int  # kept to repair a block
    duplicate: int  # of blocks that had them already
    surplus: int  # of blocks that needed none
    restored: int  # source symbols that did not come and were repaired
    repaired_blocks: int  # completed so
    loss_percent: float | None  # of the source symbols in a pass; None: none was heard from its beginning
    short_blocks: int  # of those that are received: one pass with all its repair did not complete them
    wrong_blocks: int  # thrown away since their hash was wrong
    unrepaired: str  # why those that are being received cannot be repaired; "": nothing hinders it
    notices: NoticesStatus | None = None  # None: no pipe is told
    tree: TreeStatus | None = None  # None: files are exchanged each by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatus:
    kind: str  # "file", "fifo", "directory" and so on
    format: str | None  # None: it takes files
    path: str  # its label: the path that it writes, or what stands for an output that writes none
    counters: OutputCounters
    error: str | None  # what is wrong, in words; None: nothing
    way_out: str  # what a person can do about it
    reason: str | None  # the same as datagrams dropped for it are counted by
    received_before: int = 0  # by the subscription, when this output began
    objects: ObjectsStatus | None = None  # of an output that takes files
    engine: EngineStatus | None = None  # of an output that hands datagrams to an engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an output has with the server that it hands datagrams to."""

    server: str | None  # that is connected; None: none is
    waiting: int  # datagrams that no server has acknowledged, those that an earlier run left included
    in_flight: int  # of them: sent, and not acknowledged
    spool: str | None  # the directory where they are kept; None: they are in memory
    spool_bytes: int  # of its files, with what is acknowledged in the oldest of them
    taken_up: int  # datagrams that an earlier run had left in the spool
    duplicates: int  # datagrams that were sent again, and that the server had


@dataclass(frozen=True, slots=True)
class ClosedOutputs:
    """Outputs that were closed for good."""

    dropped: Mapping[str, int]  # by reason


@dataclass(frozen=True, slots=True)
class Hanging:
    """A source or an output that has not answered a call for too long."""

    path: str  # of the source or output, or "one of its outputs"
    seconds: float  # since it was called


@dataclass(frozen=True, slots=True)
class ReceiveBuffer:
    """Bytes, in the measure of SO_RCVBUF."""

    asked: int  # that the configuration asks for
    had: int | None  # None: there is no socket now
    advice: str | None  # if it is too small


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterStatus:
    """The jitter of RFC 3550 section 6.4.1, in milliseconds."""

    now_ms: float  # after the last datagram
    mean_ms: float  # of the estimates after each datagram
    most_ms: float  # the largest of these


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedSender:
    """One sender of numbered datagrams, and what became of these in the network."""

    address: str  # that it sends from
    stream: str  # what tells its streams apart: the SSRC, or the session; "": there is nothing
    payload_type: int | None  # of RTP
    datagrams: int  # that came in order, late, or again
    counters: SequenceCounters
    missing: int  # numbers that have not come, and still may
    age: float  # seconds since the last datagram
    jitter: JitterStatus | None  # None: it is not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStatus:
    """What the numbers of datagrams say of their way through the network."""

    counters: SequenceCounters  # of all senders, those that are forgotten by now, too; of what legs make one
    senders: tuple[NumberedSender, ...]  # those that were heard last, latest first; or that of each leg
    missing: int | None = None  # numbers that no leg has brought yet; None: there are no legs
    repaired: int | None = None  # datagrams that did not come, and were made of repair; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why nothing of what comes is received, though it comes: a setting, or the sender, is another one."""

    reason: str  # for which it is dropped
    comes: str  # what comes, and what is to be received, in words
    setting: str = ""  # what the protocol would need, as ``payload_type = 96``; "": unknown
    protocol: str = ""  # the kind of protocol that would fit; "": this one, or unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLeg:
    """One of the ways by which the stream of a subscription comes."""

    group: str = ""  # that is received
    port: int = 0  # that is received
    interface: str | tuple[str, ...] | None = None  # the setting
    joined: tuple[str, ...] = ()  # interfaces
    received: int  # datagrams
    received_bytes: int  # of their payloads
    first: int  # of these, that no other leg had brought before
    lost: int | None  # numbers that it did not bring; None: its datagrams have none
    overflow: int = 0  # dropped by the kernel at its full receive buffer, since the run began
    skew_ms: float | None  # by which the last copy that was timed came later than the first; None: none was
    most_skew_ms: float | None  # the largest of these
    sender: str  # the address that the stream comes from; "": none came
    age: float | None  # seconds since the last datagram
    silent: bool  # it brings nothing, while others go on
    trouble: str = ""  # what keeps it from receiving
    misfit: Misfit | None = None  # None: something of what comes by it is accepted


class TransportTrouble(enum.StrEnum):
    """Why what comes cannot be shown as it is meant to be, the gravest first."""

    NO_SYNC = "no-sync"  # it is no transport stream
    NO_PAT = "no-pat"
    NO_PMT = "no-pmt"
    NO_PID = "no-pid"  # a stream that a program map tells of does not come


@dataclass(frozen=True, slots=True, kw_only=True)
class PidStatus:
    """What comes of one PID of a transport stream."""

    pid: int  # the number that its packets have
    type: int | None  # of the stream, as a program map says it (H.222.0 table 2-34); None: none does
    packets: int  # with payload
    rate: int  # bits per second, in the last second
    continuity_errors: int  # packets that are missing, or came out of turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStatus:
    """A program of a transport stream."""

    number: int  # by which players know it
    map_pid: int  # the PID of its map
    clock_pid: int | None  # None: its map has not come
    pids: tuple[int, ...]  # of its streams


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportStatus:
    """What the checks of a transport stream say. Jitter and delay factor are those of the last second."""

    trouble: TransportTrouble | None  # "no-sync", "no-pat", "no-pmt" or "no-pid"; None: it can be shown
    resembles_rtp: bool  # what is no transport stream may be one in RTP
    counters: TransportCounters
    last_error_ages: Mapping[str, float]  # seconds since the last error, by check, of those that had some
    rate: int | None  # bits per second, as it arrives; None: not known yet
    clock_rate: int | None  # the same by its program clock
    clock_jitter_ms: float | None  # of arrivals against the clock, from the earliest to the latest
    most_clock_jitter_ms: float  # the largest of these
    delay_factor_ms: float | None  # RFC 4445
    most_delay_factor_ms: float  # the largest of these
    loss_rate: float  # packets that were missing in the last second: the media loss rate of RFC 4445
    programs: tuple[ProgramStatus, ...]  # as many as are shown
    pids: tuple[PidStatus, ...]  # the same, of the highest rates


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatus:
    """What is kept of what was received last, and the captures that were made of it."""

    datagrams: int  # that are kept now
    memory_bytes: int  # that these take
    captures: int  # that were written
    failed: int  # that could not be written
    last_capture: str | None  # path
    last_capture_age: float | None  # seconds
    last_reasons: tuple[str, ...]  # what it was made for: "network-loss", "overflow", "silence"
    error: str | None  # why captures cannot be written, in words; None: they can


# The age of the last overflow in a status that lacks it, as of an older daemon.
UNKNOWN_AGE = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus(Status):
    group: str  # that is received; of legs, that of the first
    port: int  # the same
    interface: str | tuple[str, ...] | None  # the setting
    sources: tuple[str, ...]  # the only senders that are received; none: any
    exclude_sources: tuple[str, ...]  # those that are not
    memberships: tuple[MembershipStatus, ...]
    counters: InboundCounters
    stale: bool  # silent for longer than expected
    last_overflow_age: float | None = UNKNOWN_AGE  # seconds; None: not with this receive buffer
    last_datagram_age: float | None  # seconds
    first_source: str  # the address of the first datagram's sender
    last_source: str  # the same of the last one's
    by_source: BySource
    protocol: str = "raw"  # its kind
    misfit: Misfit | None = None  # None: something of what comes is accepted
    manifest: ManifestStatus | None = None  # None: it goes by none
    sequence: SequenceStatus | None = None  # None: its datagrams have no numbers that it reads
    legs: tuple[ReceivedLeg, ...] = ()
    shared_interface: str = ""  # that all legs come by, so that they fail together
    shared_sender: str = ""  # that all legs come from
    ts: TransportStatus | None = None  # None: what is in them is not checked
    kept: KeptStatus | None = None  # None: nothing is kept
    outputs: tuple[OutputStatus, ...]
    closed_outputs: ClosedOutputs
    hanging: Hanging | None  # an output, for too long
    max_latency: float  # seconds
    reading: str  # "with others" or "alone"
    receive_buffer: ReceiveBuffer
    link: ReceiverDescription | None  # None: there is none now


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumStatus:
    """One stream of a session."""

    kind: str  # "video", "audio" and so on
    group: str  # "": its description says none
    port: int  # that it is sent to
    ttl: int | None  # or hop limit; None: its description says none
    transport: str  # "RTP/AVP", "udp" and so on
    encoding: str  # "MP2T/90000"; or the formats of its description
    sources: tuple[str, ...]  # the only senders; none: any


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """A session that was heard."""

    name: str  # that its description says
    media: tuple[MediumStatus, ...]
    sender: str  # the address that its announcements come from
    interface: str  # that they come by
    announced_to: str  # the group that they are sent to
    age: float  # seconds since it was first heard
    last_age: float  # the same of the last time
    interval: float | None  # seconds between announcements, on average; None: it was heard once
    sdp: str  # its description


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryStatus(Status):
    interface: str | tuple[str, ...] | None  # the setting
    groups: tuple[str, ...]  # of announcements, that are joined
    refused: Mapping[str, str]  # those that are not, each with the cause in words
    overflow: int  # packets that the kernel dropped at full receive buffers
    counters: DiscoveryCounters
    heard: int  # sessions that are kept
    sessions: tuple[SessionStatus, ...]  # those that were heard first last


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """What a source sends to a group, and where it goes."""

    source: str  # the sender's address
    group: str  # that it sends to
    comes_by: str  # an interface
    goes_to: tuple[str, ...]  # interfaces; none: it is dropped
    packets: int  # as the counters have datagrams
    bytes: int  # of these packets, and of those that came by another interface
    wrong_interface: int  # packets that came by another interface, and were dropped
    age: float  # seconds since it was made
    last_age: float  # the same, since a packet of it was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerierStatus:
    """Who asks the members of a network, and what they want in all."""

    interface: str  # of the network
    version: int  # of IP
    asks: bool  # this host does, and forwards there
    querier: str  # the address that asks; "": this host, which has none there
    groups: int  # that members want
    refused: int  # how often a group or a source was not taken, since there are too many
    crowded: bool  # some were refused lately
    without_source: int  # reports that want a group of source-specific multicast from anybody
    older: int  # queries of older versions that others have sent
    disbelieved: int  # messages that no host of the network seems to have sent


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgedGroupStatus:
    """What members on an interface want of a group."""

    interface: str  # that they are on
    group: str  # that they have joined
    wanted: str  # the filter of sources, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinStatus:
    """A group that a bridge, a relay or a link has joined where it comes from."""

    interface: str  # that it comes by
    group: str  # that is joined
    wanted: str  # the filter of sources, in words; "": it could not be joined
    refused: str | None  # why it could not be joined


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeStatus(Status):
    comes_by: tuple[str, ...]  # interfaces that there are
    goes_to: tuple[str, ...]  # interfaces that there are
    groups: tuple[str, ...]  # or prefixes
    sources: tuple[str, ...]  # the same; none: any
    engine: str  # what forwards: "kernel" or "relay"; "": nothing does now
    engine_reason: str  # why it is the relay, if that is not set; ""
    when: str  # groups are forwarded: "joined", where members have joined them, or "always"
    ttl_threshold: int  # the TTL of a datagram must exceed it
    troubles: tuple[str, ...]  # why some of it does not work
    silent: tuple[str, ...]  # interfaces by which nothing goes of what is routed there
    counters: BridgeCounters
    route_count: int  # that there are in all
    routes: tuple[RouteStatus, ...]  # those that were in use last
    queriers: tuple[QuerierStatus, ...]  # who asks on the networks that it forwards to; with when = "joined"
    members: tuple[BridgedGroupStatus, ...]  # what is wanted there
    joins: tuple[JoinStatus, ...]  # what is joined where its groups come from
    overflow: int  # datagrams that the kernel dropped at full receive buffers of the relay


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedGatewayStatus:
    """A gateway that a relay has a tunnel to."""

    address: str  # that it asks from
    port: int  # UDP, that it asks from
    groups: int  # that it wants
    wanted: tuple[str, ...]  # some of these, with the filter of sources, in words
    seconds: float  # since it came
    mtu: int  # bytes of the longest packet that goes to it, with the headers of the tunnel
    sent: int  # packets
    missed: dict[str, int]  # packets that it did not get, by reason
    path_mtu: int | None  # bytes that the network on the way takes, as it has said; None: it has said nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class AmtRelayStatus(Status):
    listen: tuple[str, ...]  # where gateways ask: addresses, with the port if it is not 2268
    refused_listen: dict[str, str]  # those of them where it could not listen, and why: tried again
    advertise: tuple[str, ...]  # where they are told to ask
    interfaces: tuple[str, ...]  # by which groups come; those of the present groups, if the route decides
    groups: tuple[str, ...]  # or prefixes, that may be asked for
    sources: tuple[str, ...]  # the same; none: any
    mtu: int  # bytes of the longest packet of a tunnel, with its headers
    max_tunnels: int  # gateways that may be served
    tunnels: int  # gateways that are
    gateways: tuple[ServedGatewayStatus, ...]  # some of these
    joins: tuple[JoinStatus, ...]  # what is joined where its groups come from
    troubles: tuple[str, ...]  # why some of it does not work
    silent: tuple[str, ...]  # groups that are joined, and of which nothing has come for a while
    counters: AmtRelayCounters
    overflow: int  # packets that the kernel dropped at full receive buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerStatus:
    """A player that a gateway serves."""

    address: str  # that it has connected from
    path: str  # that it has asked for
    seconds: float  # since it has connected
    sent: int  # datagrams
    dropped: int  # datagrams that it did not take in time
    held_bytes: int  # that wait for it


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedGroupStatus:
    """A group that a gateway has joined for players."""

    group: str  # that is joined
    port: int  # that it is received at
    sender: str  # "": any
    interfaces: tuple[str, ...]  # on which it is joined
    players: int  # that have it
    received: int  # datagrams
    overflow: int  # dropped by the kernel at the full receive buffer
    age: float | None  # seconds since the last datagram; None: there was none
    trouble: str  # what keeps it from being received; ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus(Status):
    listen: tuple[str, ...]  # where it listens
    refused_listen: dict[str, str]  # where it could not, and why: tried again
    interface: str | tuple[str, ...] | None  # the setting; None: the route decides
    connections: int  # of now
    served: int  # players that have a stream, or wait for its first datagram
    max_clients: int  # that may be served
    refused_name: str  # by which this host was asked for last, and that is none of its names; "": none
    groups: tuple[PlayedGroupStatus, ...]
    players: tuple[PlayerStatus, ...]  # some of them, the first ones first
    counters: GatewayCounters
    overflow: int  # datagrams that the kernel dropped at full receive buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus(Status):
    listen: str  # where the peer connects to: an address, with the port if it is not 9466; "": it listens
    connect: str  # where the peer listens, in the same words; "": it connects
    peer: str  # the address and port that the peer has, or had last; "": not known
    local_port: int | None  # of this host, UDP; None: there is no socket now
    up: bool  # the peer is there
    seconds: float | None  # since it is up, or down; None: there is no link now
    interface: str  # of the network here; "": there is none
    security: str  # "noise"; or "none": it is neither encrypted nor authenticated
    transit: bool  # what comes by other links goes on by this one, and the other way round
    standby_of: str  # the link that it stands by for; "": none
    rests: bool  # another link to the same site is in use, so that nothing goes by this one
    send: tuple[str, ...]  # groups or prefixes that the peer may have
    wants: tuple[str, ...]  # some of what is wanted of the peer, with the filter of sources, in words
    wants_widened: int  # groups that the peer is asked for from any source: their filters have no room
    wants_left_out: int  # groups that are wanted, and that it is not asked for: so many have no room
    peer_wants: tuple[str, ...]  # some of what the peer wants, in the same words
    refused_wants: tuple[str, ...]  # of these, some that it may not have
    round_trip_ms: float | None  # to the peer and back, smoothed; None: it was not measured
    clock_offset_seconds: float | None  # by which the peer's clock is ahead, or less than 0; None: not known
    message_bytes: int | None  # of the longest message that is known to arrive; None: there is no link now
    sizes_tried: bool  # all sizes that may arrive were tried
    too_narrow: bool  # messages of 1152 bytes do not arrive, so that hardly anything goes by it
    peer_lost_percent: float | None  # of the records under these keys, what the peer lacks; None: not known
    held: int  # records that wait for lost ones before them
    key_age: float | None  # seconds since the last handshake; None: there is no session
    keys_differ: bool  # the peer makes no new keys with this end: it may have another one, as after a change
    hindrance: str  # why the peer cannot be asked: its name has no address, a port is taken; "": it can
    refusal: str  # why the last messages could not be sent; "": they could
    not_given: str  # why the network here did not take the last datagrams; "": it did
    ignored_since_up: tuple[str, ...]  # reasons for which messages were ignored since it was up last
    troubles: tuple[str, ...]  # what of the network here cannot be had
    joins: tuple[JoinStatus, ...]  # what is joined on it for peers
    queriers: tuple[QuerierStatus, ...]  # of each IP version there; none if no members are asked
    taken: tuple[str, ...]  # some of what is taken of it for peers by now, in the words of peer_wants
    untaken: dict[str, int]  # packets that came there for all its links, and were not taken, by reason
    counters: LinkCounters
    overflow: int  # messages, and packets of the network here, dropped by the kernel at full receive buffers
