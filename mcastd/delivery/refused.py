"""Why an object is not taken, though nothing of it was lost."""

from __future__ import annotations

from mcastd.errors import McastdError

# Its name could lead out of the directory, or cannot be a file's.
UNSAFE_NAME = "unsafe-name"
# Something that is not ours has its name, or the name of a directory on the way to it.
IN_THE_WAY = "in-the-way"
# It would lie on another file system than the directory that it was received into.
OTHER_FILE_SYSTEM = "other-file-system"
# It is larger than what is allowed, or becomes so when it is decoded.
TOO_LARGE = "too-large"
# There are as many files as there may be, or as many objects as can be known.
TOO_MANY = "too-many"
# What is said of its blocks contradicts itself, or passes all bounds.
BAD_DESCRIPTION = "bad-description"
# It is encoded in a way that is not known, or not as it says.
BAD_ENCODING = "bad-encoding"
# Its bytes are not those that its description has the digest of.
WRONG_DIGEST = "wrong-digest"
REASONS = (
    BAD_DESCRIPTION,
    BAD_ENCODING,
    IN_THE_WAY,
    OTHER_FILE_SYSTEM,
    TOO_LARGE,
    TOO_MANY,
    UNSAFE_NAME,
    WRONG_DIGEST,
)


class RefusedError(McastdError):
    """An object is not taken; ``reason`` is one of ``REASONS``."""

    def __init__(self, name: str, cause: str, way_out: str = "", *, reason: str) -> None:
        super().__init__(f"refuses {name}", cause, way_out)
        self.reason = reason
