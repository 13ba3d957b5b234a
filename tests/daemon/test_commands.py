"""``mcastd`` as a new user meets it: demo, check, help, and what goes wrong first."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
from support.daemon import MCASTD
from support.wait import wait_for

ROOT = Path(__file__).parent.parent.parent


def mcastd(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MCASTD, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_the_demo_shows_all_that_was_sent(tmp_path: Path) -> None:
    result = mcastd("demo", "--interval", "0.01", env={**os.environ, "HOME": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "mcastd" / "demo.txt").read_text()
    lines = result.stdout.count("\n")
    assert result.stderr.endswith(f"sent {lines}, received {lines}, lost 0\n")


def test_the_demo_ends_on_ctrl_c_with_its_summary() -> None:
    process = subprocess.Popen(
        [*MCASTD, "demo", "--interval", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    summary = re.search(r"sent (\d+), received (\d+), lost 0$", errors.strip())
    assert summary, errors
    assert 0 < int(summary[1]) == int(summary[2]) < 28
    assert process.returncode == 0


@pytest.mark.parametrize("interval", ["-1", "x", "nan", "400d"])
def test_an_interval_of_the_demo_makes_sense(interval: str) -> None:
    result = mcastd("demo", f"--interval={interval}")
    assert result.returncode == 2
    assert f'not "{interval}"' in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_behind_the_output_is_said(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text('[outbound.news]\nsource = "/x"\ngroup = "239.1.2.3"\nport = 9\n')
    check = ["check", "--config", str(config)]
    for command in (check, [*check, "--dump"], ["--help"], ["--version"], ["demo", "--interval", "0.01"]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(
                [*MCASTD, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
        assert result.stderr.endswith("mcastd: cannot write to standard output: no space left on device\n")
        assert "Traceback" not in result.stderr
        assert result.returncode == 1


def test_the_demo_says_why_it_cannot(tmp_path: Path) -> None:
    result = subprocess.run(
        ["unshare", "-n", *MCASTD, "demo"], capture_output=True, text=True, timeout=60, check=False
    )  # loopback is down there
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "mcastd demo: outbound/news: cannot send to 239.255.1.2" in result.stderr


def test_check_prints_every_problem_and_exits_78(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text('[outbound.news]\nsource = "/x"\ngroup = "192.0.2.1"\nport = 0\nttll = 3\n')
    result = mcastd("check", "--config", str(config))
    assert result.returncode == 78
    problems = result.stderr.splitlines()
    assert [problem.split(": ")[1] for problem in problems] == [
        "outbound.news.group",
        "outbound.news.port",
        "outbound.news.ttll",
    ]
    assert problems[0].startswith(f"{config}:3: outbound.news.group: ")
    assert "not a multicast address" in problems[0]
    assert '"ttl"' in problems[2]


def test_check_warns_of_what_is_unwise(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text('[outbound.news]\nsource = "/x"\ngroup = "239.1.2.3"\nport = 9\nttl = 255\n')
    result = mcastd("check", "--config", str(config))
    assert (result.returncode, result.stdout) == (0, f"{config}: good (1 outbound, 0 inbound), 1 warning\n")
    assert result.stderr.startswith(f"{config}:5: outbound.news.ttl: warning: 255 is far beyond any site")
    assert mcastd("check", "--strict", "--config", str(config)).returncode == 78
    dumped = mcastd("check", "--dump", "--config", str(config))
    assert dumped.stderr == result.stderr
    assert tomllib.loads(dumped.stdout)["outbound"]["news"]["ttl"] == 255
    config.write_text(config.read_text().replace("255", "1"))
    strict = mcastd("check", "--strict", "--config", str(config))
    assert (strict.returncode, strict.stdout, strict.stderr) == (
        0,
        f"{config}: good (1 outbound, 0 inbound)\n",
        "",
    )


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00", b"a = [", "directory"])
def test_a_config_that_is_no_config_is_one_line_and_78(
    tmp_path: Path, command: str, content: bytes | str | None
) -> None:
    config = tmp_path / "mcastd.toml"
    if content == "directory":
        config.mkdir()
    elif isinstance(content, bytes):
        config.write_bytes(content)
    result = mcastd(command, "--config", str(config))
    assert result.returncode == 78
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(str(config))


def test_check_dump_prints_what_check_accepts(tmp_path: Path) -> None:
    dumped = mcastd("check", "--config", str(ROOT / "etc" / "mcastd.toml"), "--dump")
    assert dumped.returncode == 0, dumped.stderr
    assert tomllib.loads(dumped.stdout)["inbound"]
    again = tmp_path / "again.toml"
    again.write_text(dumped.stdout)
    assert mcastd("check", "--config", str(again), "--dump").stdout == dumped.stdout


def test_the_first_configuration_that_is_shown_works(tmp_path: Path) -> None:
    """That all others are taken, tests/config/test_config_shipped.py shows."""
    block = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    news = tmp_path / "news.log"
    config = tmp_path / "run.toml"
    text = block.replace("/dev/shm/mcastd/news.log", str(news)).replace(
        "/dev/shm/mcastd/control", str(tmp_path / "control")
    )
    config.write_text(text.replace("/etc/os-release", str(ROOT / "README.md")))
    process = subprocess.Popen([*MCASTD, "run", "--config", str(config)], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: news.exists() and news.read_bytes() == b"# mcastd\n")
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_check_takes_a_file_or_standard_input_and_gives_json(tmp_path: Path) -> None:
    text = '[outbound.news]\nsource = "/x"\ngroup = "239.1.2.3"\nport = 9\nttl = 255\n'
    config = tmp_path / "mcastd.toml"
    config.write_text(text)
    assert mcastd("check", str(config)).stdout == f"{config}: good (1 outbound, 0 inbound), 1 warning\n"
    (warning,) = json.loads(mcastd("check", "--json", str(config)).stdout)["warnings"]
    assert (warning["file"], warning["line"], warning["key"]) == (str(config), 5, "outbound.news.ttl")
    assert warning["reason"].startswith("255 is far beyond any site")
    assert mcastd("check", "--json", "--strict", str(config)).returncode == 78
    both = mcastd("check", "--config", "/other.toml", str(config))
    assert (both.returncode, f"two files, /other.toml by --config and {config}" in both.stderr) == (2, True)
    result = mcastd("check", "--json", "-", input=text.replace("port = 9", "port = 0"))
    told = json.loads(result.stdout)
    assert (result.returncode, told["good"], result.stderr) == (78, False, "")
    assert [(one["file"], one["line"], one["key"]) for one in told["problems"]] == [
        ("-", 4, "outbound.news.port")
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "-h"], ["demo", "--help"]])
def test_help(arguments: list[str]) -> None:
    result = mcastd(*arguments)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: mcastd")


def test_version() -> None:
    assert re.fullmatch(r"mcastd \d+\.\d+\.\d+\n", mcastd("--version").stdout)


def test_the_control_socket_is_where_the_command_line_says_unless_the_configuration_does(
    tmp_path: Path,
) -> None:
    inbound = '[inbound.a]\ngroup = "239.255.1.2"\nport = 9190\ninterface = "lo"\noutput = "/dev/null"\n'
    config = tmp_path / "mcastd.toml"
    ours, said = tmp_path / "ours", tmp_path / "said"
    for text, socket in ((inbound, said), (f'[daemon]\ncontrol_socket = "{ours}"\n{inbound}', ours)):
        config.write_text(text)
        command = [*MCASTD, "run", "--config", str(config), "--socket", str(said)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            log = iter(process.stderr.readline, b"")
            assert any(b"daemon.ready" in line for line in log)
            assert socket.exists()
            process.terminate()
        assert process.returncode == 0
