"""What all kinds of output have in common: what the rest of the house asks of an output's settings."""

from __future__ import annotations

import re
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from mcastd.config.ends import ProgramEnd
from mcastd.config.kinds import OfKind
from mcastd.ip import Address, Interfaces

FormatName = Literal["raw", "payload", "lines", "json", "pcapng"]
FORMAT = (
    "How a datagram is written: its bytes, those that RTP carries (payload), a line, a line of JSON with its"
    " metadata, or a packet of a capture (pcapng), as Wireshark reads it."
)

# Conversions of strftime(3) that are used in names of recordings.
_DATES = re.compile("%[YymdFHMSTs]")


class OutputPath(NamedTuple):
    """A path that an output writes."""

    path: Path
    key: str = "path"  # of the setting that names it
    type: int = stat.S_IFREG  # of what is made there, as in st_mode: a regular file, S_IFIFO or S_IFDIR
    rotated: bool = False  # PATH.1, PATH.2 and so on are the output's, too

    @property
    def setting(self) -> str:
        """What a path is called in the table of the subscription: "output", or the key beside its path."""
        return "output" if self.key == "path" else f"{self.key} of output"


class GroupEnd(NamedTuple):
    """A group and port that something is sent to."""

    group: Address
    port: int
    interface: Interfaces | None  # by which; None: the route decides
    is_heard_here: bool  # receivers on this host get it, too
    key: str = "group"  # of the setting that names it


class OutputSettings(OfKind):
    """The table of an output: each kind has its own, with at least these fields."""

    # It takes the objects of a protocol (InboundProtocol.gives_objects), and no datagrams.
    takes_objects: ClassVar[bool] = False

    @property
    def needs_listing(self) -> bool:
        """Return True if it takes objects only of a protocol that lists all there are (lists_objects)."""
        return False

    if TYPE_CHECKING:  # a kind declares it where it wants it among its other keys

        @property
        def format(self) -> str:
            """A FormatName."""

    @property
    def needs_metadata(self) -> bool:
        """Return True if it needs the origins and times of what it takes, whatever its format writes."""
        return False

    @property
    def needs_origins(self) -> bool:
        """Return True if it needs the origins alone."""
        return False

    @property
    @abstractmethod
    def label(self) -> str:
        """What tells it from the subscription's other outputs, in status, metrics, and errors.

        An output with the same label as one before it goes on with its counters.
        """

    @property
    def named(self) -> dict[str, str]:
        """What the log names it by."""
        return {one.key: str(one.path) for one in self.paths()} or {"output": self.label}

    def sends(self) -> Iterable[GroupEnd]:
        """The groups that it sends to."""
        return ()

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        """Where programs wait that it sends what came to ``group`` to, each with the key that names it."""
        return ()

    def listens(self) -> Iterable[tuple[str, ProgramEnd]]:
        """Where it waits for connections, by TCP, each with the key that says so."""
        return ()

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        """Each ``interface`` setting that it sends by, with the group there: see WorkerSettings."""
        return ()

    def paths(self) -> tuple[OutputPath, ...]:
        """The paths that it writes: no other output may, and what is written there may be sent again."""
        return ()

    def advice(self) -> Iterator[tuple[str, str]]:
        """What is legal and unwise: the key, and why with the way out."""
        yield from ()


def dated(path: Path) -> str:
    """What is wrong with a path in which a date is meant to be; "" if none is."""
    found = _DATES.search(str(path))
    return f"{found[0]} is taken as it is, and no date" if found else ""
