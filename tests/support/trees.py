"""Trees of files that are sent and received whole, and what loses datagrams on their way."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcastd import log
from mcastd.config import DirectoryOutput
from mcastd.delivery.block import by_symbols
from mcastd.delivery.names import PARTIAL_DIRECTORY
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.directory import DirectorySink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.protocols import raptorq
from support.programs import program


def grow_tree(root: Path, sizes: Mapping[str, int]) -> Path:
    """Make files below ``root``, by name with how many bytes each has. Returns ``root``."""
    chance = random.Random(14)
    for name, size in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    return root


def files_below(root: Path) -> dict[str, bytes]:
    """What is in the files below a directory, but for those on their way."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and PARTIAL_DIRECTORY not in path.relative_to(root).parts
    }


def lose(enter_host: Sequence[str], what: str, port: int = 9190) -> None:
    """Have a host lose those of the datagrams to a port that match ``what``, which is in the words of nft(8).

    ``enter_host`` is the command that enters it.
    """
    chain = f"chain input {{ type filter hook input priority 0; udp dport {port} {what} drop; }}"
    rules = f"flush ruleset\ntable inet loss {{ {chain}; }}\n"
    command = [*enter_host, program("nft"), "-f", "-"]
    subprocess.run(command, input=rules, check=True, text=True, capture_output=True)


def directory_sink(path: Path, **settings: Any) -> DirectorySink:
    """A sink that receives into a directory, open, which repairs in the test's own process."""
    output = DirectoryOutput(path=path, **settings)
    account = Account(output, log.get_logger())
    raw = FORMATS["raw"](StreamFacts(lambda: "239.255.1.2", str))
    sink = DirectorySink(output, raw, account, decode=by_symbols(raptorq.decode))
    sink.open()
    return sink
