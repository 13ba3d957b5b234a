"""Which functions of mcastd a block calls, and how often."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import mcastd

ROOT = str(Path(mcastd.__file__).parent)


@contextlib.contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of this thread by the names of the functions, while the block runs."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            counts[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)
