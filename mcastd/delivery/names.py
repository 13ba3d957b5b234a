"""Names of objects, which anybody may have sent, as paths that stay below a directory."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from enum import StrEnum

from mcastd.delivery.refused import UNSAFE_NAME, RefusedError
from mcastd.printable import printable

# What the kernel takes as the name of a file or directory (NAME_MAX of limits.h).
COMPONENT_BYTES_MAX = 255
# Below the 4096 of PATH_MAX, so that programs find the file below the path of the directory, too.
NAME_BYTES_MAX = 2048
COMPONENTS_MAX = 32
# The directory of files that are being received, in the output directory.
PARTIAL_DIRECTORY = ".mcastd-partial"
# The directory of whole trees, where these are exchanged at once.
TREES_DIRECTORY = ".mcastd-trees"


class Unsafe(StrEnum):
    """What is wrong with a name."""

    EMPTY = "it is empty, or has an empty part"
    PARENT = 'it has a part "." or ".."'
    SLASH = "one of its parts has a slash"
    CONTROL = "it has a control character"
    NOT_A_NAME = "it has characters that no file system takes"
    TOO_LONG = f"it is longer than {NAME_BYTES_MAX} bytes, or a part of it than {COMPONENT_BYTES_MAX}"
    TOO_DEEP = f"it has more than {COMPONENTS_MAX} parts"
    RESERVED = f"it begins with {PARTIAL_DIRECTORY} or {TREES_DIRECTORY}, where files are received"


class UnsafeNameError(RefusedError):
    """A name cannot be that of a file below the output directory; ``unsafe`` says why."""

    def __init__(self, name: str, unsafe: Unsafe) -> None:
        self.unsafe = unsafe
        super().__init__(shown(name), unsafe, "let the sender give it another name", reason=UNSAFE_NAME)


def safe_name(path: str) -> tuple[str, ...]:
    """The parts of a path below any directory, such as a FileEntry's location. Raises UnsafeNameError.

    Bytes that are no UTF-8 are in it as os.fsdecode() has them.
    """
    name = tuple(path.split("/"))
    require_safe(name)
    return name


def require_safe(name: Sequence[str]) -> None:
    """Raises UnsafeNameError if the parts of ``name`` are not the path of a file below a directory."""
    if (unsafe := _fault(name)) is not None:
        raise UnsafeNameError("/".join(name), unsafe)


def shown(name: str) -> str:
    """A name as it can be written to a log or terminal, cut if it is long."""
    return printable(name if len(name) <= 120 else f"{name[:117]}...")


def _fault(name: Sequence[str]) -> Unsafe | None:
    whole = "".join(name)
    try:
        sizes = [len(os.fsencode(part)) for part in name]
    except UnicodeEncodeError:
        return Unsafe.NOT_A_NAME
    faults = {
        Unsafe.EMPTY: not sizes or not min(sizes),
        Unsafe.TOO_DEEP: len(sizes) > COMPONENTS_MAX,
        Unsafe.TOO_LONG: max(sizes, default=0) > COMPONENT_BYTES_MAX
        or sum(sizes) + len(sizes) > NAME_BYTES_MAX,
        Unsafe.PARENT: not {".", ".."}.isdisjoint(name),
        Unsafe.SLASH: "/" in whole,
        Unsafe.CONTROL: any(unicodedata.category(character) == "Cc" for character in whole),
        # Some file systems do not tell upper case from lower
        Unsafe.RESERVED: name[:1] and name[0].casefold() in {PARTIAL_DIRECTORY, TREES_DIRECTORY},
    }
    return next((fault for fault, found in faults.items() if found), None)
