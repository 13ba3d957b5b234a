"""What all sinks of a process share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mcastd.config import OpenFilesOf
from mcastd.inbound.sinks.ends import Ends
from mcastd.inbound.sinks.own_flows import OwnFlows
from mcastd.net.interfaces import Host, look


class Means(NamedTuple):
    """With the defaults a sink shares nothing."""

    ends: Ends | None = None  # write ends of pipes, handed from one sink to the next
    files: OpenFilesOf | None = None  # open files of all workers: finds one that would be sent for ever
    host: Callable[[], Host] = look  # returns the picture of the interfaces
    flows: OwnFlows = OwnFlows()  # what outputs send to groups


ALONE = Means()
