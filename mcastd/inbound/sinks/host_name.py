"""The address of a host that an output sends to: a name is asked for aside, and again now and then."""

from __future__ import annotations

import errno
import math
from concurrent.futures import Future
from ipaddress import ip_address

from mcastd import clock
from mcastd.bounded import begin
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net.resolving import addresses_of

# A name is asked for again after so long; and sooner while not all is well.
RESOLVE_SECONDS = 60.0
RESOLVE_SOON_SECONDS = 5.0
# A first answer that has not come after so long is missing.
ANSWER_SECONDS = 5.0
# Between two looks whether the answer has come.
LOOK_SECONDS = 0.05


class HostName:
    """A host by its name or address."""

    def __init__(self, host: str) -> None:
        self.address: Address | None = None  # None: it is not known yet
        self._host = host
        self._is_name = False
        self._found: list[Address] = []  # of the name, the best first
        self._is_for_now = False  # the address is another than the best until the name is asked for again
        self._asked: Future[list[Address]] | None = None
        self._asked_at = -math.inf  # monotonic seconds
        self._looked_at = -math.inf  # the same: whether there is an answer
        try:
            self.address = ip_address(host)
        except ValueError:
            self._is_name = True

    def follow(self, *, is_well: bool) -> None:
        """Ask for the name if it is time, and take an answer. Raises LinkError if that is that there is no
        address, if none comes, or if it cannot be asked; the address that was known stays.
        """
        self._looked_at = now = clock.monotonic()
        try:
            if (asked := self._asked) is not None:
                if asked.done():
                    self._asked = None
                    self._found = asked.result()
                    if self.address not in self._found or self._is_for_now:
                        self.address, self._is_for_now = self._found[0], False
                elif self.address is None and now - self._asked_at > ANSWER_SECONDS:
                    raise TimeoutError(errno.ETIMEDOUT, "DNS does not answer")
            elif self._is_name and now >= self._due_at(is_well=is_well):
                self._asked_at = now
                self._asked = begin(lambda: addresses_of(self._host), "resolve")
        except OSError as error:
            raise LinkError(f"cannot resolve {self._host}", reason_of(error)) from error

    @property
    def others(self) -> list[Address]:
        """The other addresses that the name has."""
        return [one for one in self._found if one != self.address]

    def pass_over(self, *, for_now: bool = False) -> bool:
        """Take the next address of the name, since there is no way to this one.

        ``for_now``: until the name is asked for again, since the best one may have a way by then (RFC 6724
        section 6, rule 1). Returns False if this is the best one again: all were tried.
        """
        if self.address not in self._found:
            return False
        at = (self._found.index(self.address) + 1) % len(self._found)
        self.address, self._is_for_now = self._found[at], for_now
        return at > 0

    def look_at(self, *, is_well: bool) -> float:
        """When :meth:`follow` has something to do, in monotonic seconds; ``inf``: never."""
        if not self._is_name:
            return math.inf
        if self._asked is not None:
            return self._looked_at + LOOK_SECONDS
        return self._due_at(is_well=is_well)

    def _due_at(self, *, is_well: bool) -> float:
        return self._asked_at + (RESOLVE_SECONDS if is_well else RESOLVE_SOON_SECONDS)
