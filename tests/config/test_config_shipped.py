"""The configurations that come with mcastd are valid, safe, and leave no key unexplained."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mcastd.config import (
    INBOUND_PROTOCOLS,
    OUTPUTS,
    SOURCES,
    AmtRelaySettings,
    Announcing,
    Bridge,
    Config,
    DaemonSettings,
    Discover,
    FileOutput,
    FluteInbound,
    FluteOutbound,
    GatewaySettings,
    InboundSubscription,
    KeepBefore,
    LinkSettings,
    NativeVia,
    OutboundChannel,
    RtpOutbound,
    dump,
    examine,
    load,
)
from mcastd.config.model import Model
from mcastd.config.via import VIAS, AmtSettings
from mcastd.outbound.announcement import describe
from mcastd.status import SenderDescription

ETC = Path(__file__).parents[2] / "etc"
MAIN = ETC / "mcastd.toml"
REFERENCE = ETC / "examples" / "reference.toml"
EXAMPLES = sorted((ETC / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", [MAIN, *EXAMPLES], ids=lambda path: path.name)
def test_it_is_valid_and_says_what_it_is_for(path: Path, tmp_path: Path) -> None:
    assert re.match(r"# \S", path.read_text())
    config = load(path)
    assert config.workers()
    assert examine(path) == (config, []), "no false alarm"
    (tmp_path / "again.toml").write_text(dump(config))
    assert load(tmp_path / "again.toml") == config


def shown(document: Path) -> list[str]:
    """The configurations in a document: not what is a line or two of one."""
    blocks = re.findall(r"^```toml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.search(r"\A(?:#.*\n)*\[", block)]


DOCS = ETC.parent / "docs"
# By which way the cookbook's channel "stage" sends.
STAGE = SenderDescription("eth0", "192.0.2.10")
SHOWN = [
    (path.name, number, text)
    for path in (ETC.parent / "README.md", *sorted(DOCS.glob("*.md")))
    for number, text in enumerate(shown(path))
]


def with_description(text: str, tmp_path: Path) -> str:
    """A configuration of the cookbook, which names a description that is here somewhere else."""
    path = tmp_path / "stage.sdp"
    config = Config.model_validate(
        tomllib.loads(next(one for one in shown(DOCS / "COOKBOOK.md") if ".stage" in one))
    )
    channel = config.outbound["stage"]
    assert channel.announce is not None
    path.write_bytes(describe("outbound/stage", channel, [STAGE], channel.announce, 1))
    return text.replace("/etc/mcastd/stage.sdp", str(path))


@pytest.mark.parametrize(("document", "number", "text"), SHOWN, ids=lambda part: str(part)[:20])
def test_what_a_document_shows_is_valid_and_wise(
    document: str, number: int, text: str, tmp_path: Path
) -> None:
    (tmp_path / "mcastd.toml").write_text(with_description(text, tmp_path))
    config, warnings = examine(tmp_path / "mcastd.toml")
    assert config.workers()
    assert warnings == [], (document, number)


def test_what_the_cookbook_announces_is_received(tmp_path: Path) -> None:
    sends, receives = (text for text in shown(DOCS / "COOKBOOK.md") if ".stage]" in text)
    path = tmp_path / "mcastd.toml"
    path.write_text(with_description(receives, tmp_path))
    channel = Config.model_validate(tomllib.loads(sends)).outbound["stage"]
    received = load(path).inbound["stage"]
    assert (received.group, received.port) == (channel.group, channel.port)
    assert list(map(str, received.sources)) == [STAGE.address]


def test_both_ends_of_the_cookbook_fit_together(tmp_path: Path) -> None:
    texts = [text for text in shown(DOCS / "COOKBOOK.md") if "flute" in text]
    assert len(texts) == 6
    for one, other in zip(texts[::2], texts[1::2], strict=True):
        (tmp_path / "one.toml").write_text(one)
        (tmp_path / "other.toml").write_text(other)
        (name, sender), (taken, receiver) = (
            *load(tmp_path / "one.toml").outbound.items(),
            *load(tmp_path / "other.toml").inbound.items(),
        )
        assert (name, sender.group, sender.port) == (taken, receiver.group, receiver.port)
        out, into = sender.protocol, receiver.protocol
        assert isinstance(out, FluteOutbound)
        assert isinstance(into, FluteInbound)
        assert into.session in {None, out.session}
        assert into.verify_keys == (f"{out.sign_key}.pub",)
        assert into.keys == (None if out.key is None else (out.key,))


def test_the_reference_is_what_is_installed_and_every_key() -> None:
    assert load(REFERENCE) == load(MAIN)


def test_the_drop_in_of_the_manual_switches_the_news_off(tmp_path: Path) -> None:
    (tmp_path / "mcastd.toml").write_bytes(MAIN.read_bytes())
    (tmp_path / "mcastd.toml.d").mkdir()
    manual = (ETC.parent / "docs" / "OPERATION.md").read_text()
    lines = re.findall(r"`((?:in|out)bound\.news\.enabled = false)`", manual)
    assert len(lines) == 2
    (tmp_path / "mcastd.toml.d" / "local.toml").write_text("\n".join(lines))
    config = load(tmp_path / "mcastd.toml")
    assert [worker.enabled for worker in (*config.outbound.values(), *config.inbound.values())] == [
        False,
        False,
    ]


def test_nothing_leaves_the_host_unasked() -> None:
    config = load(MAIN)
    assert [(channel.ttl, channel.interface) for channel in config.outbound.values()] == [(0, "lo")]
    assert [subscription.interface for subscription in config.inbound.values()] == ["lo"]
    assert config.daemon == DaemonSettings()


@pytest.mark.parametrize(
    "model",
    [
        DaemonSettings,
        AmtSettings,
        *VIAS.models.values(),
        OutboundChannel,
        InboundSubscription,
        Discover,
        Bridge,
        AmtRelaySettings,
        GatewaySettings,
        LinkSettings,
        *SOURCES.models.values(),
        FluteOutbound,
        RtpOutbound,
        Announcing,
        KeepBefore,
        *INBOUND_PROTOCOLS.models.values(),
        *OUTPUTS.models.values(),
    ],
)
def test_every_key_is_there(model: type[Model]) -> None:
    text = REFERENCE.read_text()
    for key in model.fields_by_key():
        assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), key


LINES = REFERENCE.read_text().splitlines()
COMMENTED = [number for number, line in enumerate(LINES) if re.match(r"# \w+ = ", line)]
ABSENT_BY_DEFAULT = {
    "metrics",
    "rate",
    "burst",
    "sources",
    "exclude_sources",
    "expect_every",
    "rejoin_every",
    "rotate_size",
    "rotate_every",
    "timing",
    "late",
    "payload",
    "sdp",
    "keep_before",
    "seam",
    "max_gap",
    "speed",
    "select",
    "copies",
    "legs",
    "max_skew",
    "max_latency",
}
LEGS = (
    'legs = [{ group = "239.255.1.2", port = 9190, interface = "lo" }, { group = "239.255.3.3", port = 9 }]'
)

# What a key needs beside it.
NEEDED = {
    "timing": ['framing = "ts"'],
    "reorder": ['protocol = "rtp"'],
    "legs": ['protocol = "rtp"'],
    "max_skew": ['protocol = "rtp"', LEGS],
    "late": ['framing = "ts"', 'timing = "pcr"'],
    "seam": ['framing = "ts"'],
    "max_gap": ['framing = "capture"', 'timing = "capture"'],
    "speed": ['framing = "capture"', 'timing = "capture"'],
    "select": ['framing = "capture"'],
}


@pytest.mark.parametrize("number", COMMENTED, ids=lambda number: LINES[number].split()[1])
def test_each_commented_key_can_be_uncommented(number: int, tmp_path: Path) -> None:
    lines = list(LINES)
    start = max(n for n in range(number) if re.match(r"(# )?\[", lines[n]))
    if lines[start].startswith("# ["):  # another way to say a key: all of it, without what it replaces
        end = next((n for n in range(start, len(lines)) if lines[n] in ("#", "")), len(lines))
        lines[start:end] = [line.removeprefix("# ") for line in lines[start:end]]
        replaced = lines[start].strip("[]").rpartition(".")[2]
        table = lines[start:end]
        lines = [line for line in lines if not line.startswith(f"{replaced} = ")]
        if "[inbound.news.protocol]" in table and 'kind = "flute"' in "\n".join(table):
            files = 'output = { kind = "directory", path = "/srv/images" }'
            lines = [re.sub("^output = .*", files, line) for line in lines]
        elif "[outbound.news.protocol]" in table:  # which takes a rate
            at = next(n for n, line in enumerate(lines) if line.startswith("# rate = "))
            lines[at] = lines[at].removeprefix("# ")
        elif 'kind = "amt-fallback"' in table:
            lines.insert(lines.index("[inbound.news.via]"), "expect_every = 30")
        elif "[inbound.news.via]" in table:  # which no interface has to do with
            at = lines.index("[inbound.news]")
            lines[at:] = [line for line in lines[at:] if not line.startswith("interface = ")]
        elif any(line.startswith("ttl = ") for line in table):  # of an output to a group
            lines.insert(lines.index("[inbound.news.output]"), 'sources = ["192.0.2.1"]')
        elif 'kind = "directory"' in "\n".join(table):
            lines.insert(lines.index("[inbound.news.output]"), 'protocol = "flute"')
    else:
        lines[number] = lines[number].removeprefix("# ")
        lines[number:number] = NEEDED.get(LINES[number].split()[1], ())
    (tmp_path / "mcastd.toml").write_text("\n".join(lines))
    config = load(tmp_path / "mcastd.toml")
    (key,) = tomllib.loads(LINES[number].removeprefix("# "))
    (output,) = config.inbound["news"].output
    news = config.outbound["news"]
    others = not isinstance(output, FileOutput) or news.protocol.kind != "raw" or news.announce is not None
    heard_news = config.inbound["news"]
    others = others or heard_news.protocol.kind != "raw" or heard_news.keep_before is not None
    others = others or heard_news.via != NativeVia() or news.source.kind != "file"
    if key not in ABSENT_BY_DEFAULT and not others:
        expected = load(REFERENCE)
        shown = output.model_copy(update={"rotate_size": None, "rotate_every": None})
        heard = config.inbound["news"].model_copy(update={"output": (shown,)})
        assert Config(daemon=config.daemon, outbound=config.outbound, inbound={"news": heard}) == expected
