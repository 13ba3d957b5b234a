"""What is imported, or made, when it is first wanted: there are many kinds of things, and a site has few."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Later:
    """Stands for a callable by its name, ``mcastd.makers.link:make``; when called, it imports its module.

    A call may raise what the import raises: OSError where descriptors are short.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Later {self.name}>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.load()(*arguments, **named)

    def load(self) -> Callable[..., Any]:
        """The callable itself."""
        module, _, name = self.name.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


class Once(Generic[T]):
    """A value that is made when it is first asked for, and once. For any thread."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self.made: T | None = None  # None: it was not asked for yet

    def __call__(self) -> T:
        with self._making:
            if self.made is None:
                self.made = self._make()
            return self.made
