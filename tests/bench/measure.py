"""How it is measured: draining a full socket, steady rates, the highest rate without loss."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median

from bench.processes import Program
from bench.receivers import Receiver

Samples = dict[str, dict[str, list[float]]]  # by contestant, by metric, a value a round

HELD = 0.97  # of the rate asked for: below it the sender was at its limit


def interleave(
    rounds: int, contestants: Mapping[str, Callable[[], dict[str, float]]], say: Callable[[str], None]
) -> Samples:
    """A B C A B C ...: what disturbs the machine for a while disturbs all of them."""
    samples: Samples = {name: defaultdict(list) for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            values = run()
            shown = ", ".join(f"{metric} {value:,.4g}" for metric, value in values.items())
            say(f"  {number + 1}/{rounds} {name}: {shown}")
            for metric, value in values.items():
                samples[name][metric].append(value)
    return samples


def middle(samples: Samples, name: str, metric: str) -> float | None:
    """The median of what was measured; None if nothing was."""
    values = samples.get(name, {}).get(metric)
    return median(values) if values else None


def ratio(samples: Samples, name: str, other: str, metric: str) -> float | None:
    """The median of the ratios within each round."""
    mine, theirs = (samples.get(one, {}).get(metric, []) for one in (name, other))
    pairs = [a / b for a, b in zip(mine, theirs, strict=False) if b]
    return median(pairs) if pairs else None


def rates_ratio(samples: Samples, name: str, other: str) -> tuple[float | None, str]:
    """The ratio of two loss-free rates, and of which one nothing but a lower bound is known.

    In most rounds the sender itself was at its limit: that one may be faster than it says.
    """
    bounded = [one for one in (name, other) if (middle(samples, one, "at_sender_limit") or 0) > 0.5]
    which = {(): "", (name,): "lower", (other,): "upper", (name, other): "both"}[tuple(bounded)]
    return ratio(samples, name, other, "rate"), which


def drain(receiver: Receiver, *, size: int, count: int, mode: str = "mmsg") -> dict[str, float]:
    """CPU ns a datagram of emptying a socket that was filled while the receiver was stopped.

    No wake-ups and no waiting are in it: it is what the receiving path costs at its best. Sender and receiver
    have a core each: who got the one that filled its caches and owns its buffers would have it cheaper.
    """
    lab = receiver.lab
    receiver.wait_quiet()
    cores = os.sched_getaffinity(0)
    receiver.program.pin({max(cores)})
    receiver.program.pause()
    time.sleep(0.005)
    before = receiver.mark()
    reader = receiver.reader.cpu() if receiver.reader else 0
    try:
        os.sched_setaffinity(0, {min(cores)})
        lab.blast(receiver.address, size=size, count=count, mode=mode)
    finally:
        started = time.monotonic()
        os.sched_setaffinity(0, cores)
        receiver.program.resume()
    receiver.wait_quiet()
    elapsed = time.monotonic() - started
    receiver.program.pin(cores)
    after = receiver.mark()
    lost = receiver.lost(before, count, size)
    taken = count - (after.drops - before.drops)
    receiver.release()
    values = {"cpu": (after.cpu - before.cpu) / max(1, taken), "lost": lost, "wall": elapsed}
    if receiver.reader:
        values["reader_cpu"] = (receiver.reader.cpu() - reader) / max(1, taken)
    return values


def steady(receiver: Receiver, *, size: int, rate: float, seconds: float) -> dict[str, float]:
    """CPU ns a datagram while they come one by one at a rate, and how many were lost."""
    receiver.wait_quiet()
    before = receiver.mark()
    count = int(rate * seconds)
    sent = receiver.lab.blast(receiver.address, size=size, count=count, mode="packet", rate=rate)
    receiver.wait_quiet()
    time.sleep(receiver.settled)
    cpu = receiver.mark().cpu - before.cpu
    lost = receiver.lost(before, count, size)
    receiver.release()
    return {"cpu": cpu / max(1, count - lost), "lost": lost, "sent_rate": count / sent["elapsed"]}


class LossFree:
    """The search for the highest rate at which a receiver loses nothing, by bisection.

    A round begins near what the last one found. A rate counts as held if one of two attempts loses nothing:
    on a machine with other tenants a single pause overflows any buffer. Where the sender cannot go faster,
    its own rate is the answer, and that is said.
    """

    LOW, HIGH = 30_000.0, 1_500_000.0  # datagrams a second
    FIRST, LATER = 6, 4  # trials: the answer is within 7 % of the edge
    SPAN = 1.7

    def __init__(self, *, size: int, seconds: float, beside: Callable[[], Program] | None = None) -> None:
        """``beside`` starts another load for each trial."""
        self._size = size
        self._seconds = seconds
        self._beside = beside
        self._found = 0.0

    def __call__(self, receiver: Receiver) -> dict[str, float]:
        low, high, trials = self.LOW, self.HIGH, self.FIRST
        if self._found:
            low, high, trials = self._found / self.SPAN, self._found * self.SPAN, self.LATER
        best, limited = 0.0, 0
        while trials > 0 or (not best and low > 1000):
            if trials <= 0:  # even the lowest was too much
                low, high, trials = low / 4, low, 2
            trials -= 1
            rate = math.sqrt(low * high)
            held, reached = self._attempt(receiver, rate)
            if not held:
                high = rate
                continue
            best = max(best, reached)
            if reached > HELD * rate:
                low = rate
            else:
                limited += 1
                if limited == 2:
                    break
        self._found = best
        return {"rate": best, "at_sender_limit": float(limited > 0)}

    def _attempt(self, receiver: Receiver, rate: float) -> tuple[bool, float]:
        """Whether nothing was lost, and the rate that the sender had."""
        reached = rate
        for _ in range(2):
            lost, reached = self._trial(receiver, rate)
            if not lost:
                return True, reached
            if lost > 0.1 * rate * self._seconds:  # no pause, but plainly too fast
                break
        return False, reached

    def _trial(self, receiver: Receiver, rate: float) -> tuple[int, float]:
        receiver.wait_quiet()
        before = receiver.mark()
        count = int(rate * self._seconds)
        load = self._beside() if self._beside else None
        try:
            sent = receiver.lab.blast(
                receiver.address, size=self._size, count=count, mode="packets", rate=rate
            )
            if load and load.process.poll() is not None:
                raise RuntimeError("the load beside it did not outlast the trial")
        finally:
            if load:
                load.stop()
        receiver.wait_quiet()
        time.sleep(receiver.settled)
        lost = receiver.lost(before, count, self._size)
        receiver.release()
        return lost, count / sent["elapsed"]
