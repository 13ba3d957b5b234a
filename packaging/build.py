"""Build the packages, each in a clean root of its own, into dist/: ``build.py [deb] [deb-raptorq] ...``.

The version is that of mcastd/__init__.py, and each package's changelog is CHANGELOG.md. What is built already
from the same files is not built again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import formatdate
from pathlib import Path

import programs
import roots
from roots import PROJECT, Impossible

DIST = PROJECT / "dist"
IMPOSSIBLE = DIST / "no-system-tests"  # why, if the tests' packages could not be made
MAINTAINER = "{name} <{email}>".format(**roots.PYPROJECT["project"]["authors"][0])
HOMEPAGE: str = roots.PYPROJECT["project"]["urls"]["Homepage"]
BUNDLES = {"deb12": "3.11", "ubuntu24.04": "3.12"}  # the systems that need one, and their Python
ROOT_PYTHON = "3.13"  # of Debian 13
WHEEL_PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64")


def version() -> str:
    text = (PROJECT / "mcastd" / "__init__.py").read_text()
    match = re.search(r'__version__ = "(.+)"', text)
    assert match
    return match[1]


# -- the sources


def source_files() -> list[Path]:
    """What a package is made of, as paths from the project's top."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.splitlines()
    else:  # from a tarball
        tops = ("mcastd", "docs", "etc", "systemd", "packaging", "tests")
        names = [str(path.relative_to(PROJECT)) for top in tops for path in (PROJECT / top).rglob("*")]
        names += ["pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"]
    shipped = [name for name in names if not re.match(r"\.|tests/|.*__pycache__", name)]
    return [Path(name) for name in sorted(shipped) if (PROJECT / name).is_file()]


def digest() -> str:
    """A hash of all sources and of the roots that they are built in."""
    total = hashlib.sha256()
    for path in source_files():
        total.update(f"{path}\0{(PROJECT / path).stat().st_mode & 0o111}\0".encode())
        total.update(hashlib.sha256((PROJECT / path).read_bytes()).digest())
    total.update("\0".join(root.tar.name for root in roots.ROOTS.values()).encode())
    return total.hexdigest()


def copy_sources(destination: Path) -> None:
    for path in source_files():
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / path, target)
        target.chmod(0o755 if os.access(PROJECT / path, os.X_OK) else 0o644)  # whatever the umask was


def debian_changelog(full_version: str) -> str:
    """CHANGELOG.md in Debian's format. What is unreleased belongs to the version that is built."""
    text = (PROJECT / "CHANGELOG.md").read_text()
    releases: dict[str, tuple[int, list[str]]] = {full_version: (changed_at(), [])}
    for head, date, body in re.findall(
        r"^## \[([^\]]+)\](?: - (\S+))?\n((?:(?!## ).*\n?)*)", text, re.MULTILINE
    ):
        number = full_version if head in ("Unreleased", version()) else head
        _, items = releases.setdefault(number, (midnight(date) if date else 0, []))
        items += re.findall(r"^- (.+(?:\n  .+)*)", body, re.MULTILINE)
    stanzas = []
    for number, (when, items) in releases.items():
        wrapped = [
            textwrap.fill(" ".join(item.split()), 78, initial_indent="  * ", subsequent_indent="    ",
                          break_long_words=False, break_on_hyphens=False)
            for item in items
        ]  # fmt: skip
        lines = [f"mcastd ({number}) unstable; urgency=medium", "", *wrapped, ""]
        stanzas.append("\n".join([*lines, f" -- {MAINTAINER}  {formatdate(when, localtime=False)}", ""]))
    return "\n".join(stanzas)


def midnight(date: str) -> int:
    """Seconds since the epoch of a day, as 2026-11-25, in UTC."""
    return int(datetime.fromisoformat(f"{date}T00:00Z").timestamp())


def changed_at() -> int:
    """Seconds since the epoch: of the last commit, so that building again gives the same package."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return int(result.stdout) if result.returncode == 0 and result.stdout.strip() else int(time.time())


# -- the packages


def build_deb(destination: Path) -> None:
    """For Debian 13 and newer, on the distribution's own Python libraries; fails on any tag of lintian."""
    with roots.unpacked("trixie-build") as root:
        tree = root / "build" / "mcastd"
        copy_sources(tree)
        prepare_debian(tree, version())
        roots.run_in(
            root,
            "cd /build/mcastd && dpkg-buildpackage -us -uc >/build/log 2>&1 || { cat /build/log; exit 1; }",
        )
        require_no_tags(root)
        collect(root / "build", destination)


def build_raptorq(destination: Path) -> None:
    """The module of one wheel, known by its hash, for Debian 13 and newer; fails on any tag of lintian."""
    with roots.unpacked("trixie-build") as root:
        tree = root / "build" / "mcastd-raptorq"
        debian = tree / "debian"
        shutil.copytree(PROJECT / "packaging" / "deb-raptorq", debian)
        (debian / "control.in").rename(debian / "control")
        (debian / "source").mkdir()
        (debian / "source" / "format").write_text("3.0 (native)\n")
        for name in ("control", "changelog"):
            text = (debian / name).read_text()
            (debian / name).write_text(text.replace("@MAINTAINER@", MAINTAINER))
        wheel = ["--no-deps", f"--requirement={debian / 'requirements.txt'}", "--require-hashes"]
        download(tree / "wheels", ROOT_PYTHON, *wheel)
        roots.run_in(
            root,
            "cd /build/mcastd-raptorq && dpkg-buildpackage -b -us -uc >/build/log 2>&1"
            " || { cat /build/log; exit 1; }",
        )
        require_no_tags(root)
        collect(root / "build", destination)


def require_no_tags(root: Path) -> None:
    """Raises CalledProcessError if lintian finds fault with what was built in a root."""
    # Not --fail-on, which also counts what is overridden.
    roots.run_in(
        root,
        "cd /build && lintian -EvI --pedantic --allow-root *.changes >lintian.txt || true; "
        "! grep -E '^[A-Z]: ' lintian.txt | grep -v '^N: '",
    )


def build_bundled(destination: Path) -> None:
    """For systems that lack our Python libraries, or have older ones: each for one version of Python."""
    native = next(iter(BUNDLES.values()))
    with roots.unpacked("bookworm-build") as root:
        for system, python in BUNDLES.items():
            tree = root / "build" / system / "mcastd"
            copy_sources(tree)
            prepare_debian(tree, f"{version()}~{system}", bundled=True)
            download_wheels(tree / "wheels", {native, python})
            roots.run_in(
                root,
                f"export PYTHON_VERSION={python}; cd /build/{system}/mcastd && "
                "dpkg-buildpackage -b -us -uc >../log 2>&1 || { cat ../log; exit 1; }",
            )
            collect(tree.parent, destination)


def prepare_debian(tree: Path, full_version: str, *, bundled: bool = False) -> None:
    """Make the directory debian/ of a source package."""
    debian, other = tree / "debian", tree / "packaging" / "deb-bundled"
    shutil.copytree(tree / "packaging" / "debian", debian)
    (debian / "changelog").write_text(debian_changelog(full_version))
    if bundled:
        control = (debian / "control").read_text()
        description = control[control.index("Description:") :]
        (debian / "control").write_text((other / "control.in").read_text() + description)
        shutil.copy(other / "rules", debian / "rules")
    for name in ("control", "copyright"):
        text = (debian / name).read_text()
        (debian / name).write_text(text.replace("@MAINTAINER@", MAINTAINER).replace("@HOMEPAGE@", HOMEPAGE))


def download_wheels(destination: Path, pythons: set[str]) -> None:
    """From the package index, outside the root: what we depend on, and what builds our own wheel."""
    constraints = PROJECT / "packaging" / "deb-bundled" / "constraints.txt"
    wanted = [*roots.PYPROJECT["project"]["dependencies"], *roots.OPTIONAL, "setuptools", "wheel"]
    for python in pythons:
        download(destination, python, f"--constraint={constraints}", *wanted)


def download(destination: Path, python: str, *what: str) -> None:
    """Download wheels for a version of Python from the package index. Raises Impossible."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    platforms = [f"--platform={platform}" for platform in WHEEL_PLATFORMS]
    where = [f"--python-version={python}", *platforms, f"--dest={destination}"]
    result = subprocess.run([*command, *where, *what], capture_output=True, text=True, check=False)
    if result.returncode:
        raise Impossible(f"pip download failed:\n{result.stderr[-2000:]}")


def build_rpm(destination: Path) -> None:
    """Built with rpmbuild on Debian, so against its Python: what of it is Fedora's is not proven by that."""
    with roots.unpacked("trixie-build") as root:
        name = f"mcastd-{version()}"
        copy_sources(root / "build" / name)
        roots.run_in(
            root,
            f"cd /build && tar czf {name}.tar.gz {name} && "
            f"rpmbuild -bb --nodeps --define 'mcastd_version {version()}' "
            f"--define 'mcastd_homepage {HOMEPAGE}' --define '_topdir /build/rpm' "
            f"--define '_sourcedir /build' --define '_rpmdir /build' {name}/packaging/rpm/mcastd.spec "
            ">/build/log 2>&1 || { cat /build/log; exit 1; }",
        )
        collect(root / "build" / "noarch", destination)


def collect(built: Path, destination: Path) -> None:
    for path in built.iterdir():
        if path.is_file() and path.name != "log":
            shutil.copy(path, destination)


BUILDERS: dict[str, tuple[Callable[[Path], None], str]] = {  # with the root that each needs
    "deb": (build_deb, "trixie-build"),
    "deb-raptorq": (build_raptorq, "trixie-build"),
    "deb-bundled": (build_bundled, "bookworm-build"),
    "rpm": (build_rpm, "trixie-build"),
}


def build(names: Sequence[str]) -> None:
    """Build what is not built from these very files yet. Raises Impossible or CalledProcessError."""
    wanted = digest()
    stale = [name for name in names if not is_built(name, wanted)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: _build(name, wanted), stale))


def is_built(name: str, wanted: str) -> bool:
    stamp = DIST / name / ".digest"
    return stamp.exists() and stamp.read_text() == wanted


def _build(name: str, wanted: str) -> None:
    builder, root = BUILDERS[name]
    print(f"building dist/{name} in a copy of {root} (half a minute)", flush=True)
    shutil.rmtree(DIST / name, ignore_errors=True)
    (DIST / name).mkdir(parents=True)
    builder(DIST / name)
    (DIST / name / ".digest").write_text(wanted)


def for_tests() -> None:
    """All packages and roots, or why there are none, for the system tests to say."""
    DIST.mkdir(exist_ok=True)
    IMPOSSIBLE.unlink(missing_ok=True)
    try:
        roots.require_tools()
        roots.require_containers()  # first: all that follows takes minutes
        with ThreadPoolExecutor() as pool:  # what is built waits for its root alone
            jobs = [pool.submit(roots.make, list(roots.ROOTS)), pool.submit(build, list(BUILDERS))]
        for job in jobs:
            job.result()
    except Impossible as error:
        IMPOSSIBLE.write_text(str(error))
        print(f"no tests with systemd: {error}", flush=True)


def main(names: Sequence[str]) -> None:
    os.umask(0o022)
    try:
        if names == ["--for-tests"]:
            for_tests()
            return
        programs.install(programs.FOR_PACKAGES)
        roots.make(sorted({BUILDERS[name][1] for name in names}))
        build(names)
    except (Impossible, subprocess.CalledProcessError) as error:
        sys.exit(f"build.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    for name in names:
        for path in sorted((DIST / name).glob("*.deb")) + sorted((DIST / name).glob("*.rpm")):
            print(path.relative_to(PROJECT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="PACKAGE", help=", ".join(BUILDERS))
    for_what = "what tests/system needs, where that is possible"
    parser.add_argument("--for-tests", action="store_true", help=for_what)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - BUILDERS.keys():
        parser.error(f"no such package: {', '.join(sorted(unknown))}")
    main(["--for-tests"] if arguments.for_tests else arguments.names or list(BUILDERS))
