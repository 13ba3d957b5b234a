"""Keeps the kernel's tables, with all their routes, from one run of the daemon to the next.

For any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from mcastd.net.routing import KeptTable, Version
from mcastd.stored import TABLES, Store


class KeptTables:
    """Those of the process before this one are ``inherited`` from the ``store``, by their names.

    :meth:`settle` gives those up that nobody has taken.
    """

    def __init__(self, store: Store | None = None, inherited: Iterable[tuple[str, int]] = ()) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._left: dict[Version, KeptTable] = {}
        versions: dict[str, Version] = {f"{TABLES}4": 4, f"{TABLES}6": 6}
        for name, fd in inherited:
            version = versions.get(name)
            table = None if version is None or version in self._left else KeptTable.of(version, fd)
            if version is None or table is None:
                os.close(fd)
            else:
                self._left[version] = table

    def take(self, version: Version) -> KeptTable | None:
        """Return the table that was kept; None if there is none."""
        with self._lock:
            return self._left.pop(version, None)

    def give_back(self, version: Version, table: KeptTable) -> None:
        """Put a table back that was taken: the next :meth:`take` returns it."""
        with self._lock:
            self._left[version] = table

    def opened(self, version: Version, fd: int) -> None:
        """Have a table kept."""
        if self._store is not None:
            self._store.add(f"{TABLES}{version}", fd)

    def closed(self, version: Version) -> None:
        """Keep a table no more: with the last copy of its descriptor its routes end."""
        if self._store is not None:
            self._store.remove(f"{TABLES}{version}")

    def settle(self) -> None:
        """Give up what was left and not taken: there is no bridge any more."""
        with self._lock:
            left, self._left = self._left, {}
        for version, table in left.items():
            self.closed(version)
            table.close()
