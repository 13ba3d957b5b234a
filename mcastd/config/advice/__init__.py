"""What is legal in a configuration, and unwise: each with its cause and the way out. Pure; never raises.

```
  one_worker.py        by kind: channels.py, subscriptions.py
  between_workers.py   who sends to one group, what is received where it is sent
  named_paths.py       files, pipes and directories
```
"""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config.advice.between_workers import BETWEEN_WORKERS
from mcastd.config.advice.named_paths import OF_PATHS, NamedPaths, private_paths
from mcastd.config.advice.one_worker import OF_ONE_WORKER
from mcastd.config.explain import Complaint
from mcastd.config.output import OutputSettings
from mcastd.config.types import Location
from mcastd.config.whole import Config

__all__ = ["OF_ONE_WORKER", "advise"]


def advise(config: Config, *, for_unit: bool = False) -> list[Complaint]:
    """Everything unwise in ``config``, at its location in the models, in no order that means anything.

    Workers that are not enabled are left out. ``for_unit``: the packages' systemd unit runs it.
    """
    config = config.of_enabled()
    found: list[Complaint] = []
    for table, checks in OF_ONE_WORKER.items():
        for name, settings in config.of_kind(table).items():
            for check in checks:
                found += (Complaint((table, name, key), why) for key, why in check(settings))
    for compare in (*BETWEEN_WORKERS, _of_kinds, _open_to_all):
        found += compare(config)
    paths = NamedPaths(config)
    for look in (*OF_PATHS, private_paths) if for_unit else OF_PATHS:
        found += look(paths)
    return found


def _of_kinds(config: Config) -> Iterator[Complaint]:
    """What each kind of output has to say of its own table."""
    for location, output in _outputs(config):
        yield from (Complaint((*location, key), why) for key, why in output.advice())


def _outputs(config: Config) -> Iterator[tuple[Location, OutputSettings]]:
    """Every output, with its location."""
    for name, subscription in config.inbound.items():
        for index, output in enumerate(subscription.output):
            yield ("inbound", name, "output", index), output


def _open_to_all(config: Config) -> Iterator[Complaint]:
    metrics = config.daemon.metrics
    if metrics is not None and metrics.rpartition(":")[0] in ("0.0.0.0", "[::]"):
        yield Complaint(
            ("daemon", "metrics"),
            f"{metrics} is open to whoever reaches this host; take an address of a network that you trust, or"
            " 127.0.0.1",
        )
