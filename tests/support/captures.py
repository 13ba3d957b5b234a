"""Captures as tshark and capinfos read them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support.programs import program


def packets(path: Path, *fields: str, options: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """These fields of each packet, as tshark shows them; "" for one that a packet lacks."""
    command = [program("tshark"), "-n", *options, "-r", str(path), "-T", "json"]
    for field in fields:
        command += ["-e", field]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    shown = [packet["_source"]["layers"] for packet in json.loads(ran.stdout)]
    return [tuple(",".join(packet.get(field, ())) for field in fields) for packet in shown]


def about(path: Path) -> str:
    """What capinfos says of a capture. Raises CalledProcessError if it is damaged."""
    command = [program("capinfos"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
