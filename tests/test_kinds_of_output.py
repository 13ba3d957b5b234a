"""A made-up kind of output, with a made-up format, through the whole house; and what every kind holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from support.kinds import MemoryOutput, MemorySink, Pairs
from support.objects import ObjectsSettings, SentObject
from support.wait import wait_for

from mcastd import log
from mcastd.config import (
    INBOUND_PROTOCOLS,
    OUTBOUND_PROTOCOLS,
    OUTPUTS,
    SOURCES,
    Config,
    FileOutput,
    InboundSubscription,
    OutputSettings,
    diff,
    dump,
)
from mcastd.config.load import load
from mcastd.config.output import FormatName
from mcastd.delivery.description import Run
from mcastd.doctor import outputs as doctor
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Severity
from mcastd.doctor.subject import Subject
from mcastd.errors import ConfigError
from mcastd.inbound import protocols as inbound_protocols
from mcastd.inbound.sinks import FORMATS, SINKS, Sink, StreamFacts, make_sink
from mcastd.inbound.subscription import Subscription
from mcastd.inbound.symbols import SymbolBatch
from mcastd.makers import FACTORIES, Parts, build
from mcastd.metrics.exposition import Exposition
from mcastd.metrics.families import OF_KIND
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.outbound import protocols as outbound_protocols
from mcastd.outbound.sources import OPENERS, OPENERS_OF_FILES, Source
from mcastd.supervisor import Supervisor

ORIGIN = Origin("192.0.2.1", 5000, 1, 1)
TEXT = """
[inbound.news]
group = "239.255.1.2"
port = 9190
output = [
    { kind = "memory", name = "a", format = "pairs" },
    { kind = "memory", name = "b", interface = "eth9" },
]
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of output and a format: a line in each registry."""
    monkeypatch.setitem(INBOUND_PROTOCOLS.models, "objects", ObjectsSettings)
    monkeypatch.setitem(OUTPUTS.models, "memory", MemoryOutput)
    monkeypatch.setitem(SINKS, MemoryOutput, MemorySink)
    monkeypatch.setitem(FORMATS, "pairs", Pairs)


def configured(text: str, directory: Path) -> Config:
    (directory / "mcastd.toml").write_text(text)
    return load(directory / "mcastd.toml")


def test_every_kind_of_output_has_its_sink_and_every_format_its_class() -> None:
    assert SINKS.keys() == set(OUTPUTS.models.values())
    assert FORMATS.keys() == set(get_args(FormatName))


def test_every_kind_of_anything_else_has_what_is_made_of_it() -> None:
    files = {kind for kind, model in OUTBOUND_PROTOCOLS.models.items() if model.of_files}
    assert OPENERS.keys() == SOURCES.models.keys()
    assert OPENERS_OF_FILES.keys() == files
    assert outbound_protocols.PROTOCOLS.keys() == OUTBOUND_PROTOCOLS.models.keys()
    assert inbound_protocols.PROTOCOLS.keys() == INBOUND_PROTOCOLS.models.keys()
    assert FACTORIES.keys() == set(Config.kinds().values())
    assert OF_KIND.keys() <= Config.kinds().keys()


# -- an output, with a format


def test_a_made_up_output_is_configured_as_others_are(made_up: None, tmp_path: Path) -> None:
    config = configured(TEXT, tmp_path)
    a, b = config.inbound["news"].output
    assert (a, b) == (
        MemoryOutput(name="a", format="pairs"),
        MemoryOutput(name="b", interface="eth9"),
    )
    assert configured(dump(config), tmp_path) == config
    assert [interface for interface, _ in config.inbound["news"].ways()] == [None, "eth9"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('{ kind = "memory", nam = "a" }', 'unknown key; did you mean "name"?'),
        ('{ kind = "memory", nam = "a" }', "output[0].name: missing; it is required"),
        (
            '{ kind = "memry" }',
            'must be "file", "fifo", "directory", "group", "udp", "unix", "tcp", "tcp-server",'
            ' "nats", "redis", "kafka" or "memory", not "memry"; did you mean "memory"?',
        ),
        (
            '{ kind = "memory", name = "a" }, { kind = "memory", name = "a", format = "pairs" }',
            'output[1]: "memory a" is already an output of inbound/news',
        ),
        (
            '{ kind = "memory", name = "a", when_full = "block" }',
            'it belongs into the table of an output of kind = "fifo"',
        ),
        ('{ kind = "fifo", path = "/p", name = "a" }', 'the table of an output of kind = "memory"'),
    ],
)
def test_what_is_wrong_with_a_made_up_output_is_said_as_of_others(
    made_up: None, tmp_path: Path, table: str, words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(TEXT[: TEXT.index("output")] + f"output = [{table}]", tmp_path)
    assert words in str(refused.value)


@pytest.fixture
def house(made_up: None) -> Iterator[tuple[Supervisor, list[FakeReceiver]]]:
    links: list[FakeReceiver] = []

    def open_receiver(*_: object) -> FakeReceiver:
        links.append(FakeReceiver())
        return links[-1]

    supervisor = Supervisor(lambda name, settings: build(name, settings, Parts(open_receiver=open_receiver)))
    yield supervisor, links
    supervisor.stop_all(10)


def test_a_made_up_output_runs_is_reloaded_and_seen(
    house: tuple[Supervisor, list[FakeReceiver]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, links = house
    before = configured(TEXT, tmp_path)
    supervisor.apply(diff(Config(), before), before.workers(), 10)
    wait_for(lambda: supervisor.view("inbound/news").state == "active")
    ((_, thread),) = supervisor._roll()
    worker = thread.worker
    assert isinstance(worker, Subscription)
    a, b = worker.sinks
    assert isinstance(a, MemorySink)
    assert isinstance(b, MemorySink)
    links[0].deliver(b"1", b"2", b"3")
    wait_for(lambda: a.counters.written == b.counters.written == 3)
    assert b.kept == b"123"
    assert a.kept.startswith(Pairs.HEAD)
    assert a.kept.translate(None, b"+\n") == b"PAIRS123"
    supervisor.network_changed(lambda interface: (lambda group: True) if interface == "eth9" else None)
    wait_for(lambda: a.changes == b.changes == 1)

    text = TEXT.replace(', interface = "eth9"', "").replace(
        '    { kind = "memory", name = "a", format = "pairs" },\n', ""
    )
    after = configured(text, tmp_path)
    supervisor.apply(diff(before, after), after.workers(), 10)
    wait_for(lambda: len(worker.sinks) == 1)
    (again,) = worker.sinks
    links[0].deliver(b"4")
    wait_for(lambda: again.counters.written == 4)  # of its label: the counters go on
    (status,) = supervisor.view("inbound/news").status.outputs
    assert (status.kind, status.format, status.path) == ("memory", "raw", "memory b")
    assert status.counters.written == 4

    samples = b"".join(Exposition().render(supervisor.books())).decode()
    labels = 'worker="inbound/news",group="239.255.1.2",interface="fake0",output="memory b"'
    assert f"mcastd_written_datagrams_total{{{labels}}} 4\n" in samples
    assert f'mcastd_dropped_datagrams_total{{{labels},reason="closed"}} 0\n' in samples

    def check(looked: doctor.Looked) -> Iterator[Finding]:
        yield Finding("memory-low", Severity.HINT, f"{looked.output.label} grows", (looked.said,), "wait")

    monkeypatch.setitem(doctor.CHECKS, MemoryOutput, check)
    subject: Subject[Any] = Subject.of(supervisor.view("inbound/news"), after.inbound["news"])
    found = list(doctor.outputs(subject, Evidence((subject,), None)))
    assert [one.what for one in found if isinstance(one, Finding)] == ["memory b grows"]


# -- what all kinds hold


def test_a_kind_cannot_be_made_without_what_it_must_have() -> None:
    class Nameless(OutputSettings):
        kind: Literal["nameless"] = "nameless"
        format: str = "raw"

    class Deaf(Sink):
        pass

    class Dry(Source):
        pass

    for make, forgotten in ((Nameless, "label"), (lambda: Deaf(None), "write"), (Dry, "read")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=rf"abstract.*\b{forgotten}\b"):
            make()


EACH: dict[str, dict[str, object]] = {
    "file": {"path": "out"},
    "fifo": {"path": "out"},
    "directory": {"path": "out"},
    "group": {"group": "239.255.9.9", "port": 9, "interface": "lo"},
    "udp": {"to": "127.0.0.1:9"},
    "unix": {"path": "out"},
    "tcp": {"to": "127.0.0.1:9"},
    "tcp-server": {"listen": "127.0.0.1:9009"},
    "nats": {"servers": "nats://127.0.0.1:9", "stream": "TV"},
    "redis": {"servers": "redis://127.0.0.1:9"},
    "kafka": {"servers": "kafka://127.0.0.1:9"},
    "memory": {"name": "a"},
}


@pytest.fixture(params=EACH)
def sink(request: pytest.FixtureRequest, made_up: None, tmp_path: Path, no_fd_leak: None) -> Iterator[Sink]:
    """One of each kind."""
    table = {"kind": request.param, **EACH[request.param]}
    if "path" in table:
        table["path"] = str(tmp_path / "out")
    protocol = "objects" if OUTPUTS.models[request.param].takes_objects else "raw"
    told = {"protocol": protocol, "output": table}
    (settings,) = InboundSubscription(group="239.255.1.2", port=9190, **told).output
    sink = make_sink(settings, StreamFacts(lambda: "239.255.1.2", str), log.get_logger())
    yield sink
    sink.close(for_good=True)


def accounted(sink: Sink) -> int:
    counters = sink.counters
    return counters.written + counters.queued + counters.dropped.total()


def test_every_kind_is_tried() -> None:
    assert EACH.keys() - {"memory"} == OUTPUTS.models.keys()


def test_a_sink_accounts_for_each_datagram_whatever_is_asked_of_it(sink: Sink) -> None:
    batch: Batch = ListBatch([b"1", b"", b"3"], [ORIGIN] * 3, [1] * 3)
    if OUTPUTS.models[sink.status().kind].takes_objects:
        sent = SentObject(100)
        batch = SymbolBatch([Run(sent.description, 0, 0, sent.run(0, 0, 2))], descriptive=1)
    sink.write(batch)  # also before it is opened
    assert accounted(sink) == 3
    sink.open()
    sink.open()
    for act in (
        lambda: sink.write(type(batch)(())),  # type: ignore[call-arg] # each that is used here takes them
        sink.flush,
        lambda: sink.tick(sink.deadline),
        sink.network_changed,
        sink.reopen,
        lambda: sink.write(batch),
    ):
        before = accounted(sink)
        act()
        assert accounted(sink) - before in (0, 3)
    assert accounted(sink) == 6
    assert set(sink.counters.dropped) <= set(sink.reasons)
    assert not sink.blocked
    assert not sink.may_block, "they drop, as is the default"
    assert sink.pending is None or sink.may_queue
    assert sink.counters.queued == 0 or sink.may_queue
    status = sink.status()
    assert status.counters == sink.counters
    assert status.kind in EACH
    assert (status.error is None) or status.reason in sink.reasons
    sink.close()
    assert sink.counters.queued == 0
    assert accounted(sink) == 6
    sink.open()  # its subscription may run again
    sink.write(batch)
    assert accounted(sink) == 9


def test_the_settings_of_each_kind_say_what_the_house_asks_of_them(sink: Sink) -> None:
    kind = sink.status().kind
    table = {"kind": kind, **EACH[kind]}
    if "path" in table:
        table["path"] = "/tmp/out"
    settings = OUTPUTS.parse(table)
    assert isinstance(settings, OutputSettings)
    assert settings.label
    assert settings.label == OUTPUTS.parse(settings.model_dump(mode="json", exclude_none=True)).label
    assert len(settings.named) == 1
    assert all(os.path.isabs(one.path) and one.key in table for one in settings.paths())
    assert list(settings.advice()) == []
    assert settings.format in FORMATS
    assert FileOutput(path="/tmp/%Y").named == {"path": "/tmp/%Y"}
