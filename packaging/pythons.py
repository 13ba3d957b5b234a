"""Run a part of the tests on each supported Python: ``make pythons``, or ``pythons.py [PROMISED ...]``.

pyproject.toml has the supported Pythons among its classifiers, and lower bounds of the libraries: they are
what the oldest Python is tested with, the others have the newest. A Python is looked for in PATH and among
pyenv's; root can also take it from a Debian that has it, in a root directory (roots.py). One that cannot be
had is named and left out, which is a failure if it was promised.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import roots
from roots import PROJECT, PYPROJECT, Impossible, Root

# What may depend on the version of Python or of a library, in a minute: parsers, formats, workers, a life.
PART = (
    "tests/config",
    "tests/console",
    "tests/control/test_control_protocol.py",
    "tests/control/test_ctl.py",
    "tests/inbound",
    "tests/metrics",
    "tests/outbound",
    "tests/supervisor",
    "tests/delivery/test_keys.py",
    "tests/protocols/test_fdt.py",
    "tests/protocols/test_manifest.py",
    "tests/protocols/test_seal.py",
    "tests/daemon/test_life.py::test_stop_worker_and_start_worker",
    "tests/daemon/test_life.py::test_a_worker_starts_by_itself_when_the_cause_goes_away",
    "tests/daemon/test_life.py::test_a_bad_reload_changes_nothing_and_tells_the_caller",
    "tests/net/test_batch.py",
    "tests/net/test_burst.py",
    "tests/test_journal.py",
    "tests/test_keytext.py",
    "tests/test_threads.py",
    "--ignore=tests/console/test_top.py",
)
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses=3", "--dist=worksteal", *PART)

_PROJECT = PYPROJECT["project"]
SUPPORTED = re.findall(r"Python :: (3\.\d+)$", "\n".join(_PROJECT["classifiers"]), re.MULTILINE)
LIBRARIES = [*_PROJECT["dependencies"], *roots.OPTIONAL]
# Not the linters, which see the same everywhere, nor again what is a library, nor what most have no wheel of.
TOOLS = [
    tool
    for tool in _PROJECT["optional-dependencies"]["dev"]
    if tool not in LIBRARIES and not re.match("mypy|ruff|flute-alc|nkeys", tool)
]

# The Debian that has a Python; and what this part of the tests uses beside it.
SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
PROGRAMS = ("iproute2", "procps")

# Goes into a root directory, in which the project, /tmp and the devices are where they are outside.
ENTER = """
root=$1; shift
mount --rbind "$root" "$root" # a mount point, as the root of a mount namespace has to be
for path in /dev /tmp "$PWD"; do mkdir -p "$root$path"; mount --rbind "$path" "$root$path"; done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
exec chroot "$root" env --chdir="$PWD" PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


class Failed(Exception):
    """A command did, after it said why."""


@dataclass(frozen=True)
class Python:
    version: str
    path: str
    root: Path | None = None  # the root directory that it is in

    def run(self, program: str, *arguments: str) -> None:
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euc", ENTER, "enter"]
        run(*([*enter, str(self.root)] if self.root else []), program, *arguments)

    def prepare(self, directory: Path) -> None:
        """Make a virtual environment of the libraries, the tests' tools, and the project as it lies there."""
        self.run(self.path, "-m", "venv", "--without-pip", str(directory))
        packages = directory / "lib" / f"python{self.version}" / "site-packages"
        oldest = self.version == SUPPORTED[0]
        libraries = [library.replace(">=", "==") for library in LIBRARIES] if oldest else LIBRARIES
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        where = [f"--target={packages}", f"--python-version={self.version}", "--only-binary=:all:"]
        run(*pip, *where, *libraries, *TOOLS)
        (packages / "project.pth").write_text(f"{PROJECT}\n")

    def test(self, directory: Path) -> None:
        began = time.monotonic()
        libraries = "the oldest" if self.version == SUPPORTED[0] else "the newest"
        print(f"Python {self.version} of {self.root or self.path}, with {libraries} libraries", flush=True)
        self.run(str(directory / "bin" / "python"), *PYTEST)
        print(f"Python {self.version}: passed in {time.monotonic() - began:.0f} s", flush=True)


def run(*command: str) -> None:
    if subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, check=False).returncode:
        raise Failed(" ".join(command))


def find(version: str, space: Path) -> Python:
    """Raises Impossible."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
    for path in map(str, filter(None, candidates)):
        # A pyenv's shim is there for versions that are not in use, and fails.
        if subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return Python(version, path)
    if version not in SUITES:
        raise Impossible("neither in PATH nor among pyenv's")
    root = Root(f"python{version}", SUITES[version], (f"python{version}", f"python{version}-venv", *PROGRAMS))
    roots.make_root(root)
    roots.unpack_root(root, space / root.name)
    return Python(version, f"/usr/bin/python{version}", space / root.name)


def get(version: str, space: Path) -> Python | str:
    """A Python that is ready to test, or why there is none."""
    try:
        python = find(version, space)
    except Impossible as error:
        return str(error)
    python.prepare(space / version)
    return python


def main(promised: Sequence[str]) -> None:
    if unknown := set(promised) - set(SUPPORTED):
        sys.exit(f"pythons.py: not supported: {', '.join(sorted(unknown))}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="mcastd-pythons-") as directory, ThreadPoolExecutor() as pool:
        space = Path(directory)
        for version, ready in {v: pool.submit(get, v, space) for v in SUPPORTED}.items():
            try:
                python = ready.result()
                if isinstance(python, Python):
                    python.test(space / version)
                    continue
                print(f"Python {version} is left out: {python}", flush=True)
                if version in promised:
                    failed.append(version)
            except Failed as error:
                print(f"Python {version} failed: {error}", flush=True)
                failed.append(version)
    if failed:
        sys.exit(f"pythons.py: failed: {', '.join(failed)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="PROMISED", help="as 3.14: it has to be there")
    try:
        main(parser.parse_args().versions)
    except KeyboardInterrupt:
        sys.exit(130)
