"""Captures as tshark and capinfos read them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.programs import program

# A flag is 0 or 1 up to tshark 4.2, and a word from then on.
FLAGS = {"False": "0", "True": "1"}


def packets(path: Path, *fields: str, options: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """These fields of each packet, as tshark shows them; "" for one that a packet lacks."""
    command = [program("tshark"), "-n", *options, "-r", str(path), "-T", "json"]
    for field in fields:
        command += ["-e", field]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    shown = [packet["_source"]["layers"] for packet in json.loads(ran.stdout)]
    return [tuple(",".join(_told(packet.get(field, ()))) for field in fields) for packet in shown]


def _told(values: Iterable[str]) -> Iterator[str]:
    return (FLAGS.get(value, value) for value in values)


def about(path: Path) -> str:
    """What capinfos says of a capture. Raises CalledProcessError if it is damaged."""
    command = [program("capinfos"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
