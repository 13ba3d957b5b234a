"""A test that lacks a program is skipped and says what to install; in continuous integration none may be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import build
import programs
import pytest
import roots

HERE = Path(__file__).parent
RUN = HERE.parent / ".ci" / "run"

LACKING = """
import subprocess
import pytest
import roots
from support.host import Host
from support.programs import program

@pytest.fixture(scope="module")
def bridge():
    return program("bridge")

def test_a_fixture(bridge): ...
def test_a_fixture_again(bridge): ...
def test_a_helper(): program("tmux")
def test_a_command(): subprocess.run(["nft", "list", "ruleset"])
def test_a_host(): Host()
def test_a_file_that_no_package_has(): open("/no/such/file")
"""


def run_pytest(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run LACKING with our conftest.py and an empty PATH."""
    (directory / "test_lacking.py").write_text(LACKING)
    (directory / "conftest.py").write_bytes((HERE / "conftest.py").read_bytes())
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    path = [str(HERE), str(HERE.parent / "packaging")]
    shadow = "import programs; programs.PATH = ''\n"  # neither the administrators' directories
    (directory / "sitecustomize.py").write_text(shadow)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(directory)]
    environment = {
        "PATH": "",
        "PYTHONPATH": ":".join([str(directory), *path]),
        "MCASTD_TEST_NAMESPACE": os.environ["MCASTD_TEST_NAMESPACE"],
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_what_lacks_a_program_is_skipped_and_says_what_to_install(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path)
    assert re.search(r"^=+ 1 failed, 5 skipped in ", ran.stdout, re.MULTILINE), ran.stdout + ran.stderr
    assert re.search(r"^FAILED .*::test_a_file_that_no_package_has", ran.stdout, re.MULTILINE), ran.stdout
    for name, package in (("bridge", "iproute2"), ("ip", "iproute2"), ("nft", "nftables"), ("tmux", "tmux")):
        assert f"needs {name}: apt install {package}" in ran.stdout


def test_where_nothing_may_be_skipped_it_fails(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, "--no-skips")
    assert re.search(r"^=+ (\d failed|\d errors?|, )+ in ", ran.stdout, re.MULTILINE), ran.stdout
    assert "needs nft: apt install nftables" in ran.stdout


def test_continuous_integration_skips_nothing() -> None:
    assert "--no-skips" in RUN.read_text()


@pytest.mark.parametrize("names", programs.SETS.values(), ids=programs.SETS)
def test_what_is_missing_is_named_where_it_cannot_be_installed(names: dict[str, str]) -> None:
    script = "import os, sys, programs; os.geteuid = lambda: 1; programs.find = lambda name: None; "
    script += f"programs.install({names!r})"
    environment = {"PYTHONPATH": str(HERE.parent / "packaging")}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    words = " ".join(sorted(set(names.values())))
    assert ran.stdout == f"missing, and not installed without root and apt: {words}\n"


FAKE_APT = """#!/bin/sh
echo "$0 $*" >> {log}
case $1 in
madison) echo "  ours | 1.2 | http://mirror.invalid main amd64 Packages"; echo "ours | 1.1 | /var/lib/dpkg" ;;
*) echo "from apt-get" >&2; exit {status} ;;
esac
"""


@pytest.mark.parametrize("status", [0, 100])
def test_what_one_system_has_no_package_of_keeps_nothing_else_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    log = tmp_path / "log"
    for name in ("apt-get", "apt-cache"):
        fake = tmp_path / name
        fake.write_text(FAKE_APT.format(log=log, status=status))
        fake.chmod(0o755)
    monkeypatch.setattr(programs, "PATH", f"{tmp_path}:{programs.PATH}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    programs.install({"/no/such/file": "ours", "/no/such/other": "theirs"})
    said = "installing what is missing, by apt: ours theirs\napt has no package theirs\nfrom apt-get\n"
    if status:
        said += "apt could not install it:\nfrom apt-get\nfrom apt-get\n\n"
    assert capsys.readouterr().out == said
    assert log.read_text().splitlines() == [
        f"{tmp_path}/apt-get --quiet=2 update",
        f"{tmp_path}/apt-cache madison ours theirs",
        f"{tmp_path}/apt-get --quiet=2 install --yes --no-install-recommends ours",
    ]
    log.unlink()
    programs.install({"/no/such/other": "theirs"})
    assert len(log.read_text().splitlines()) == 2


def test_nothing_is_built_for_systems_that_cannot_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "DIST", tmp_path)
    monkeypatch.setattr(build, "IMPOSSIBLE", tmp_path / "why")
    monkeypatch.setattr(roots, "require_tools", lambda: None)
    monkeypatch.setattr(roots, "cgroup_root", lambda: Path("/proc"))  # there nobody makes a directory
    monkeypatch.setattr(roots, "make", lambda names: pytest.fail("it makes roots"))
    monkeypatch.setattr(programs, "find", lambda name: name)
    build.for_tests()
    why = (tmp_path / "why").read_text()
    assert why.startswith("needs a cgroup for a system that boots: [Errno ")
    assert capsys.readouterr().out == f"no tests with systemd: {why}\n"
