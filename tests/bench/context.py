"""What every row of the benchmark is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bench.daemon import Checkout
from bench.lab import Lab
from bench.measure import Samples, interleave
from bench.receivers import Cast

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """The laboratory, the daemon that is measured, and how thoroughly."""

    lab: Lab
    checkout: Checkout
    rounds: int
    quick: bool

    def choose(self, thorough: T, quick: T) -> T:
        return quick if self.quick else thorough

    def cast(self, stack: contextlib.ExitStack) -> Cast:
        return Cast(self.lab, self.checkout, stack)

    def interleave(self, what: str, contestants: Mapping[str, Callable[[], dict[str, float]]]) -> Samples:
        self.lab.say(what)
        return interleave(self.rounds, contestants, self.lab.say)
