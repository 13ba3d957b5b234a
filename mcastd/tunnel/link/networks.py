"""The networks of a host that links are for: an interface is one, by whichever of its names they have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from mcastd import log
from mcastd.errors import CannotAskError
from mcastd.tunnel.link.local import LocalNetwork

OpenNetwork = Callable[[str], LocalNetwork]
NameOf = Callable[[str], str]
"""The name of the interface that a setting means now, or the setting itself. Raises CannotAskError."""


class LocalNetworks:
    """By the interfaces that links name. The thread of Links changes them; others may look."""

    def __init__(
        self, open_network: OpenNetwork, name_of: NameOf, on_change: Callable[[LocalNetwork], None]
    ) -> None:
        """``on_change`` is called with each network that was opened or closed."""
        self.by_interface: dict[str, LocalNetwork] = {}
        self._open_network = open_network
        self._name_of = name_of
        self._on_change = on_change
        self._names: dict[str, str] = {}  # what each is opened as, by interface
        self._reopen_at: dict[str, float] = {}  # monotonic seconds, by interface: those that failed
        self._log = log.get_logger()

    @property
    def deadline(self) -> float:
        """When :meth:`keep` opens again what failed, in monotonic seconds; ``inf``: nothing did."""
        return min(self._reopen_at.values(), default=math.inf)

    def is_there(self, network: LocalNetwork) -> bool:
        return any(one is network for one in self.by_interface.values())

    def keep(self, interfaces: Collection[str], now: float) -> None:
        """Have the networks of these interfaces, and no others."""
        waiting = self._reopen_at.items()
        self._reopen_at = {one: at for one, at in waiting if one in interfaces and at > now}
        for interface in interfaces:
            if interface not in self.by_interface and interface not in self._reopen_at:
                self._open(interface)
        # Afterwards: what has another name now is the same network, and goes on
        for interface in [interface for interface in self.by_interface if interface not in interfaces]:
            self._drop(interface)

    def look_again(self) -> None:
        """Interfaces or addresses are others: close what a name does not mean any more, to be opened by
        :meth:`keep`."""
        for interface in [*self.by_interface]:
            if self._name_now(interface) != self._names[interface]:
                self._drop(interface)

    def fail(self, network: LocalNetwork, reopen_at: float) -> None:
        """Close a network that has failed, until then, in monotonic seconds."""
        for interface in [name for name, one in self.by_interface.items() if one is network]:
            self._reopen_at[interface] = reopen_at
            self._drop(interface)

    def _open(self, interface: str) -> None:
        name = self._name_now(interface)
        alike = (other for other in self.by_interface if self._names[other] == name)
        if (same := next(alike, None)) is not None:
            network = self.by_interface[same]
        else:
            network = self._open_network(name)
        self._names[interface], self.by_interface[interface] = name, network
        self._on_change(network)

    def _name_now(self, interface: str) -> str:
        try:
            return self._name_of(interface)
        except CannotAskError:  # what works is kept
            return self._names.get(interface, interface)

    def _drop(self, interface: str) -> None:
        """Close the network of an interface, unless it is that of another one, too."""
        network = self.by_interface.pop(interface)
        del self._names[interface]
        if not self.is_there(network):
            try:
                network.close()
            except Exception:
                self._log.exception("network.crashed", interface=interface)
        self._on_change(network)
