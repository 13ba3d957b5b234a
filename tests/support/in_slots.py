"""Batches that lie in the slots of an arena, without a socket."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mcastd.net.link import ListBatch
from mcastd.net.slots import Slots
from mcastd.rows import Rows


class SlotBatch:
    """What is in slots already, from the first on, as far as it has datagrams."""

    truncated = 0

    def __init__(self, slots: Slots, lengths: Sequence[int]) -> None:
        self.size = sum(lengths)
        self._slots = slots
        self._lengths = [*lengths]

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def payloads(self) -> Sequence[memoryview]:
        return [slot[:length] for slot, length in zip(self._slots.views, self._lengths, strict=False)]

    @property
    def rows(self) -> Sequence[Rows]:
        return self._slots.rows(self._lengths)

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads)


class InSlots(SlotBatch):
    """A batch that is put there; whatever else it says of its datagrams it says here, too."""

    def __init__(self, slots: Slots, listed: ListBatch) -> None:
        for view, payload in zip(slots.views, listed.payloads, strict=False):
            view[: len(payload)] = payload
        super().__init__(slots, [*map(len, listed.payloads)])
        self.origins = listed.origins
        self.times = listed.times
        self.sources = listed.sources
