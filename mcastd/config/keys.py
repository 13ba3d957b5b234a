"""Keys in the configuration: where their files are, or, of those that everybody may have, what they are.

See types.py for what all parsers have in common. No refusal repeats what may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from mcastd.config.words import show
from mcastd.keytext import GroupKey, NotAKeyError, SigningKey, VerifyingKey, kind_of

# Of one setting: the key in use, and those that it takes the place of.
KEYS_MAX = 16
PLACE = "the absolute path of a key file, or the name of a systemd credential"
VERIFYING = f'a verifying key like "{VerifyingKey.prefix}...", {PLACE}'

# What the manual has the names of files with signing keys end in.
SIGNING_SUFFIX = ".sign"
# What the name of a credential ends in that is a token.
TOKEN_CREDENTIAL = ".token"
TOKEN_PLACE = f'the absolute path of a file, or a systemd credential whose name ends in "{TOKEN_CREDENTIAL}"'

# A file's name that is no path, and no word that is a key: systemd.exec(5), LoadCredential=.
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
# What is written like a key, maybe with a mistake; what begins as a path is one, unless it is a whole key.
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9+][A-Za-z0-9+/]{39,63}=*|[A-Za-z0-9+/]{43}=")


def looks_secret(word: str) -> bool:
    """Return True if a word is a secret key itself, maybe with a mistake, and not the place of one."""
    return kind_of(word) is SigningKey or _LIKE_A_KEY.fullmatch(word) is not None


def parse_secret_place(value: object) -> str:
    """Where a secret key is: ``key``, ``sign_key``."""
    place = _place(value, PLACE)
    if place.endswith(".pub"):
        raise ValueError(f"{show(place)} is the public half of a pair; name the file without .pub")
    return place


def parse_token_place(value: object) -> str:
    """Where a token is: ``token``. What may be the token itself is not repeated."""
    if not isinstance(value, str) or not (value.startswith("/") or value.endswith(TOKEN_CREDENTIAL)):
        raise ValueError(f"must be {TOKEN_PLACE}, not the token itself, for all who read this")
    return _place(value, TOKEN_PLACE)


def parse_secret_places(value: object) -> tuple[str, ...]:
    """Where several keys are: ``keys``."""
    return _several(value, parse_secret_place, PLACE)


def parse_verifying_keys(value: object) -> tuple[str, ...]:
    """Keys that verify, each as it is or where it is: ``verify_keys``."""
    return _several(value, _verifying_key, VERIFYING)


def _verifying_key(value: object) -> str:
    if not isinstance(value, str) or kind_of(value) is not VerifyingKey:
        return _place(value, VERIFYING)
    try:
        return VerifyingKey.parse(value).text
    except NotAKeyError as error:
        raise ValueError(f"{show(value)}: {error}") from None


def _place(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be {expected}, not {show(value)}")  # noqa: TRY004 - as all parsers
    kind = kind_of(value)
    if kind is VerifyingKey:
        raise ValueError(f'{show(value)} is a verifying key, which goes into "verify_keys"')
    if looks_secret(value):
        noun, sign = (SigningKey.noun, "--sign ") if kind is SigningKey else (GroupKey.noun, "")
        raise ValueError(
            f"is {noun} itself: who may read the configuration would have it; put it into a file of its own,"
            f" and name that (mcastd keygen {sign}makes one)"
        )
    if "/" not in value:
        if not _CREDENTIAL.fullmatch(value):
            raise ValueError(f"must be {expected}, not {show(value)}")
    elif not value.startswith("/") or "\0" in value or os.path.basename(value) in {"", ".", ".."}:
        raise ValueError(f"must be {expected}, not {show(value)}")
    return value


def _several(value: object, parse: Callable[[object], str], expected: str) -> tuple[str, ...]:
    """One value, or an array of some."""
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"must be {expected}, or an array of these, not {show(value)}")  # noqa: TRY004
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(values) <= KEYS_MAX:
        raise ValueError(f"must have from 1 to {KEYS_MAX} keys, not {len(values)}")
    parsed = tuple(map(parse, values))
    if twice := next((one for one in parsed if parsed.count(one) > 1), None):
        raise ValueError(f"{show(twice)} is there twice")
    return parsed
