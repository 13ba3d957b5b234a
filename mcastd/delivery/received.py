"""How far an object has come.

```
                first symbol            last block             hashes, MD5           renamed
   WAITING  ------------------>  RECEIVING  --->  COMPLETE  ------------->  VERIFIED  ---->  LANDED
      ^                              |                |                        |
      |   others needed its place    |                v                        v
      +------------------------------+            REFUSED, for a while: its reason may go

   and EXPIRED, from any state: nothing describes it any more
```
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum

from mcastd.delivery.assembly import Assembly
from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.finishing import Ending
from mcastd.delivery.landing import Partial
from mcastd.delivery.refused import RefusedError
from mcastd.protocols.raptorq import NotInstalledError


class ObjectState(StrEnum):
    WAITING = "waiting"
    RECEIVING = "receiving"
    COMPLETE = "complete"
    VERIFIED = "verified"
    LANDED = "landed"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(slots=True, eq=False)
class Received:
    """An object, and how far it has come. Other threads may read it."""

    description: ObjectDescription
    state: ObjectState = ObjectState.WAITING
    refused: RefusedError | None = None  # the last time
    trouble: OSError | None = None  # what the file system did not take the last time
    again: float = 0.0  # monotonic time before which it is not tried again
    gives_way_until: float = 0.0  # monotonic time: others have its room, if there is none for all
    is_new: bool = False  # no file had its name when it began to be received
    began: float = 0.0  # monotonic time when it began to be received
    partial: Partial | None = None
    assembly: Assembly | None = None  # there is one as long as there is a partial file
    finishing: Generator[None, None, Ending] | None = None  # it is being made a file

    @property
    def percent(self) -> float:
        """How much of it is there."""
        assembly = self.assembly  # once: it may land meanwhile
        if assembly is None or not assembly.blocks.total:
            return 100.0 if self.state is ObjectState.LANDED else 0.0
        return 100.0 * assembly.present / assembly.blocks.total

    def seconds_left(self, now: float) -> float | None:
        """How long the rest takes, as fast as it came until monotonic ``now``; None if that is not known."""
        assembly = self.assembly
        if assembly is None or (came := assembly.present - assembly.examined) <= 0:
            return None
        return (assembly.blocks.total - assembly.present) * (now - self.began) / came

    @property
    def blocks(self) -> int:
        """Source blocks, while it is received."""
        assembly = self.assembly
        return 0 if assembly is None else assembly.blocks.count

    @property
    def blocks_done(self) -> int:
        assembly = self.assembly
        return 0 if assembly is None else assembly.blocks.count - assembly.left

    @property
    def short(self) -> int:
        """Blocks that one pass with all its repair did not complete."""
        assembly = self.assembly
        return 0 if assembly is None else assembly.short

    @property
    def unrepaired(self) -> str:
        """Why what is missing of it cannot be repaired; "": it can, or that was not tried."""
        assembly = self.assembly
        if assembly is None or (error := assembly.cannot_repair) is None:
            return ""
        cause = error.cause if isinstance(error, NotInstalledError) else str(error)
        return f"cannot repair: {cause}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An object has landed or was refused."""

    description: ObjectDescription
    refused: RefusedError | None = None  # None: it has landed
    unchanged: bool = False  # the file that had its name was the object already
