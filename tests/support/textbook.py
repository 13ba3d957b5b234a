"""The textbook's programs, compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.programs import program

SOURCES = Path(__file__).parent.parent / "daemon" / "textbook"


def compile_textbook(name: str, directory: Path) -> str:
    """Compile ``news_sender`` or ``news_receiver`` into ``directory``; the path of the program."""
    compiled = directory / name
    assert program("/usr/include/stdio.h")
    command = ["gcc", "-Wall", "-Werror", "-O1", "-DDELAY=2000", "-o", compiled, SOURCES / f"{name}.c"]
    subprocess.run(command, check=True)
    return str(compiled)
