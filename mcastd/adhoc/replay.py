"""``mcastctl replay``: what the command line means. It is sent as ``mcastctl send`` sends."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mcastd.adhoc import Refused
from mcastd.adhoc.send import Plan
from mcastd.adhoc.settings import configure, endpoint


def plan(file: str, group: str, *, select: str | None, keys: Mapping[str, object]) -> Plan:
    """The channel of a recording; ``keys`` are others of it, None where nothing is said. Raises Refused."""
    paces = [f"--{key}" for key in ("rate", "interval", "speed") if keys.get(key) is not None]
    if len(paces) > 1:
        raise Refused(f"{paces[1]} contradicts {paces[0]}; keep one of the two")
    address, port = endpoint(group)
    settings = {"source": os.path.abspath(file), "group": address, "port": port, "framing": "capture", **keys}
    if keys.get("rate") is None and keys.get("interval") is None:
        settings["timing"] = "capture"
    if select is not None:
        wanted, wanted_port = endpoint(select, "--select")
        settings["select"] = {"group": wanted, "port": wanted_port}
    return Plan(configure("outbound", "replay", settings))
