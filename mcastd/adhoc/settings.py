"""From the command line to the daemon's own configuration model, and its refusals back to options."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from pydantic import ValidationError

from mcastd.adhoc import Refused
from mcastd.config import Config
from mcastd.config.explain import explain
from mcastd.config.numbers import parse_period

# The ports that no service has: RFC 6335 section 6.
EPHEMERAL_PORTS = 49_152, 65_536

OPTIONS = {  # by key of the configuration
    "group": "GROUP",
    "port": "PORT",
    "interface": "--interface",
    "sources": "--source",
    "source": "FILE",
    "ttl": "--ttl",
    "rate": "--rate",
    "interval": "--interval",
    "max_datagram": "--chunk",
    "repeat": "--count",
    "dscp": "--dscp",
    "protect": "--protect",
    "interleave": "--interleave",
    "sign_key": "--sign-key",
    "key": "--key",
    "verify_keys": "--verify-key",
    "keys": "--key",
    "channel": "--channel",
    "select": "--select",
    "protocol": "--flute",
    "speed": "--speed",
    "path": "--flute",  # of an output
    "groups": "--group",
    "relay": "--amt",
}


def duration(option: str, text: str) -> float:
    """Seconds. Raises Refused."""
    try:
        return parse_period(text)
    except ValueError as error:
        raise Refused(f"{option} {error}") from None


def endpoint(text: str, argument: str = "GROUP:PORT") -> tuple[str, int]:
    """Group and port of ``239.1.1.2:9190`` or ``[ff15::1]:9190``, the group not looked at. Raises Refused."""
    found = re.fullmatch(r"(?:\[([^][]*)\]|([^][:]*)):([0-9]{1,9})", text)
    if not found:
        example = f"[{text.rpartition(':')[0]}]:9190" if text.count(":") > 1 else "239.255.1.2:9190"
        raise Refused(f'{argument} must be a group and a port like "{example}", not "{text}"')
    return found[1] or found[2] or "", int(found[3])


def by_tunnel(relay: str | None) -> Mapping[str, object] | None:
    """``via`` of a subscription that comes from this AMT relay; None: there is none.

    The port is none that a daemon on this host is likely to have.
    """
    if relay is None:
        return None
    return {"kind": "amt", "relay": relay, "local_port": random.randrange(*EPHEMERAL_PORTS)}


def configure(section: str, name: str, settings: Mapping[str, object]) -> Config:
    """A configuration of one worker, each setting as TOML would give it; what is None is left out.

    Raises Refused in the model's words. Options that contradict one another are for the caller to refuse: the
    model would name keys of the configuration.
    """
    present = {key: value for key, value in settings.items() if value is not None}
    data = {section: {name: present}}
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        reasons = []
        for complaint in explain(error, data):
            key = next(part for part in reversed(complaint.location) if isinstance(part, str))
            reasons.append(f"{OPTIONS.get(key, key)} {complaint.reason}")
        raise Refused("\n".join(reasons)) from None


def configure_sender(settings: Mapping[str, object]) -> Config:
    """The configuration of one channel, "send". Raises Refused, also if nothing would ever go."""
    config = configure("outbound", "send", settings)
    if config.outbound["send"].rate == 0:  # a channel of the daemon is paused by that
        raise Refused('--rate 0 sends nothing; give one like "10Mbit"')
    return config


def number_or_word(text: str | None) -> int | str | None:
    """A whole number as TOML would give it; else the text, for the model to judge."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else text
