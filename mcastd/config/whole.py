"""A whole configuration: all tables, and what their workers have to agree on."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from mcastd.config.amt_ports import wanted_twice
from mcastd.config.amt_relay import AmtRelaySettings
from mcastd.config.bridge import Bridge
from mcastd.config.daemon import DaemonSettings
from mcastd.config.discover import Discover
from mcastd.config.ends import ProgramEnd
from mcastd.config.gateway import GatewaySettings
from mcastd.config.inbound import InboundSubscription
from mcastd.config.kept_streams import written_twice
from mcastd.config.link import LinkSettings, listening_twice, wrong_standbys
from mcastd.config.listeners import taken_twice
from mcastd.config.loops import circles, loops
from mcastd.config.model import Conflicts, GroupSettings, Model, WorkerSettings
from mcastd.config.outbound import OutboundChannel
from mcastd.config.types import Location, WorkerName, normal
from mcastd.config.via import VIAS, AmtSettings
from mcastd.config.words import show


class Config(Model):
    """A whole configuration, of one file and its drop-ins.

    Each field that holds workers by name is a kind of worker, and so is each that is added here.
    """

    daemon: DaemonSettings = Field(default_factory=DaemonSettings, description="The daemon itself.")
    amt: AmtSettings = Field(default_factory=AmtSettings, description="How AMT relays are found and asked.")
    outbound: dict[WorkerName, OutboundChannel] = Field({}, description="Outbound channels by name.")
    inbound: dict[WorkerName, InboundSubscription] = Field({}, description="Inbound subscriptions by name.")
    discover: dict[WorkerName, Discover] = Field({}, description="Listeners to announcements by name.")
    bridge: dict[WorkerName, Bridge] = Field({}, description="Bridges between interfaces by name.")
    amt_relay: dict[WorkerName, AmtRelaySettings] = Field({}, description="AMT relays by name.")
    gateway: dict[WorkerName, GatewaySettings] = Field({}, description="Gateways for players by name.")
    link: dict[WorkerName, LinkSettings] = Field({}, description="Links to other sites by name.")

    @classmethod
    def kinds(cls) -> dict[str, type[WorkerSettings]]:
        """The settings of each kind of worker, by the kind's table: ``outbound``, ``inbound``."""
        tables = {
            name: get_args(field.annotation)[1]
            for name, field in cls.model_fields.items()
            if get_origin(field.annotation) is dict
        }
        return {name: settings for name, settings in tables.items() if issubclass(settings, WorkerSettings)}

    def workers(self) -> dict[str, WorkerSettings]:
        """The enabled workers by full name (``outbound/NAME``, ``inbound/NAME``), kind by kind."""
        return {name: worker for name, worker in self._all_workers() if worker.enabled}

    def disabled(self) -> list[str]:
        """The full names of the workers that are not enabled, in the order of the text."""
        return [name for name, worker in self._all_workers() if not worker.enabled]

    def of_enabled(self) -> Config:
        """The same configuration without the workers that are not enabled."""
        enabled = {
            table: {name: settings for name, settings in self.of_kind(table).items() if settings.enabled}
            for table in self.kinds()
        }
        return self.model_copy(update=enabled)

    def of_kind(self, table: str) -> dict[str, WorkerSettings]:
        """The workers of one kind, enabled or not, by name."""
        workers: dict[str, WorkerSettings] = getattr(self, table)
        return workers

    def _all_workers(self) -> Iterator[tuple[str, WorkerSettings]]:
        for table in self.kinds():
            for name, settings in self.of_kind(table).items():
                yield f"{table}/{name}", settings

    @model_validator(mode="before")
    @classmethod
    def _tunnels_set(cls, tables: Any) -> Any:
        """Have each subscription that comes by AMT say what ``[amt]`` says, where it says nothing itself."""
        if not isinstance(tables, dict):
            return tables
        common, inbound = tables.get("amt"), tables.get("inbound")
        if not isinstance(common, dict) or not isinstance(inbound, dict):
            return tables
        try:
            said = {key: common[key] for key in AmtSettings.model_validate(common).model_fields_set}
        except ValidationError:  # which is said of that table
            return tables
        return {**tables, "inbound": {name: _with_amt(table, said) for name, table in inbound.items()}}

    @model_validator(mode="after")
    def _workers_agree(self) -> Config:
        if found := list(self._conflicts()):
            raise Conflicts(found)
        return self

    def _conflicts(self) -> Iterator[tuple[Location, str]]:
        """Outputs that are something else already, and channels that send to themselves.

        An output may be a channel's source: that is a relay. Workers that are not enabled use no path. Paths
        are compared as text: no host is asked.
        """
        uses = {normal(self.daemon.control_socket): "the control socket"}
        yield from self._conflicts_of_ends(uses)
        outputs = [
            (name, ("inbound", name, "output", index), output)
            for name, subscription in self.inbound.items()
            if subscription.enabled
            for index, output in enumerate(subscription.output)
        ]
        written = [
            (name, (*name.split("/"), *key), normal(one.path), one)
            for name, settings in self.workers().items()
            for key, one in settings.writes()
        ]
        rotated = {path: name for name, _, path, one in written if one.rotated}
        directories = {path: name for name, _, path, one in written if stat.S_ISDIR(one.type)}
        for name, at, path, _ in written:
            stem, _, number = path.rpartition(".")
            if path in uses:
                yield at, f"{show(path)} is already {uses[path]}"
            elif stem in rotated and re.fullmatch("[1-9][0-9]{0,9}", number):
                yield at, f"{show(path)} is a name that {rotated[stem]} rotates its output to"
            elif directories and (
                inside := next((up for up in map(str, Path(path).parents) if up in directories), "")
            ):
                yield (
                    at,
                    f"{show(path)} is in {show(inside)}, where {directories[inside]} receives files",
                )
            uses.setdefault(path, f"an output of {name}")
        labels: set[tuple[str, str]] = set()
        for name, location, output in outputs:
            if not output.paths() and (name, output.label) in labels:
                yield location, f"{show(output.label)} is already an output of inbound/{name}"
            labels.add((name, output.label))
        yield from taken_twice(self.daemon.metrics, self.workers())
        enabled = {name: link for name, link in self.link.items() if link.enabled}
        for name, first in listening_twice(enabled):
            why = f"link.{first} listens there already: each link has a port of its own, at the peer as well"
            yield ("link", name, "listen"), why
        relays = {name: relay for name, relay in self.amt_relay.items() if relay.enabled}
        subscriptions = {name: one for name, one in self.inbound.items() if one.enabled}
        yield from wanted_twice(relays, subscriptions)
        yield from written_twice(subscriptions)
        for name, why in wrong_standbys(self.link):
            yield ("link", name, "standby_of"), why
        by_files: set[str] = set()
        for loop in loops(self.workers()):
            by_files |= {loop.sender, loop.receiver}
            yield (*loop.sender.split("/"), *loop.key), f"{loop}; send to another group, or write elsewhere"
        for circle in circles(self.workers()):
            if circle.worker not in by_files:
                yield (*circle.worker.split("/"), *circle.key), f"{circle}; {circle.way_out}"

    def _conflicts_of_ends(self, uses: dict[str, str]) -> Iterator[tuple[Location, str]]:
        """Sources that are sent to where something else is already, but for those of TCP (listeners.py).

        ``uses`` of paths get theirs.
        """
        taken: dict[ProgramEnd, str] = {}
        for name, settings in self.workers().items():
            end = settings.taken_at if isinstance(settings, GroupSettings) else None
            if end is None or end.is_shared:
                continue
            if end.way == "tcp":
                continue
            at = (*name.split("/"), "source", "path" if end.way == "unix" else "listen")
            path = normal(Path(end.host))
            if end in taken:
                yield at, f"{show(end.place)} is already the source of {taken[end]}"
            elif end.way == "unix" and path in uses:
                yield at, f"{show(end.place)} is already {uses[path]}"
            elif end.way == "unix":
                uses[path] = f"the source of {name}"
            taken.setdefault(end, name)


def _with_amt(table: object, said: Mapping[str, object]) -> object:
    """The table of a subscription; if it comes by AMT, with what is ``said`` of all that do."""
    via = table.get("via") if isinstance(table, dict) else None
    model = VIAS.model_of(via) if isinstance(via, str | dict) else None
    if not isinstance(table, dict) or model is None or not issubclass(model, AmtSettings):
        return table
    own = {"kind": via} if isinstance(via, str) else via
    return {**table, "via": {**said, **own}}
