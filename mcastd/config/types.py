"""What a value in the configuration may be: the annotated types, each with a parser.

Parsers are pure and take what TOML gives, or the parsed value itself. They raise ValueError with one
line that says what is allowed. The types also know how to write their value as TOML, exactly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, PlainSerializer, PlainValidator, StrictBool

from mcastd.config.addresses import (
    format_interfaces,
    format_prefix,
    parse_group,
    parse_group_prefix,
    parse_interfaces,
    parse_metrics,
    parse_one_interface,
    parse_relay,
    parse_source_address,
    parse_source_prefix,
)
from mcastd.config.description import Description, parse_description
from mcastd.config.keys import (
    parse_secret_place,
    parse_secret_places,
    parse_token_place,
    parse_verifying_keys,
)
from mcastd.config.link_ends import (
    format_link_connect,
    format_link_listen,
    format_link_wants,
    parse_link_connect,
    parse_link_interface,
    parse_link_listen,
    parse_link_wants,
)
from mcastd.config.numbers import (
    format_dscp,
    format_duration,
    format_mode,
    format_percent,
    format_rate,
    format_repeat,
    format_size,
    parse_burst,
    parse_dscp,
    parse_duration,
    parse_mode,
    parse_moment,
    parse_number_size,
    parse_percent,
    parse_period,
    parse_rate,
    parse_repeat,
    size,
    whole_number,
)
from mcastd.config.recording import StreamSelection, format_selection, parse_selection, parse_speed
from mcastd.config.relay_addresses import (
    format_listen,
    format_relay_addresses,
    parse_relay_addresses,
    parse_relay_listen,
)
from mcastd.config.words import show
from mcastd.ip import MAX_DATAGRAM_BYTES, Address, Interfaces, Prefix

Location = tuple[str | int, ...]  # of a value in the configuration: keys and indices
Advice = Iterator[tuple[str, str]]
"""The keys of one table that are unwise, each with why."""

# What sockaddr_un holds beside the final NUL: unix(7).
SUN_PATH_BYTES = 107
# Of the name of a session: an announcement is to be below 1000 bytes in all (RFC 2974 section 6).
SESSION_NAME_BYTES = 200


def normal(path: Path) -> str:
    """A path as text that equal paths have in common; links are not followed: no host is asked."""
    return os.path.normpath(f"/{str(path).lstrip('/')}")


# Kinds of sources and outputs that other programs name by URLs.
NO_FILES = frozenset({"udp", "tcp", "unix", "nats", "redis", "kafka"})


def parse_path(value: object) -> Path:
    """An absolute path of something that is not a directory."""
    text = str(value) if isinstance(value, str | Path) else ""
    if not text.startswith("/"):
        scheme, is_url, _ = text.partition("://")
        as_table = f'; what is no file has a table, like {{ kind = "{scheme}", ... }}'
        hint = as_table if is_url and scheme in NO_FILES else ""
        raise ValueError(f"must be an absolute path, not {show(value)}{hint}")
    if "\0" in text:
        raise ValueError(f"{show(text)} has a NUL character, which no path can have")
    if os.path.basename(text) in {"", ".", ".."}:
        raise ValueError(f"{show(text)} names a directory; add the file's name")
    return Path(text)


def parse_directory(value: object) -> Path:
    """An absolute path of a directory, with or without a slash at its end."""
    return parse_path(value.rstrip("/") if isinstance(value, str) else value)


def parse_socket_path(value: object) -> Path:
    """The path of a Unix socket."""
    path = parse_path(value)
    if len(os.fsencode(path)) > SUN_PATH_BYTES:
        raise ValueError(
            f"{show(str(path))} is longer than a Unix socket's path can be ({SUN_PATH_BYTES} bytes)"
        )
    return path


def check_name(name: str) -> str:
    """A worker's name, which also goes into metrics, logs and commands."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError(
            f"a name is up to 64 letters, digits, dots, dashes and underscores, a letter or digit first, "
            f"not {show(name)}"
        )
    return name


def parse_channel_name(value: object) -> str:
    """The name of a channel, as its manifest says it."""
    if not isinstance(value, str):
        raise ValueError(f"must be a name as those of channels are, not {show(value)}")  # noqa: TRY004
    return check_name(value)


def parse_link_name(value: object) -> str:
    """The name of another link."""
    if not isinstance(value, str):
        raise ValueError(f"must be the name of another link, not {show(value)}")  # noqa: TRY004
    return check_name(value)


def parse_session_name(value: object) -> str:
    """The name of a session, as its description has it (RFC 8866 section 5.3)."""
    if not isinstance(value, str) or not 0 < len(value.encode(errors="replace")) <= SESSION_NAME_BYTES:
        raise ValueError(f"must be a name of up to {SESSION_NAME_BYTES} bytes, not {show(value)}")
    if not value.isprintable() or not value.strip():
        raise ValueError(f"{show(value)} is not printable: nobody could read it in a list")
    return value


def parse_mold_session(value: object) -> str:
    """The session of MoldUDP64, which is filled up with blanks on the wire; one may be of blanks alone."""
    if isinstance(value, str) and 1 <= len(value) <= 10 and value.isascii() and value.isprintable():
        return value.rstrip() or " "
    raise ValueError(f"must be up to 10 characters of ASCII, not {show(value)}")


Duration = Annotated[
    float, PlainValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
Period = Annotated[float, PlainValidator(parse_period), PlainSerializer(format_duration, when_used="json")]
BurstSpan = Annotated[float, PlainValidator(parse_burst), PlainSerializer(format_duration, when_used="json")]
Moment = Annotated[float, PlainValidator(parse_moment), PlainSerializer(format_duration, when_used="json")]
Size = Annotated[int, PlainValidator(size(1)), PlainSerializer(format_size, when_used="json")]
BufferSize = Annotated[int, PlainValidator(size(1, 1 << 30)), PlainSerializer(format_size, when_used="json")]
# A batch of ordinary datagrams takes less than the smallest.
KeptSize = Annotated[int, PlainValidator(size(1 << 20)), PlainSerializer(format_size, when_used="json")]
Rate = Annotated[int, PlainValidator(parse_rate), PlainSerializer(format_rate, when_used="json")]
Percent = Annotated[float, PlainValidator(parse_percent), PlainSerializer(format_percent, when_used="json")]
Port = Annotated[int, PlainValidator(whole_number(1, 65_535))]
Ttl = Annotated[int, PlainValidator(whole_number(0, 255))]
GatewayLimit = Annotated[int, PlainValidator(whole_number(1, 100_000))]
ClientLimit = Annotated[int, PlainValidator(whole_number(1, 10_000))]
GroupLimit = Annotated[int, PlainValidator(whole_number(1, 10_000))]
UnreachableLimit = Annotated[int, PlainValidator(whole_number(0, 1000))]
# Of a path, with the headers of a tunnel: less than that no host has to take (RFC 791).
TunnelMtu = Annotated[int, PlainValidator(whole_number(576, 65_535))]
# Of the way to a peer: less than that no IPv6 path has (RFC 8200 section 5).
LinkMtu = Annotated[int, PlainValidator(whole_number(1280, 65_535))]
# In a route 0 and 255 mean that nothing passes: linux/mroute.h.
TtlThreshold = Annotated[int, PlainValidator(whole_number(1, 254))]
PayloadSize = Annotated[int, PlainValidator(whole_number(1, MAX_DATAGRAM_BYTES))]
Interleave = Annotated[int, PlainValidator(whole_number(1, 64))]
SessionNumber = Annotated[int, PlainValidator(whole_number(0, 0xFFFFFFFF))]
PayloadType = Annotated[int, PlainValidator(whole_number(0, 127))]
Ssrc = Annotated[int, PlainValidator(whole_number(0, 0xFFFFFFFF))]
ClockRate = Annotated[int, PlainValidator(whole_number(1, 1_000_000_000))]
FieldOffset = Annotated[int, PlainValidator(whole_number(0, 1400))]
NumberSize = Annotated[int, PlainValidator(parse_number_size)]
MoldSession = Annotated[str, PlainValidator(parse_mold_session)]
Keep = Annotated[int, PlainValidator(whole_number(0, 10_000))]
FileCount = Annotated[int, PlainValidator(whole_number(1, 1_000_000_000))]
Dscp = Annotated[int, PlainValidator(parse_dscp), PlainSerializer(format_dscp, when_used="json")]
Mode = Annotated[int, PlainValidator(parse_mode), PlainSerializer(format_mode, when_used="json")]
Repeat = Annotated[
    int | Literal["forever"],
    PlainValidator(parse_repeat),
    PlainSerializer(format_repeat, when_used="json"),
]
Speed = Annotated[float, PlainValidator(parse_speed)]
Selected = Annotated[
    StreamSelection, PlainValidator(parse_selection), PlainSerializer(format_selection, when_used="json")
]
Switch = StrictBool
Group = Annotated[Address, PlainValidator(parse_group)]
GroupPrefix = Annotated[
    Prefix, PlainValidator(parse_group_prefix), PlainSerializer(format_prefix, when_used="json")
]
SourcePrefix = Annotated[
    Prefix, PlainValidator(parse_source_prefix), PlainSerializer(format_prefix, when_used="json")
]
SourceAddress = Annotated[Address, PlainValidator(parse_source_address)]
AnyInterface = Annotated[
    Interfaces, PlainValidator(parse_interfaces), PlainSerializer(format_interfaces, when_used="json")
]
OneInterface = Annotated[str, PlainValidator(parse_one_interface)]
ListenAddresses = Annotated[
    tuple[tuple[Address, int], ...],
    PlainValidator(parse_relay_listen),
    PlainSerializer(format_listen, when_used="json"),
]
RelayAddresses = Annotated[
    tuple[Address, ...],
    PlainValidator(parse_relay_addresses),
    PlainSerializer(format_relay_addresses, when_used="json"),
]
LinkListen = Annotated[
    tuple[Address, int],
    PlainValidator(parse_link_listen),
    PlainSerializer(format_link_listen, when_used="json"),
]
LinkConnect = Annotated[
    tuple[str, int],
    PlainValidator(parse_link_connect),
    PlainSerializer(format_link_connect, when_used="json"),
]
LinkWants = Annotated[
    tuple[Prefix | str, ...],
    PlainValidator(parse_link_wants),
    PlainSerializer(format_link_wants, when_used="json"),
]
LinkInterface = Annotated[str, PlainValidator(parse_link_interface)]
LinkName = Annotated[str, PlainValidator(parse_link_name)]
RelayName = Annotated[str, PlainValidator(parse_relay)]
MetricsAddress = Annotated[str, PlainValidator(parse_metrics)]
FilePath = Annotated[Path, PlainValidator(parse_path)]
DirectoryPath = Annotated[Path, PlainValidator(parse_directory)]
SecretPlace = Annotated[str, PlainValidator(parse_secret_place)]
TokenPlace = Annotated[str, PlainValidator(parse_token_place)]
# As lists: a protocol's table is serialized once by itself, and again in that of its worker (kinds.py).
SecretPlaces = Annotated[
    tuple[str, ...], PlainValidator(parse_secret_places), PlainSerializer(list, when_used="json")
]
VerifyingKeys = Annotated[
    tuple[str, ...], PlainValidator(parse_verifying_keys), PlainSerializer(list, when_used="json")
]
SocketPath = Annotated[Path, PlainValidator(parse_socket_path)]
ChannelName = Annotated[str, PlainValidator(parse_channel_name)]
SessionName = Annotated[str, PlainValidator(parse_session_name)]
SessionDescribed = Annotated[
    Description,
    PlainValidator(parse_description),
    PlainSerializer(lambda described: described.written, when_used="json"),
]
WorkerName = Annotated[str, AfterValidator(check_name)]
