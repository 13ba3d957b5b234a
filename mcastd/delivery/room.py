"""Which of several objects gives its room to the others when the disk is full."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from mcastd.delivery.received import Received

# An object that gave way to smaller ones on a full disk begins anew after so long, or when it has room.
GIVE_WAY_SECONDS = 60.0
# How a file system says that it is full.
_FULL = {errno.ENOSPC, errno.EDQUOT}


def full_disk(troubled: Iterable[Received]) -> OSError | None:
    """What the file system said to one of these objects, if it said that it is full.

    One that has given way says nothing of the room that there is now.
    """
    troubles = (one.trouble for one in troubled if not one.gives_way_until)
    return next((each for each in troubles if each is not None and each.errno in _FULL), None)


def largest(receiving: Iterable[Received]) -> Received | None:
    """Of several objects that have something on the disk, the largest; None if there are no two."""
    having = [(one, each) for one in receiving if (each := one.assembly) is not None and each.present]
    if len(having) < 2:
        return None
    return max(having, key=lambda pair: (pair[1].blocks.length, -pair[1].present))[0]


def to_come(receiving: Iterable[Received]) -> int:
    """Bytes that these objects have still to get."""
    assemblies = (each for one in receiving if (each := one.assembly) is not None)
    return sum((each.blocks.total - each.present) * each.blocks.symbol_size for each in assemblies)
