"""Debian roots to build packages and to run system tests in: made once, kept as zstd tars.

A tar's name holds a hash of what it was asked to contain, so a changed list makes a new one. They lie in
``$MCASTD_ROOTS``, or /var/cache/mcastd-roots. Needs real root, mmdebstrap, zstd, and the mirror that the
machine's own apt uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import programs

CACHE = Path(os.environ.get("MCASTD_ROOTS", "/var/cache/mcastd-roots"))
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PROJECT = Path(__file__).parent.parent


class Impossible(Exception):
    """This machine cannot do it, and why."""


@dataclass(frozen=True)
class Root:
    name: str
    suite: str
    packages: tuple[str, ...]

    @property
    def tar(self) -> Path:
        wanted = "\n".join([self.suite, *sorted(self.packages)])
        return CACHE / f"{self.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}.tar.zst"


def _as_debian(requirement: str) -> str:
    """``pydantic>=2.10`` as ``python3-pydantic``."""
    name = re.match(r"[\w-]+", requirement)
    assert name
    return f"python3-{name[0].removeprefix('python-')}"


PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LIBRARIES = tuple(map(_as_debian, PYPROJECT["project"]["dependencies"]))
# What a user may want beside these; the library for Kafka is large, and for few.
OPTIONAL = tuple(
    library
    for extra, libraries in PYPROJECT["project"]["optional-dependencies"].items()
    if extra not in {"dev", "kafka"}
    for library in libraries
)
# What our package recommends: all of that which Debian has.
RECOMMENDED = tuple(_as_debian(library) for library in OPTIONAL if not library.startswith("raptorq"))

# A host as a user has it, with what our package depends on: `apt install ./mcastd_*.deb` takes no network.
HOST = ("systemd", "systemd-sysv", "dbus", "python3", "logrotate", "iproute2", "procps", "libpam-systemd")
BUILD = ("build-essential", "debhelper", "dh-python", "python3-pip", "lintian", "mandoc", "systemd")

ROOTS = {
    root.name: root
    for root in (
        Root(
            "trixie",
            "trixie",
            (*HOST, *LIBRARIES, *RECOMMENDED, "adduser", "bash-completion", "fish", "zsh", "rpm"),
        ),
        Root("bookworm", "bookworm", (*HOST, "adduser")),
        Root(
            "trixie-build",
            "trixie",
            (
                *BUILD,
                *LIBRARIES,
                "pybuild-plugin-pyproject",
                "python3-all",
                "python3-setuptools",
                "python3-wheel",
                "rpm",
            ),
        ),
        Root("bookworm-build", "bookworm", (*BUILD, "python3-venv")),
    )
}


def require_tools() -> None:
    """Raises Impossible if this user, on this machine, cannot make a root."""
    if os.geteuid() != 0:
        raise Impossible("making roots needs real root")
    for program in programs.FOR_PACKAGES:
        if not programs.find(program):
            raise Impossible(programs.needs(program))


def require_containers() -> None:
    """Raises Impossible if no system can be booted on this machine."""
    if not programs.find("systemd-nspawn"):
        raise Impossible(programs.needs("systemd-nspawn"))
    probe = cgroup_root() / f"mcastd-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise Impossible(f"needs a cgroup for a system that boots: {error}") from error


def cgroup_root() -> Path:
    """Where version 2 of cgroups is mounted."""
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.is_dir() else Path("/sys/fs/cgroup")


def make(names: Sequence[str]) -> None:
    """Make the roots that are not there yet, all at once. Raises Impossible."""
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: make_root(ROOTS[name]), names))


def make_root(root: Root) -> None:
    """Make it if it is not there yet. Raises Impossible."""
    require_tools()
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Impossible(f"cannot make {CACHE}: {error}") from error
    with _locked(CACHE / f"{root.name}.lock"):  # one maker at a time, whoever else runs
        if root.tar.exists():
            return
        # A mirror that is a snapshot has lists of some time ago.
        sources = f"deb [signed-by={KEYRING} check-valid-until=no] {mirror()} {root.suite} main"
        unfinished = CACHE / f".{root.name}.tar.zst"
        count = len(root.packages)
        print(
            f"making {root.tar}: Debian {root.suite} and {count} packages (a minute, once)",
            flush=True,
        )
        command = [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io",
            f"--include={','.join(root.packages)}", root.suite, str(unfinished), sources,
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise Impossible(f"mmdebstrap of {root.name} failed:\n{result.stderr[-2000:]}")
        unfinished.rename(root.tar)
        for old in CACHE.glob(f"{root.name}-????????????.tar.zst"):
            if old != root.tar:
                old.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mirror() -> str:
    """The Debian mirror of this machine's apt sources, in either of sources.list(5)'s formats."""
    if wanted := os.environ.get("MCASTD_MIRROR"):
        return wanted
    for path in sorted(Path("/etc/apt").glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            uri = (fields.get("URIs", "").split() or [""])[0]
            if _is_debian(uri):
                return uri
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt").glob("sources.list.d/*.list"))):
        if path.exists():
            for line in re.findall(r"^deb\s+(?:\[.*?\]\s+)?(\S+)", path.read_text(), re.MULTILINE):
                if _is_debian(line):
                    return str(line)
    raise Impossible("no Debian mirror in /etc/apt; set MCASTD_MIRROR")


def _is_debian(uri: str) -> bool:
    return bool(re.fullmatch(r"\w+:.*/debian/?", uri))


def unpack(name: str, directory: Path) -> None:
    """Lay out a root that was made before."""
    unpack_root(ROOTS[name], directory)


def unpack_root(root: Root, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    command = ["tar", "--zstd", "--numeric-owner", "--xattrs", "-xf", str(root.tar)]
    subprocess.run([*command, "-C", str(directory)], check=True)


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """A root in a directory of its own, for as long as the block lasts."""
    make([name])
    with tempfile.TemporaryDirectory(prefix=f"mcastd-{name}-", ignore_cleanup_errors=True) as directory:
        unpack(name, Path(directory))
        yield Path(directory)


def run_in(root: Path, script: str) -> None:
    """Run a shell script in a root, without network. Raises CalledProcessError after it said why."""
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    shell = [f"--root={root}", "--wd=/", "bash", "-euc", script]
    subprocess.run([*command, *shell], env=environment, stdin=subprocess.DEVNULL, check=True)
