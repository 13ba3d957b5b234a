"""A setting of several kinds: strings and tables, what is wrong in them, and how they are written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from mcastd.config import (
    INBOUND_PROTOCOLS,
    OUTBOUND_PROTOCOLS,
    SOURCES,
    Config,
    FileSourceSettings,
    OutboundChannel,
    SourceSettings,
    dump,
)
from mcastd.config.explain import explain

TABLE = {"group": "239.255.1.2", "port": 9190, "source": "/srv/news"}
FILE = FileSourceSettings(path=Path("/srv/news"))


class Numbers(SourceSettings):
    kind: Literal["numbers"] = "numbers"
    most: int = 7


@pytest.fixture(autouse=True)
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one kind beside files, whatever others there are."""
    monkeypatch.setattr(SOURCES, "models", {"file": FileSourceSettings, "numbers": Numbers})


def complaints(**keys: object) -> list[str]:
    data = {"outbound": {"news": TABLE | keys}}
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(data)
    return [f"{complaint.path()}: {complaint.reason}" for complaint in explain(caught.value, data)]


@pytest.mark.parametrize(
    "source", ["/srv/news", Path("/srv/news"), {"path": "/srv/news"}, {"kind": "file", "path": "/srv/news"}]
)
def test_a_string_stands_for_a_table(source: object) -> None:
    assert OutboundChannel.model_validate(TABLE | {"source": source}).source == FILE


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "source: must be an absolute path or a table, not 3"),
        ("news", 'source: must be an absolute path, not "news"'),
        ({"path": 3}, "source.path: must be an absolute path, not 3"),
        ({"kind": "file"}, "source.path: missing; it is required"),
        ({"paht": "/x", "path": "/x"}, 'source.paht: unknown key; did you mean "path"?'),
        ({"kind": "numbers", "moss": 3}, 'source.moss: unknown key; did you mean "most"?'),
        (
            {"kind": "number"},
            'source.kind: must be "file" or "numbers", not "number"; did you mean "numbers"?',
        ),
        ({"kind": 3}, 'source.kind: must be "file" or "numbers", not 3'),
        ({"kind": ["file"]}, 'source.kind: must be "file" or "numbers", not an array'),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(source: object, said: str) -> None:
    assert complaints(source=source) == [f"outbound.news.{said}"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"timing": "capture"}, 'timing: "capture" needs framing = "capture"'),
        ({"timing": "pcr", "framing": "capture"}, 'timing: "pcr" needs framing = "ts"'),
        ({"select": {"port": 9190}}, 'select: needs framing = "capture"'),
        ({"framing": "capture", "speed": 2}, 'speed: needs timing = "capture"'),
        ({"framing": "capture", "max_gap": "1s"}, 'max_gap: needs timing = "capture"'),
        ({"framing": "ts", "timing": "pcr", "speed": 2}, 'speed: needs timing = "capture"'),
        (
            {"framing": "capture", "source": {"kind": "numbers"}},
            'framing: does not apply to a source of kind = "numbers"',
        ),
    ],
)
def test_what_is_of_recordings_alone(keys: dict[str, object], said: str) -> None:
    assert complaints(**keys) == [f"outbound.news.{said}"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, 'rate: protocol = "flute" needs a rate: no receiver tells the sender to slow down'),
        (
            {"interval": 0},
            'interval: protocol = "flute" needs a rate, and no interval:'
            " no receiver tells the sender to slow down",
        ),
        (
            {"rate": "3Mbit", "framing": "chunk"},
            'framing: does not apply to protocol = "flute", which sends whole files',
        ),
        (
            {"rate": "3Mbit", "follow": True},
            'follow: does not apply to protocol = "flute": a file that changes is sent anew',
        ),
        (
            {"rate": "3Mbit", "max_datagram": 255},
            'max_datagram: must be at least 256 with protocol = "flute"',
        ),
        (
            {"rate": "3Mbit", "source": {"kind": "numbers"}},
            'source: must be the path of a file or directory, for protocol = "flute" sends files',
        ),
        (
            {"rate": "3Mbit", "protocol": {"kind": "flute", "protect": 3}},
            'protocol.protect: must be a percentage from "0%" to "50%", not 3; write "3%"',
        ),
        (
            {"rate": "3Mbit", "protocol": {"kind": "flute", "interleave": 65}},
            "protocol.interleave: must be a whole number from 1 to 64, not 65",
        ),
        (
            {"rate": "3Mbit", "protocol": {"kind": "flute", "keys": "/etc/key"}},
            'protocol.keys: unknown key; did you mean "key"? "keys" belongs into protocol = { kind = "flute",'
            " keys = ... } of [inbound.NAME]",
        ),
        (
            {"rate": "3Mbit", "protocol": {"kind": "flute", "key": "etc/key"}},
            "protocol.key: must be the absolute path of a key file, or the name of a systemd credential,"
            ' not "etc/key"',
        ),
        (
            {"rate": "3Mbit", "protocol": {"kind": "flute", "channel": "images"}},
            'protocol.channel: is of a manifest, and there is none without "sign_key" or "key"',
        ),
    ],
)
def test_what_contradicts_a_protocol_of_files(keys: dict[str, object], said: str) -> None:
    assert complaints(**{"protocol": "flute"} | keys) == [f"outbound.news.{said}"]


@pytest.mark.parametrize(("protocol", "key"), [("rau", "protocol"), ({"kind": "rau"}, "protocol.kind")])
def test_an_unknown_protocol(protocol: object, key: str) -> None:
    assert complaints(protocol=protocol) == [
        f'outbound.news.{key}: must be "raw", "rtp" or "flute", not "rau"; did you mean "raw"?'
    ]


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        ({}, {"source": "/srv/news", "protocol": "raw"}),
        ({"source": {"kind": "file", "path": "/srv/news"}}, {"source": "/srv/news"}),
        ({"protocol": {"kind": "raw"}}, {"protocol": "raw"}),
        ({"protocol": "flute", "rate": "3Mbit"}, {"protocol": "flute", "framing": "line"}),
        (
            {"protocol": {"kind": "flute", "protect": "2.5%", "session": 9}, "rate": "3Mbit"},
            {"protocol": {"kind": "flute", "protect": "2.5%", "interleave": 8, "session": 9}},
        ),
        ({"source": {"kind": "numbers"}}, {"source": {"kind": "numbers", "most": 7}}),
        ({"source": {"kind": "numbers", "most": 5}}, {"source": {"kind": "numbers", "most": 5}}),
    ],
)
def test_a_dump_says_it_shortly_and_is_read_as_the_same(
    keys: dict[str, object], written: dict[str, object]
) -> None:
    config = Config.model_validate({"outbound": {"news": TABLE | keys}})
    again = tomllib.loads(dump(config))
    assert written.items() <= again["outbound"]["news"].items()
    assert Config.model_validate(again) == config


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("keys", [{"verify_keys": ["/k.pub", "pub"]}, {"keys": ["/k", "cred"]}])
def test_a_dump_has_the_keys_of_files(keys: dict[str, list[str]]) -> None:
    protocol = {"kind": "flute", **keys, "channel": "pictures"}
    table = {"group": "239.1.1.1", "port": 9, "output": {"kind": "directory", "path": "/y"}}
    config = Config.model_validate({"inbound": {"news": table | {"protocol": protocol}}})
    again = tomllib.loads(dump(config))
    assert again["inbound"]["news"]["protocol"] == protocol
    assert Config.model_validate(again) == config


def test_each_kind_is_named_by_its_model() -> None:
    for kinds in (SOURCES, OUTBOUND_PROTOCOLS, INBOUND_PROTOCOLS):
        for kind, model in kinds.models.items():
            assert model.model_fields["kind"].default == kind
