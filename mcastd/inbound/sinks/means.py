"""What all sinks of a process share."""

from __future__ import annotations

from typing import NamedTuple

from mcastd.config import OpenFilesOf
from mcastd.inbound.sinks.ends import Ends


class Means(NamedTuple):
    """With the defaults a sink shares nothing."""

    ends: Ends | None = None  # write ends of pipes, handed from one sink to the next
    files: OpenFilesOf | None = None  # open files of all workers: finds one that would be sent for ever


ALONE = Means()
