"""Keys, and how they are written: one line of text each, which says what it is.

```
  GroupKey        bDaIHJAaRAlCPy...=              who has it reads what is sealed
  SigningKey      ed25519-secret:34Fppofj37...=   the sender alone has it
  VerifyingKey    ed25519:ghS+1s8aMW...=          everybody may have it
```

All are 32 bytes, in base64 (RFC 4648 section 4). The words before the colon keep one kind from being used as
another: a signing key that passed for a group key would be copied to every receiver.

An AccessToken is a word that people choose, and lies in a file as keys do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

KEY_BYTES = 32
KEY_ID_BYTES = 8

# Points of small order on the curve of Ed25519, by their y. Under such a key everybody can make signatures
# (Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", 2020). Some can be written in two ways, one of
# them with the prime added; the highest bit is the sign of x.
_PRIME = 2**255 - 19
_SIGN = 1 << 255
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _ORDER_8, _PRIME - _ORDER_8, _PRIME - 1, _PRIME, _PRIME + 1}


# Unreserved characters of RFC 3986 section 2.3; and no fewer than anybody could try.
_TOKEN = re.compile(rb"[A-Za-z0-9._~-]{16,128}")


class NotAKeyError(ValueError):
    """A text is not the key that it is to be. The message never repeats the text, which may be a secret.

    ``reason`` is "empty", "several-lines", "other-kind", "malformed" or "weak".
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, repr=False)
class WrittenKey:
    """What keys of all kinds have in common; two of one kind are equal if their bytes are."""

    value: bytes

    noun: ClassVar[str]
    prefix: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.value) != KEY_BYTES:
            raise NotAKeyError("malformed", f"{self.noun} has {KEY_BYTES} bytes, not {len(self.value)}")
        if len(set(self.value)) == 1:
            raise NotAKeyError("weak", f"{self.noun} is random, and this has the same byte {KEY_BYTES} times")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that a line says; spaces around it do not count. Raises NotAKeyError."""
        line = cls._word_of(text)
        kind = kind_of(line)
        if kind is not cls:
            raise NotAKeyError("other-kind", f"this is {kind.noun}, not {cls.noun}")
        digits = line.removeprefix(cls.prefix)
        try:
            value = base64.b64decode(digits, validate=True)
        except (binascii.Error, ValueError):  # ValueError: it has characters that are not ASCII
            value = b""
        # One key has one text: the bits of the last digit that mean nothing are 0.
        if len(value) != KEY_BYTES or base64.b64encode(value).decode() != digits:
            form = f'"{cls.prefix}" and then ' if cls.prefix else ""
            raise NotAKeyError("malformed", f"{cls.noun} is {form}{KEY_BYTES} bytes in base64, 44 characters")
        return cls(value)

    @classmethod
    def _word_of(cls, text: str) -> str:
        line = text.strip()
        if not line:
            raise NotAKeyError("empty", f"there is nothing where {cls.noun} is to be")
        if len(line.split()) > 1:
            raise NotAKeyError("several-lines", f"{cls.noun} is one word on one line")
        return line

    def __repr__(self) -> str:
        """Without the key, so that no log or traceback has it."""
        return f"<{type(self).__name__} {self.id.hex()}>"

    @property
    def text(self) -> str:
        """The line, without its end."""
        return self.prefix + base64.b64encode(self.value).decode()

    @cached_property
    def id(self) -> bytes:
        """8 bytes that tell one key from another, and nothing of the key itself."""
        domain = f"mcastd key id v1 {type(self).__name__}\0".encode()
        return hashlib.sha256(domain + self.value).digest()[:KEY_ID_BYTES]


class GroupKey(WrittenKey):
    """The secret that a group shares: what is sealed by it, its members read, and nobody else."""

    noun = "a group key"
    prefix = ""


class SigningKey(WrittenKey):
    """The secret half of a signing pair: what an Ed25519 pair is made from (RFC 8032 section 5.1.5)."""

    noun = "a signing key"
    prefix = "ed25519-secret:"


class VerifyingKey(WrittenKey):
    """The public half of a signing pair (RFC 8032 section 5.1.5)."""

    noun = "a verifying key"
    prefix = "ed25519:"

    def __post_init__(self) -> None:
        super().__post_init__()
        number = int.from_bytes(self.value, "little") & ~_SIGN
        if number in _SMALL_ORDER:
            raise NotAKeyError("weak", "this verifying key takes signatures that anybody can make")


class AccessToken(WrittenKey):
    """What a client has to know that is to be served: a word of characters that URLs have as they are."""

    noun = "a token"
    prefix = ""

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.value):
            raise NotAKeyError(
                "malformed", f'{self.noun} is from 16 to 128 letters, digits, and "-", ".", "_" or "~"'
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token of a file. Raises NotAKeyError."""
        return cls(cls._word_of(text).encode())

    @property
    def text(self) -> str:
        return self.value.decode()


def kind_of(line: str) -> type[WrittenKey]:
    """The kind of key that a line says it is; without a prefix, that is a group key."""
    tagged: tuple[type[WrittenKey], ...] = (SigningKey, VerifyingKey)
    return next((kind for kind in tagged if line.startswith(kind.prefix)), GroupKey)
