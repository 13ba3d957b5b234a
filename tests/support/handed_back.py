"""What a thread that serves several hands back, in the tests of such threads."""

from __future__ import annotations

import threading


class HandedBackLate:
    """A mixin for what is served: memory is missing the first two times that it is handed back."""

    handed_back: threading.Event
    attempts = 0

    def hand_back(self) -> None:
        self.attempts += 1
        if self.attempts < 3:
            raise MemoryError
        self.handed_back.set()
