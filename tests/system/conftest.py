"""Machines to install packages on. `make system-packages` made the packages and roots: pytest has no network.

Each flavour is a distribution with the kind of package that it is for. It is installed once a run, and each
test boots a copy.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import build
import pytest
import roots
from support.machine import Machine, running


@dataclass(frozen=True)
class Flavour:
    root: str
    kind: str  # as `make KIND` builds it
    pattern: str

    @property
    def package(self) -> Path:
        (package,) = (build.DIST / self.kind).glob(self.pattern)
        return package

    def install(self, machine: Machine, package: str) -> None:
        """As an administrator does it: one step with apt, two with rpm, which starts nothing by itself."""
        if package.endswith(".rpm"):
            machine.run("rpm", "-U", "--nodeps", "--oldpackage", package)
            machine.run("systemctl", "enable", "--now", "mcastd")
        else:
            machine.run("apt-get", "install", "-y", "--allow-downgrades", package, input="")  # nobody answers


FLAVOURS = {
    "trixie-deb": Flavour("trixie", "deb", "*.deb"),
    "bookworm-bundled": Flavour("bookworm", "deb-bundled", "*deb12*.deb"),
    "trixie-rpm": Flavour("trixie", "rpm", "*.rpm"),
}


def obstacle() -> str:
    """Why no system can be booted here; empty if it can."""
    if os.geteuid() != 0 or os.environ.get("MCASTD_TEST_NAMESPACE") == "user":
        return "needs real root"
    try:
        roots.require_tools()
        roots.require_containers()
    except roots.Impossible as error:
        return str(error)
    if build.IMPOSSIBLE.exists():
        return build.IMPOSSIBLE.read_text()
    wanted = build.digest()
    if not all(build.is_built(kind, wanted) for kind in build.BUILDERS):
        return "packages are missing or older than the sources: make system-packages"
    if not all(roots.ROOTS[flavour.root].tar.exists() for flavour in FLAVOURS.values()):
        return "roots are missing: make system-packages"
    return ""


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    if reason := obstacle():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def space(possible: None) -> Iterator[Path]:
    """A directory for all processes of this test run; the last one removes it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    directory = Path(f"/var/tmp/mcastd-system-{run}")
    directory.mkdir(exist_ok=True)
    with (directory / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield directory
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # Several times as fast as shutil.rmtree(), for root directories of Debian
        subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_layer(space: Path, flavour: Flavour) -> Path:
    """The distribution without mcastd."""
    layer = space / flavour.root
    with _locked(layer):
        if not layer.exists():
            unpacking = layer.with_suffix(".part")
            roots.unpack(flavour.root, unpacking)
            unpacking.rename(layer)
    return layer


def layers(space: Path, name: str) -> list[Path]:
    """The distribution with mcastd installed, for an overlay."""
    flavour = FLAVOURS[name]
    base = base_layer(space, flavour)
    installed = space / f"{name}-installed"
    with _locked(installed):
        if not installed.exists():
            upper = installed.with_suffix(".part")
            with running(space, [base], flavour.package.parent, upper) as machine:
                flavour.install(machine, f"/mnt/{flavour.package.name}")
                machine.shell("rm -rf /var/log/journal /var/log/mcastd/*")  # each test has its own
            upper.rename(installed)
    return [installed, base]


@pytest.fixture
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return FLAVOURS[getattr(request, "param", "trixie-deb")]


@pytest.fixture
def bare(space: Path, flavour: Flavour) -> Iterator[Machine]:
    """A machine without mcastd; its package is in /mnt."""
    with running(space, [base_layer(space, flavour)], flavour.package.parent) as machine:
        yield machine


Boot = Callable[[str], Machine]


@pytest.fixture
def boot(space: Path, flavour: Flavour, tmp_path: Path) -> Iterator[Boot]:
    """Boot a machine on which mcastd is installed, with this configuration, or as it comes."""
    name = next(name for name, known in FLAVOURS.items() if known is flavour)
    with ExitStack() as stack:

        def boot(config: str = "") -> Machine:
            lower = layers(space, name)
            if config:
                (tmp_path / "top" / "etc").mkdir(parents=True)
                (tmp_path / "top" / "etc" / "mcastd.toml").write_text(config)
                lower.insert(0, tmp_path / "top")
            machine = stack.enter_context(running(space, lower, flavour.package.parent))
            machine.wait_active()
            return machine

        yield boot


@pytest.fixture
def machine(boot: Boot) -> Machine:
    """A machine that has booted with mcastd as it comes."""
    return boot("")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `everywhere` run on each flavour."""
    if metafunc.definition.get_closest_marker("everywhere") and "flavour" in metafunc.fixturenames:
        metafunc.parametrize("flavour", list(FLAVOURS), indirect=True)
