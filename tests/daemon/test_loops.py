"""A channel whose source is written with what it sends: two names of one file, seen when it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.wait import wait_for

WHERE = 'group = "239.255.9.7"\nport = 9197\ninterface = "lo"\n'


def configuration(source: Path, output: str) -> str:
    channel = f'[outbound.news]\n{WHERE}ttl = 0\ninterval = 0\nfollow = true\nsource = "{source}"\n'
    return f"{channel}[inbound.news]\n{WHERE}output = {output}\n"


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_source_that_is_a_subscriptions_output_is_not_sent(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    source, output = tmp_path / "source", tmp_path / "news.log"
    output.write_text("once\n")
    with RunningDaemon(tmp_path, configuration(source, f'"{output}"')) as daemon:
        daemon.wait_state("inbound/news", "active")
        link(output, source)
        daemon.ctl("start-worker", "outbound/news")

        def refused() -> str:
            detail: str = daemon.worker("outbound/news")["detail"]
            return detail if "for ever" in detail else ""

        assert wait_for(refused, "the channel refuses its source") == (
            f"cannot read {source}: what it sends comes back to it for ever: inbound.news receives its group,"
            f" and writes {output}, which leads to the same file; send to another group, or write elsewhere"
        )
        daemon.wait_state("outbound/news", "auto-restart")
        source.unlink()
        source.write_text("twice\n")
        wait_for(lambda: output.read_text() == "once\ntwice\n", "another file is sent")
        daemon.wait_state("outbound/news", "active")


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_an_output_that_is_a_channels_source_is_not_written(tmp_path: Path, kind: str) -> None:
    source, output = tmp_path / "source", tmp_path / "news"
    if kind == "file":
        source.write_text("once\n")
    else:
        os.mkfifo(source)
    config = configuration(source, f'{{ kind = "{kind}", path = "{output}" }}')
    if kind == "fifo":
        config = config.replace("follow = true\n", "")
    with RunningDaemon(
        tmp_path, config.replace("[inbound.news]", "[inbound.news]\nenabled = false")
    ) as daemon:
        wait_for(lambda: reads(daemon, source), "the channel has its source open")
        os.link(source, output)
        daemon.write(config)
        daemon.ctl("reload")

        def refused() -> dict[str, Any]:
            (state,) = daemon.worker("inbound/news")["status"]["outputs"]
            return state if state["reason"] == "loop" else {}

        state = wait_for(refused, "the output is refused")
        assert state is not None
        assert state["error"] == (
            f"cannot write to {output}: it is the file that outbound.news sends, and what is written would be"
            " sent for ever; send to another group, or write elsewhere"
        )
        assert daemon.ctl("status").returncode == 3
        with source.open("a") as file:
            file.write("twice\n")
        sent = 2 if kind == "file" else 1

        def dropped() -> bool:
            (state,) = daemon.worker("inbound/news")["status"]["outputs"]
            dropped: int = state["counters"]["dropped"].get("loop", 0)
            return dropped >= 1 and state["counters"]["written"] == 0

        wait_for(dropped, "what comes is dropped")
        wait_for(lambda: daemon.worker("outbound/news")["status"]["counters"]["sent"] == sent, "the account")


def reads(daemon: RunningDaemon, path: Path) -> bool:
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    return any(one.is_symlink() and os.path.realpath(one) == str(path) for one in descriptors.iterdir())
