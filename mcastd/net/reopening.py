"""One of several ways that stand for each other: its link, which is opened again after it failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from mcastd.errors import LinkError


class Reopenable(Protocol):
    """A Receiver or a Sender, as far as it may fail."""

    def network_changed(self) -> None: ...

    def close(self) -> None: ...


L = TypeVar("L", bound=Reopenable)


class Reopened(Generic[L]):
    """A link, or why there is none now."""

    def __init__(self, open_link: Callable[[], L]) -> None:
        """``open_link`` raises LinkError while there is no way. Nothing is opened yet."""
        self.link: L | None = None
        self.error: LinkError | None = None  # why there is no link
        self._open_link = open_link

    def open(self) -> None:
        """Open the link, unless it is open. What is in the way is the ``error``."""
        if self.link is None:
            try:
                self.link, self.error = self._open_link(), None
            except LinkError as error:
                self.error = error

    def follow_network(self) -> None:
        """Have the link follow a change of the network, or open it."""
        if self.link is None:
            self.open()
            return
        try:
            self.link.network_changed()
        except LinkError as error:
            self.fail(error)

    def fail(self, error: LinkError) -> None:
        """The link is of no use any longer."""
        if self.link is not None:
            self.release(self.link)
            self.link = None
        self.error = error

    def release(self, link: L) -> None:
        """Have no more to do with a link that failed."""
        link.close()

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None


def some_failed(ways: Sequence[Reopened[L]]) -> bool:
    """Return True if some of these have no link. Raises the LinkError of the first if none has one."""
    errors = [way.error for way in ways if way.link is None and way.error is not None]
    if errors and len(errors) == len(ways):
        raise errors[0]
    return bool(errors)
