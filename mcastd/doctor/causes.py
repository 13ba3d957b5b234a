"""Every cause that can be found, in the order of the path that a datagram takes.

Of findings of one severity the one whose cause stands further up comes first. A cause *explains* others:
what it explains is a consequence then, and not told beside it. mcastctl(1) has this list, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    id: str
    meaning: str  # for the manual
    explains: frozenset[str] = frozenset()


def _cause(id: str, meaning: str, *explains: str) -> Cause:
    return Cause(id, meaning, frozenset(explains))


CAUSES: tuple[Cause, ...] = ()

RANK = {cause.id: rank for rank, cause in enumerate(CAUSES)}
EXPLAINS = {cause.id: cause.explains for cause in CAUSES}
