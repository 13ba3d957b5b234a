"""``keep_before`` of a subscription: a duration or a table, written back as it was, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcastd.config import Config, InboundSubscription, KeepBefore, dump, load
from mcastd.errors import ConfigError

HEAD = '[inbound.tv]\ngroup = "239.255.1.2"\nport = 5004\noutput = "/srv/tv"\n'


def loaded(tmp_path: Path, line: str) -> Config:
    path = tmp_path / "mcastd.toml"
    path.write_text(f"{HEAD}{line}\n")
    return load(path)


@pytest.mark.parametrize(
    ("line", "written", "seconds"),
    [
        ("", None, None),
        ('keep_before = "10s"', "10s", 10.0),
        ('keep_before = "1min 30s"', "1min 30s", 90.0),
        ("keep_before = 7", "7s", 7.0),
        ('keep_before = { time = "500ms" }', "500ms", 0.5),
        (
            'keep_before = { time = "20s", memory = "100MB", directory = "/srv/captures/", files = 3 }',
            {"time": "20s", "memory": "100MB", "directory": "/srv/captures", "files": 3},
            20.0,
        ),
    ],
)
def test_a_duration_or_a_table(tmp_path: Path, line: str, written: Any, seconds: float | None) -> None:
    config = loaded(tmp_path, line)
    kept = config.inbound["tv"].keep_before
    assert (None if kept is None else kept.time) == seconds
    again = tomllib.loads(dump(config))["inbound"]["tv"].get("keep_before")
    assert again == ({"kind": "pcapng", **written} if isinstance(written, dict) else written)
    (tmp_path / "again.toml").write_text(dump(config))
    assert load(tmp_path / "again.toml") == config


def test_without_more_it_is_bounded_and_in_the_state_directory() -> None:
    settings = InboundSubscription.model_validate(
        {"group": "239.255.1.2", "port": 5004, "output": "/srv/tv", "keep_before": "10s"}
    )
    assert settings.keep_before == KeepBefore(time=10.0)
    assert settings.keep_before.model_dump() == {
        "kind": "pcapng",
        "time": 10.0,
        "memory": 64 << 20,
        "directory": None,
        "files": 10,
    }


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("keep_before = true", 'keep_before: must be a duration like "10s" or a table, not true'),
        (
            'keep_before = "soon"',
            'keep_before: must be a number of seconds, or a span like "500ms" or "1min 30s"'
            ' (units: us ms s min h d w), not "soon"',
        ),
        ("keep_before = 0", "keep_before: must be longer than 0, not 0"),
        ("keep_before = { files = 3 }", "keep_before.time: missing; it is required"),
        ('keep_before = { tim = "1s", time = "1s" }', 'keep_before.tim: unknown key; did you mean "time"?'),
        (
            'keep_before = { time = "1s", memory = "1kB" }',
            "keep_before.memory: must be a whole number from 1,048,576 to 1,125,899,906,842,624 bytes,"
            ' not "1kB"',
        ),
        (
            'keep_before = { time = "1s", directory = "captures" }',
            'keep_before.directory: must be an absolute path, not "captures"',
        ),
        (
            'keep_before = { time = "1s", files = 0 }',
            "keep_before.files: must be a whole number from 1 to 1000000000, not 0",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, line)
    problems = [str(problem) for problem in refused.value.problems]
    assert problems == [f"{tmp_path}/mcastd.toml:5: inbound.tv.{why}"]
