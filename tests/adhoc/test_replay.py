"""``mcastctl replay``: a recording from one host to another, and what it refuses."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from adhoc.conftest import Pair
from click.testing import CliRunner
from support.adhoc import Listening, ctl
from support.recordings import GROUP, MILLISECOND, PORT, packet, recording

from mcastd.ctl import main

TO = "239.255.1.9:9199"
ETH0 = ("-i", "eth0")


@pytest.mark.root
def test_what_was_heard_is_sent_again(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "heard.pcapng"
    with Listening(pair.right, GROUP, PORT, *ETH0, "--count", "5", "--pcapng") as listening:
        sent = ctl(
            pair.left, "send", f"{GROUP}:{PORT}", *ETH0, "--numbered", "--count", "5", "--interval", "40ms"
        )
        assert sent.returncode == 0, sent.stderr
        out, _ = listening.process.communicate(timeout=60)
    file.write_bytes(out)
    with Listening(pair.right, "239.255.1.9", 9199, *ETH0, "--count", "10", "--json") as listening:
        result = ctl(pair.left, "replay", str(file), TO, *ETH0, "--count", "2", "--speed", "2", "--json")
        assert result.returncode == 0, result.stderr
        assert listening.wait() in {0, 1}  # in its second round numbers come twice
    assert json.loads(result.stdout)["summary"]["sent"] == 10
    numbers = [int(record["payload"].split()[3]) for record in listening.records]
    assert numbers == [1, 2, 3, 4, 5] * 2
    times = [record["time"] for record in listening.records]
    assert times == sorted(times)
    assert len({one for one, _ in pairwise(times)}) == 9


@pytest.mark.root
def test_several_streams_end_it_and_select_names_one(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "two.pcapng"
    file.write_bytes(recording([(0, b"one"), (MILLISECOND, b"two")]) + packet(b"six", 2, "ff15::2", 9191))
    result = ctl(pair.left, "replay", str(file), TO, *ETH0)
    assert result.returncode == 1
    assert "cannot replay: cannot read" in result.stderr
    assert f"2 streams are in it, and a channel sends one: {GROUP} port {PORT} (2), ff15::2" in result.stderr
    assert f"give --select {GROUP}:{PORT}, or another of these" in result.stderr
    with Listening(pair.right, "239.255.1.9", 9199, *ETH0, "--count", "1", "--raw") as listening:
        result = ctl(pair.left, "replay", str(file), TO, *ETH0, "--select", "[ff15::2]:9191")
        assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    assert listening.out == "six"


@pytest.mark.root
def test_a_recording_that_is_cut_is_sent_up_to_there(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "cut.pcapng"
    whole = recording([(0, b"one"), (MILLISECOND, b"two")])
    file.write_bytes(whole + packet(b"three")[:-1])
    result = ctl(pair.left, "replay", str(file), TO, *ETH0, "--interval", "0")
    assert result.returncode == 1
    assert "sent 2 datagrams" in result.stderr
    assert f"cut.pcapng: after {len(whole):,} bytes the last block is cut" in result.stderr
    result = ctl(pair.left, "replay", str(tmp_path / "none"), TO, *ETH0)
    assert result.returncode == 1
    assert "no such file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "1Mbit", "--speed", "2"), "--speed contradicts --rate; keep one of the two"),
        (("--rate", "1Mbit", "--interval", "1s"), "--interval contradicts --rate; keep one of the two"),
        (("--speed", "0"), "--speed must be a number from 0.001 to 1000, not 0"),
        (("--select", GROUP), "--select must be a group and a port"),
        (("--ttl", "256"), "--ttl must be a whole number from 0 to 255, not 256"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: Any, said: str) -> None:
    result = CliRunner().invoke(main, ["replay", str(tmp_path / "none"), TO, *arguments])
    assert result.exit_code == 2
    assert said in result.output
