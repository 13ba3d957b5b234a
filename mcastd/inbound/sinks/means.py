"""What sinks have in common with the rest of the process."""

from __future__ import annotations

from typing import NamedTuple

from mcastd.config import OpenFilesOf
from mcastd.inbound.sinks.ends import Ends


class Means(NamedTuple):
    """With the defaults a sink works for itself alone."""

    ends: Ends | None = None  # of pipes, from one sink to the next
    files: OpenFilesOf | None = None  # what is sent to the subscription itself, and so not to be written


ALONE = Means()
