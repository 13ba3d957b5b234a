"""What is open of the objects of one output: files of which not all has come, and what hinders them."""

from __future__ import annotations

from mcastd.delivery.assembly import Assembly
from mcastd.delivery.landing import Landing
from mcastd.delivery.received import Received


class OpenObjects:
    """One thread uses it; others may read what is public."""

    def __init__(self, landing: Landing) -> None:
        self.receiving: dict[int, Received] = {}  # by TOI; what was touched last is the last
        self.troubled: dict[int, Received] = {}  # those of which the file system has not taken something
        self.unrepaired: dict[int, Received] = {}  # those for which there is no code
        self.touched: Received | None = None  # the last of those that are received
        self._landing = landing

    def add(self, known: Received) -> None:
        """An object is received from here on."""
        self.receiving[known.description.toi] = self.touched = known

    def touch(self, known: Received) -> None:
        """Something has come of another object that is received than the one ``touched`` last."""
        toi = known.description.toi
        self.receiving[toi] = self.receiving.pop(toi)
        self.touched = known

    def note(self, known: Received, trouble: OSError | None, again: float = 0.0) -> None:
        """Note what the file system says now, and when it is asked again."""
        known.trouble, known.again = trouble, again
        if trouble is not None:
            self.troubled[known.description.toi] = known
        else:
            self.troubled.pop(known.description.toi, None)

    def ask_again(self) -> None:
        """Have the file system asked again at once what it has not taken: there may be room for it by now."""
        for known in [known for known in self.troubled.values() if not known.gives_way_until]:
            self.note(known, None)
            if known.assembly is not None:
                known.assembly.trouble = None

    def note_hindrance(self, known: Received, assembly: Assembly) -> None:
        if assembly.cannot_repair is not None:
            self.unrepaired[known.description.toi] = known

    def stop_finishing(self, known: Received) -> None:
        if known.finishing is not None:
            known.finishing.close()
            known.finishing = None

    def set_aside(self, known: Received) -> None:
        """Close what is open. What has come stays on the disk if it can be gone on with."""
        self.stop_finishing(known)
        if known.partial is not None and known.partial.fd >= 0:
            self._landing.set_aside(known.partial)
        self.discard(known)

    def abandon(self, known: Received) -> None:
        """Let go of what is open of an object on its way, wherever it is, and of what has come of it."""
        self.stop_finishing(known)
        self.discard(known)

    def discard(self, known: Received) -> None:
        """Let go of what is open of an object, and of what has come of it."""
        if known.assembly is not None:
            known.assembly.close()
            known.assembly = None
            del self.receiving[known.description.toi]
            self.touched = None
            self.unrepaired.pop(known.description.toi, None)
        if known.partial is not None:
            if known.partial.fd >= 0:
                self._landing.discard(known.partial)
            known.partial = None
