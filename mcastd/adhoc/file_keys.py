"""Keys of ``mcastctl send --flute`` and ``listen --flute``: from options to settings of a protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mcastd.adhoc import Refused
from mcastd.config.keys import looks_secret
from mcastd.keytext import VerifyingKey, kind_of

# The name of the channel that both ends expect in a manifest, if the command line has none.
DEFAULT_CHANNEL = "mcastctl"


def of_sender(sign_key: str | None, key: str | None, channel: str | None) -> dict[str, object]:
    """Settings of a channel's protocol; none without keys. Raises Refused."""
    keys = {
        "sign_key": None if sign_key is None else _place("--sign-key", sign_key),
        "key": None if key is None else _place("--key", key),
    }
    return _with_channel(keys, channel, "--sign-key or --key")


def of_receiver(verify_keys: Sequence[str], keys: Sequence[str], channel: str | None) -> dict[str, object]:
    """Settings of a subscription's protocol; none without keys. Raises Refused.

    ``verify_keys`` are such keys, or paths of their files.
    """
    verifying = [
        told if kind_of(told) is VerifyingKey else _place("--verify-key", told) for told in verify_keys
    ]
    sealing = [_place("--key", told) for told in keys]
    return _with_channel({"verify_keys": verifying, "keys": sealing}, channel, "--verify-key or --key")


def keep_serials() -> None:
    """Have the serials of manifests kept with the state of the user's programs, not with the daemon's.

    That is in ``$XDG_STATE_HOME``, or ``~/.local/state`` (XDG Base Directory Specification).
    """
    home = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    if home.is_absolute():
        os.environ["STATE_DIRECTORY"] = str(home / "mcastd")


def _with_channel(keys: Mapping[str, object], channel: str | None, options: str) -> dict[str, object]:
    """The keys that are given, and the channel. Raises Refused if there is none of them, but a channel."""
    given = {name: value for name, value in keys.items() if value}
    if given:
        return {**given, "channel": DEFAULT_CHANNEL if channel is None else channel}
    if channel is not None:
        raise Refused(f"--channel is the name in a manifest, and there is none without {options}")
    return {}


def _place(option: str, told: str) -> str:
    """The absolute path of a key's file. Raises Refused for what is a key itself."""
    if kind_of(told) is VerifyingKey:
        raise Refused(f"{option} is a verifying key, which is for --verify-key")
    if looks_secret(told):
        raise Refused(
            f"{option} is a key itself, which others see in the list of processes; put it into a file,"
            " and name that (mcastd keygen makes one)"
        )
    return os.path.abspath(told)
