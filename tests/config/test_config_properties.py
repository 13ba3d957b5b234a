"""What holds for any input: a Config or a ConfigError; the way to TOML and back; the laws of diff."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mcastd.config import Changes, Config, diff, dump, examine, load
from mcastd.config.numbers import DSCP, MAX_RATE, MAX_SIZE
from mcastd.errors import ConfigError

# -- valid configurations

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")
DURATIONS = st.floats(0, 1e6) | st.integers(0, 10**6) | st.sampled_from(["500ms", "1min 30s", "2d"])
PERIODS = st.floats(0.001, 1e6) | st.integers(1, 10**6) | st.sampled_from(["500ms", "1min 30s"])
IPV4_GROUPS = st.integers(0xE0000100, 0xEFFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4)))
IPV4_GROUPS |= st.sampled_from(["232.1.1.1", "239.255.0.1", "239.128.0.1", "239.0.0.1"])
IPV6_GROUPS = st.integers(0, 0xFFFF).map(lambda n: f"ff15::{n:x}")
IPV6_GROUPS |= st.sampled_from(["ff35::1", "ff3e::8000:1", "ff1e::1", "ff0e::101"])
FORMATS = {
    "format": st.sampled_from(["raw", "lines", "json", "pcapng"]),
    "mode": st.integers(0, 0o777) | st.just("0600"),
}


def settings(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            key: value if isinstance(value, st.SearchStrategy) else st.just(value)
            for key, value in required.items()
        },
        optional=optional,
    )


def channels(path: str) -> st.SearchStrategy[dict[str, Any]]:
    optional = {
        "enabled": st.booleans(),
        "ttl": st.integers(0, 255),
        "interface": st.sampled_from(["lo", "eth0"]),
        "loop": st.booleans(),
        "dscp": st.integers(0, 63) | st.sampled_from(list(DSCP)),
    }
    pace = st.fixed_dictionaries({}, optional={"interval": DURATIONS}) | st.fixed_dictionaries(
        {"rate": st.integers(0, MAX_RATE)}
    )
    cut = st.fixed_dictionaries(
        {},
        optional={
            "framing": st.sampled_from(["line", "chunk"]),
            "max_datagram": st.integers(1, 65_507),
            "follow": st.booleans(),
        },
    ) | st.fixed_dictionaries(
        {"framing": st.sampled_from(["line", "file", "capture"])},
        optional={"repeat": st.integers(1, 1 << 40) | st.sampled_from(["once", "forever"])},
    )
    recorded = st.fixed_dictionaries(
        {"framing": st.just("capture"), "timing": st.just("capture")},
        optional={
            "speed": st.floats(0.001, 1000),
            "max_gap": st.integers(1, 100_000),
            "select": st.fixed_dictionaries(
                {"port": st.integers(1, 65_535)}, optional={"group": IPV4_GROUPS}
            ),
        },
    )
    base = settings(
        {"source": path, "group": IPV4_GROUPS | IPV6_GROUPS, "port": st.integers(1, 65_535)}, optional
    )
    paced = st.tuples(base, pace, cut).map(lambda parts: parts[0] | parts[1] | parts[2])
    return paced | st.tuples(base, recorded).map(lambda parts: parts[0] | parts[1])


def outputs(path: str) -> st.SearchStrategy[Any]:
    file = settings(
        {"kind": "file", "path": path},
        FORMATS
        | {
            "rotate_size": st.integers(1, MAX_SIZE),
            "rotate_every": PERIODS,
            "keep": st.integers(0, 100),
            "fsync": st.booleans(),
        },
    )
    fifo = settings(
        {"kind": "fifo", "path": path},
        FORMATS
        | {
            "queue": st.integers(1, 1 << 30),
            "when_full": st.sampled_from(["drop-newest", "drop-oldest", "block"]),
        },
    )
    return st.just(path) | file | fifo


def subscriptions(path: str) -> st.SearchStrategy[dict[str, Any]]:
    optional = {
        "enabled": st.booleans(),
        "interface": st.sampled_from(["lo", "eth0", "all"]),
        "receive_buffer": st.integers(1, 1 << 30),
    }
    output = outputs(path) | st.integers(1, 3).flatmap(
        lambda count: st.tuples(*(outputs(f"{path}.{index}") for index in range(count))).map(list)
    )
    required = {"port": st.integers(1, 65_535), "output": output}
    sources = st.fixed_dictionaries({}, optional={"sources": st.just(["192.0.2.1", "192.0.2.2"])})
    return settings({"group": IPV6_GROUPS, **required}, optional) | st.tuples(
        settings({"group": IPV4_GROUPS, **required}, optional), sources
    ).map(lambda parts: parts[0] | parts[1])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """The tables of a valid configuration."""
    daemon = {
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
        "log_format": st.sampled_from(["auto", "console", "json", "journal"]),
        "control_socket": st.just("/run/elsewhere/control"),
        "metrics": st.sampled_from(["127.0.0.1:9465", "[::1]:1", "localhost:65535"]),
        "stop_timeout": PERIODS,
    }
    names = st.lists(NAMES, max_size=4, unique=True)
    return {
        "daemon": draw(st.fixed_dictionaries({}, optional=daemon)),
        "outbound": {name: draw(channels(f"/srv/{name}")) for name in draw(names)},
        "inbound": {name: draw(subscriptions(f"/log/{number}")) for number, name in enumerate(draw(names))},
    }


CONFIGS = tables().map(Config.model_validate)

# -- invalid ones

KNOWN_KEYS = st.sampled_from(
    [
        "daemon",
        "outbound",
        "inbound",
        "log_level",
        "metrics",
        "source",
        "group",
        "port",
        "ttl",
        "interval",
        "rate",
        "interface",
        "framing",
        "timing",
        "select",
        "repeat",
        "sources",
        "output",
        "kind",
        "path",
        "format",
        "rotate_size",
        "mode",
        "queue",
        "max_datagram",
        "follow",
        "dscp",
        "[key]",
        "file",
        "fifo",
    ]
)
KEYS = KNOWN_KEYS | st.text(max_size=4)
SCALARS = (
    st.none().map(lambda _: "file")
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.booleans()
    | st.text(max_size=6)
    | st.dates()
    | st.times()
    | st.sampled_from(
        ["/a", "/a\n\x9b", "/a/", "239.1.1.1", "224.0.0.1", "ff02::1", "fifo", "raw", "1s", "all", "::1"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "c.toml.d").mkdir()
        yield Path(directory) / "c.toml"


def load_or_refusal(path: Path, *contents: bytes) -> Config | ConfigError:
    """Load what is given as the file and a drop-in, and hold refusals to their form."""
    for file, content in zip((path, Path(f"{path}.d") / "a.toml"), (*contents, b""), strict=False):
        file.write_bytes(content)
    try:
        return load(path)
    except ConfigError as error:
        refusal = error
    assert refusal.problems
    assert list(refusal.problems) == sorted(set(refusal.problems))
    for problem in refusal.problems:
        assert problem.reason.isprintable(), problem
        assert problem.path.isprintable(), problem
        assert "pydantic" not in problem.reason
        assert "Input should" not in problem.reason
        assert problem.line or not problem.path, "what has a path has a line"
        text = contents[0] if problem.file == str(path) else contents[-1]
        assert problem.line <= text.count(b"\n") + 1
    return refusal


@given(st.binary(), st.binary())
def test_any_bytes(path: Path, content: bytes, drop_in: bytes) -> None:
    load_or_refusal(path, content, drop_in)


@given(st.lists(st.sampled_from([*"[]{}\"'=.,#\\\n a1", '"""', "'''", "[[", "]]", "inbound"])).map("".join))
def test_any_text_of_toml_characters(path: Path, text: str) -> None:
    load_or_refusal(path, text.encode())


@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            section: VALUES | st.dictionaries(NAMES, st.dictionaries(KEYS, VALUES), max_size=3)
            for section in ("daemon", "outbound", "inbound")
        },
    ),
)
def test_any_tables(path: Path, content: dict[str, Any], drop_in: dict[str, Any]) -> None:
    load_or_refusal(path, tomli_w.dumps(content).encode(), tomli_w.dumps(drop_in).encode())


@given(tables(), st.data())
def test_valid_tables_with_one_value_changed(
    path: Path, content: dict[str, Any], data: st.DataObject
) -> None:
    node: Any = content
    while node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(VALUES)
            break
        node = node[key]
    load_or_refusal(path, tomli_w.dumps(content).encode())


@given(CONFIGS, st.integers(0), st.binary(max_size=3))
def test_valid_text_with_bytes_changed(path: Path, config: Config, where: int, what: bytes) -> None:
    text = dump(config).encode()
    where %= len(text)
    load_or_refusal(path, text[:where] + what + text[where + len(what) :])


# -- advice


@given(CONFIGS)
def test_advice_is_a_line_on_a_worker_that_is_there(path: Path, config: Config) -> None:
    path.write_text(dump(config))
    loaded, warnings = examine(path)
    assert loaded == config
    assert list(warnings) == sorted(set(warnings))
    names = [f"{section}.{name}." for section in ("outbound", "inbound") for name in getattr(config, section)]
    for warning in warnings:
        assert warning.line
        assert warning.path.replace('"', "").startswith(tuple(names))
        assert warning.warning
        assert re.fullmatch(r".+; .+", warning.reason)
        assert warning.reason.isprintable()


# -- dump, diff


@given(CONFIGS)
def test_what_is_dumped_loads_to_the_same(path: Path, config: Config) -> None:
    again = load_or_refusal(path, dump(config).encode())
    assert again == config
    assert isinstance(again, Config)
    assert dump(again) == dump(config)


@given(CONFIGS)
def test_nothing_differs_from_itself(config: Config) -> None:
    again = config.model_copy(deep=True)
    assert diff(config, again) == Changes(unchanged=tuple(config.workers()))


@given(CONFIGS, CONFIGS)
def test_diff_partitions_both_sides(old: Config, new: Config) -> None:
    changes = diff(old, new)
    assert sorted(changes.added + changes.changed + changes.unchanged) == sorted(new.workers())
    assert sorted(changes.removed + changes.changed + changes.unchanged) == sorted(old.workers())
    back = diff(new, old)
    assert (back.added, back.removed) == (changes.removed, changes.added)
    assert sorted(back.changed) == sorted(changes.changed)
    assert back.daemon_changed == changes.daemon_changed
    assert bool(changes.daemon_changed) == (old.daemon != new.daemon)


def test_diff_of_an_example() -> None:
    channel = {"source": "/x", "group": "239.1.1.1", "port": 1}
    subscription = {"group": "239.1.1.1", "port": 1, "output": "/y"}
    old = Config.model_validate({"outbound": {"a": channel, "b": channel}, "inbound": {"a": subscription}})
    new = Config.model_validate(
        {
            "daemon": {"log_level": "debug"},
            "outbound": {"c": channel, "b": channel | {"ttl": 2}},
            "inbound": {"a": subscription | {"output": [{"kind": "file", "path": "/y"}]}},
        }
    )
    assert diff(old, new) == Changes(
        added=("outbound/c",),
        removed=("outbound/a",),
        changed=("outbound/b",),
        unchanged=("inbound/a",),  # written otherwise, meaning the same
        daemon_changed=("log_level",),
    )
