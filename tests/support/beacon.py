"""A made-up kind of worker, ``[beacon.NAME]``, added as a real one is: settings, a worker, three entries."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from pydantic import Field
from pydantic.fields import FieldInfo

from mcastd import makers
from mcastd.bounded import Patience
from mcastd.config import Config, WorkerSettings
from mcastd.config.types import Period, WorkerName
from mcastd.errors import McastdError
from mcastd.metrics import exposition
from mcastd.views import Status
from mcastd.worker import Books, Context, Vitals, WorkerIdentity

# A program for `python -c`: what follows it on the command line is that of `python -m mcastd`.
MCASTD_WITH_BEACONS = (
    "from support import beacon; from mcastd.cli import main; beacon.add(); beacon.skip(3); main()"
)


class BeaconSettings(WorkerSettings):
    """A light that flashes: ``[beacon.NAME]``."""

    every: Period = Field(description="The time between flashes in seconds.")
    oil: bool = Field(True, description="Whether it can be lit.")


@dataclass(slots=True)
class BeaconCounters:
    flashes: int = 7


@dataclass(frozen=True, slots=True)
class BeaconStatus(Status):
    every: float
    counters: BeaconCounters


@dataclass
class Beacon:
    name: str
    settings: BeaconSettings
    counters: BeaconCounters = field(default_factory=BeaconCounters)

    def run(self, context: Context) -> None:
        if not self.settings.oil:
            raise McastdError("cannot light it", "there is no oil", "set oil = true")
        context.ready(f"every {self.settings.every:g} s")
        while not context.stopping:
            context.wait()

    def close(self) -> None:
        self.counters.flashes = 0

    def update(self, settings: object) -> bool:
        return False

    def status(self, patience: Patience | None = None) -> BeaconStatus:
        return BeaconStatus(self.settings.every, self.counters)

    def vitals(self) -> Vitals:
        return Vitals(datagrams=self.counters.flashes)

    def books(self) -> Books:
        return Books(WorkerIdentity("", 0, ""), self.counters, None)


def add() -> None:
    """Add the kind to this process: a field of Config, a factory, and the metrics that it has of its own."""
    table = FieldInfo(annotation=dict[WorkerName, BeaconSettings], default={}, description="Beacons by name.")
    Config.__pydantic_fields__["beacon"] = table
    Config.model_rebuild(force=True)
    makers.FACTORIES[BeaconSettings] = lambda name, settings, _: Beacon(name, settings)
    flashes = exposition.Family("mcastd_flashes_total", "counter", "Flashes.", lambda of: of.counters.flashes)
    exposition.OF_KIND["beacon"] = (*exposition.WORKER, flashes)


def skip(count: int) -> None:
    """Leave out the first arguments, which are for another interpreter."""
    sys.argv = ["mcastd", *sys.argv[count + 1 :]]
