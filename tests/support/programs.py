"""Programs of the system that tests run."""

from __future__ import annotations

import os
import shutil


def program(name: str, package: str) -> str:
    """The path of a program, also one for administrators; fails with the Debian ``package`` that has it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert path, f"{name} is missing: apt-get install {package}"
    return path
