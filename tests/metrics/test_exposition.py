"""What a scrape says of workers: every count, with bounded labels, and no fault that promtool finds."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pytest
from metrics.conftest import House, parse, values
from support.ports import free_port
from support.wait import wait_for

from mcastd import clock
from mcastd.amt_relay.fan_out import DROP_REASONS, MISS_REASONS
from mcastd.amt_relay.gateways import IGNORED_REASONS
from mcastd.bridge.relay import REASONS as RELAY_REASONS
from mcastd.bridge.rules import REASONS as BRIDGE_REASONS
from mcastd.counters import (
    AmtRelayCounters,
    BridgeCounters,
    DiscoveryCounters,
    GatewayCounters,
    InboundCounters,
    LinkCounters,
    OutboundCounters,
    SequenceCounters,
    TransportCounters,
)
from mcastd.delivery.keys import make_group_key
from mcastd.discovery.sessions import REASONS
from mcastd.gateway.player import REASONS as ANSWER_REASONS
from mcastd.gateway.players import ENDINGS, REFUSALS
from mcastd.link import reasons as of_links
from mcastd.metrics import exposition
from mcastd.metrics.exposition import PART_WORKERS, Exposition, Row
from mcastd.metrics.families import families
from mcastd.metrics.family import Family
from mcastd.metrics.scraped import Metrics
from mcastd.net.link import Origin
from mcastd.status import NO_MANIFEST, AnnouncementStatus, EngineStatus, FilesStatus, KeptStatus, TreeStatus
from mcastd.worker import (
    GatewayBooks,
    LegBooks,
    LinkBooks,
    OutputIdentity,
    ReceptionBooks,
    SentLegBooks,
    TransportBooks,
)

MakeHouse = Callable[..., House]
MANIFEST = replace(NO_MANIFEST, files=115, issued=116, expires=117)
ANNOUNCEMENT = AnnouncementStatus(
    group="239.255.255.255", interval=30.0, sent=118, failed=119, error=None, file_error=None
)
KEPT = KeptStatus(
    datagrams=234,
    memory_bytes=231,
    captures=232,
    failed=233,
    last_capture=None,
    last_capture_age=None,
    last_reasons=(),
    error=None,
)
FILES = FilesStatus(
    files=111,
    total_bytes=112,
    refused={"link": 113},
    refusals=(),
    given_up=0,
    pass_number=114,
    pass_percent=37.5,
    repair_percent=0.0,
    manifest=MANIFEST,
)
# Outputs that exchange whole trees need keys.
PROTOCOL = {"kind": "flute", "keys": ["/etc/mcastd/key"]}
GROUP = {"group": "239.255.1.2", "port": 9190}


def rendered(exposition: Exposition, rows: list[Row]) -> str:
    return b"".join(exposition.render(rows)).decode()


def directory(name: str) -> dict[str, str]:
    """An output that takes files."""
    return {"kind": "directory", "path": f"/srv/{name}", "atomic": "tree", "notify": f"/run/{name}"}


def engine_status(waiting: int, spool_bytes: int, duplicates: int) -> EngineStatus:
    return EngineStatus(
        server="redis://a",
        waiting=waiting,
        in_flight=0,
        spool="/spool",
        spool_bytes=spool_bytes,
        taken_up=0,
        duplicates=duplicates,
    )


def test_a_subscription_and_its_outputs(house: MakeHouse, tmp_path: Path) -> None:
    file, pipe = str(tmp_path / "a.log"), str(tmp_path / "a.pipe")
    output = [file, {"kind": "fifo", "path": pipe}]
    a = house(inbound={"a": {**GROUP, "interface": "eth9", "output": output, "receive_buffer": "8MiB"}})
    link = a.receivers["a"]
    before = clock.wall()
    link.deliver(b"one", b"three")
    link.dropped_by_kernel = 7
    written = "mcastd_written_datagrams_total", _labels("a", output=file)
    left_out = "mcastd_dropped_datagrams_total", _labels("a", output=pipe, reason="no-reader")

    def are_counted() -> bool:  # by one output after the other
        samples = parse(rendered(Exposition(), a.rows()))
        return samples.get(written) == samples.get(left_out) == 2

    wait_for(are_counted, "both datagrams in both outputs")
    samples = parse(rendered(Exposition(), a.rows()))
    labels = _labels("a")
    for name, value in {
        "mcastd_worker_restarts_total": 0,
        "mcastd_received_datagrams_total": 2,
        "mcastd_received_bytes_total": 8,
        "mcastd_truncated_datagrams_total": 0,
        "mcastd_overflow_datagrams_total": 7,
        "mcastd_subscription_stale": 0,
        "mcastd_memberships": 1,
        "mcastd_memberships_wanted": 1,
        "mcastd_receive_buffer_asked_bytes": 8 << 20,
        "mcastd_receive_buffer_bytes": 4 << 20,
    }.items():
        assert samples[name, labels] == value, name
    assert samples["mcastd_worker_state", _labels("a", state="active")] == 1
    assert samples["mcastd_worker_info", _labels("a", kind="inbound", port="9190")] == 1
    assert before - 0.01 <= samples["mcastd_last_datagram_timestamp_seconds", labels] <= clock.wall() + 0.01
    assert samples["mcastd_written_bytes_total", _labels("a", output=file)] == 8
    assert samples["mcastd_written_datagrams_total", _labels("a", output=pipe)] == 0
    assert samples["mcastd_queued_datagrams", _labels("a", output=pipe)] == 0
    dropped = {
        dict(of)["reason"]: value
        for (name, of), value in samples.items()
        if name == "mcastd_dropped_datagrams_total" and dict(of)["output"] == pipe
    }
    assert dropped.pop("no-reader") == 2
    assert {"full", "reader-gone", "no-space"} < dropped.keys(), (
        "each from the start, or rate() misses the first"
    )
    assert set(dropped.values()) == {0}


def _labels(name: str, interface: str = "fake0", **more: str) -> tuple[tuple[str, str], ...]:
    base = {"worker": f"inbound/{name}", "group": GROUP["group"], "interface": interface}
    return tuple(sorted({**base, **more}.items()))


def test_a_channel(house: MakeHouse, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("a\nbb\n" + "c" * 40 + "\n")
    a = house(outbound={"a": {**GROUP, "source": source, "interval": 0, "max_datagram": 30}})
    wait_for(lambda: a.rows()[0][0].state == "finished")
    counters = a.workers["outbound/a"].counters
    counters.refused["ENOBUFS"] = 2
    counters.refused["EIO"] = 1
    counters.dropped["too-big"] = 3
    counters.dropped["no-carrier"] = 5
    samples = parse(rendered(Exposition(), a.rows()))
    for name, value in {
        "mcastd_sent_datagrams_total": 4,
        "mcastd_sent_bytes_total": sum(map(len, a.senders["a"].sent)),
        "mcastd_late_datagrams_total": counters.late,
        "mcastd_split_lines_total": 1,
        "mcastd_source_rounds_total": 1,
        "mcastd_pending_datagrams": 0,
    }.items():
        assert values(samples, name) == {"outbound/a": value}, name
    dropped = values(samples, "mcastd_dropped_datagrams_total", "reason")
    assert dropped == {"too-big": 3, "no-carrier": 5}
    refused = values(samples, "mcastd_refused_sends_total", "errno")
    assert refused == {"EAGAIN": 0, "EMSGSIZE": 0, "ENETUNREACH": 0, "ENOBUFS": 2, "EPERM": 0, "EIO": 1}
    assert values(samples, "mcastd_worker_state", "state") == {"finished": 1}
    assert values(samples, "mcastd_worker_info", "interface") == {"fake0": 1}
    assert samples.keys().isdisjoint(parse(rendered(Exposition(), [])))


def test_each_value_is_under_its_own_name(tmp_path: Path) -> None:
    """Every value differs from every other: two that were swapped show."""
    a = House(
        {
            "outbound": {"a": {**GROUP, "source": "/s"}},
            "inbound": {"a": {**GROUP, "protocol": PROTOCOL, "output": [*map(directory, "xy")]}},
        }
    )
    monotonic = clock.monotonic()
    (head, into), (out_head, out) = sorted(a.rows())
    sent = OutboundCounters(sent=102, sent_bytes=103, late=104, lines_split=105, rounds=106)
    sent.skipped_bytes = 118
    sent.refused["ENOBUFS"], sent.dropped["too-big"] = 107, 110
    outputs: list[OutputIdentity] = []
    for base, output in zip((300, 400), into.identity.outputs, strict=True):
        of = output.counters
        of.written, of.written_bytes, of.queued = base + 1, base + 2, base + 3
        of.dropped["no-space"] = base + 4
        assert output.objects is not None
        symbols, states = output.objects.symbols, cast(dict[str, int], output.objects.states)
        symbols.source, symbols.restored = base + 5, base + 6
        symbols.repaired_blocks, symbols.wrong_blocks = base + 7, base + 8
        states["landed"] = base + 9
        notices = output.objects.notices
        assert notices is not None
        notices.counters.written, notices.counters.dropped["full"] = base + 10, base + 11
        tree = TreeStatus(switched=False, missing=base + 12, switches=base + 13)
        identity = output._replace(
            objects=output.objects._replace(tree=lambda tree=tree: tree),
            engine=lambda base=base: engine_status(base + 14, base + 15, base + 16),
        )
        outputs.append(identity)
    rows = [
        (
            out_head._replace(restarts=101, state="failed"),
            out._replace(counters=sent, pending=108, last_datagram=monotonic - 109, files=FILES)._replace(
                announcement=ANNOUNCEMENT,
                sent_legs=[SentLegBooks(120, 121, works=True)],
                reception=ReceptionBooks(122, 123, 124),
            ),
        ),
        (
            head._replace(restarts=201, state="active"),
            into._replace(
                identity=into.identity._replace(outputs=tuple(outputs)),
                counters=InboundCounters(received=202, received_bytes=203, truncated=204),
                overflow=205,
                stale=True,
                memberships=206,
                memberships_wanted=207,
                receive_buffer=208,
                last_datagram=monotonic - 209,
                receive_buffer_asked=210,
                manifest=replace(NO_MANIFEST, files=211, issued=212, expires=213),
                refused_manifests={"signature": 214},
                sequence=SequenceCounters(lost=215, duplicated=216, reordered=217, restarts=218),
                jitter=219.5,
                legs=(LegBooks(received=220, first=221, lost=222, skew=223.5, silent=True),),
                legs_share=True,
                repaired=224,
                ts=TransportBooks(
                    TransportCounters(225, 226, Counter(PAT_error=227)), 8 * 228.4, 229.5, 230.5
                ),
                kept=KEPT,
            ),
        ),
    ]
    samples = parse(rendered(Exposition(), rows))
    now = clock.wall() - clock.monotonic() + monotonic
    found = {
        (name.removeprefix("mcastd_"), dict(labels)["worker"], dict(labels).get("output", "")[-1:]): value
        for (name, labels), value in samples.items()
        if value or name.endswith("stale")
    }
    channel, subscription = ("outbound/a", ""), ("inbound/a", "")
    times = {key: found.pop(("last_datagram_timestamp_seconds", *key)) for key in (channel, subscription)}
    assert abs(times[channel] - (now - 109)) < 1
    assert abs(times[subscription] - (now - 209)) < 1
    assert found == {
        ("worker_info", *channel): 1,
        ("worker_state", *channel): 1,
        ("worker_restarts_total", *channel): 101,
        ("sent_datagrams_total", *channel): 102,
        ("sent_bytes_total", *channel): 103,
        ("late_datagrams_total", *channel): 104,
        ("split_lines_total", *channel): 105,
        ("skipped_bytes_total", *channel): 118,
        ("source_rounds_total", *channel): 106,
        ("refused_sends_total", *channel): 107,
        ("pending_datagrams", *channel): 108,
        ("dropped_datagrams_total", *channel): 110,
        ("source_files", *channel): 111,
        ("source_bytes", *channel): 112,
        ("unsent_files", *channel): 113,
        ("pass_number", *channel): 114,
        ("pass_ratio", *channel): 0.375,
        ("manifest_files", *channel): 115,
        ("manifest_issued_timestamp_seconds", *channel): 116,
        ("manifest_expires_timestamp_seconds", *channel): 117,
        ("announcements_total", *channel): 118,
        ("failed_announcements_total", *channel): 119,
        ("leg_sent_datagrams_total", *channel): 120,
        ("leg_dropped_datagrams_total", *channel): 121,
        ("leg_works", *channel): 1,
        ("received_datagrams_total", *channel): 122,
        ("received_bytes_total", *channel): 123,
        ("overflow_datagrams_total", *channel): 124,
        ("worker_info", *subscription): 1,
        ("worker_state", *subscription): 1,
        ("worker_restarts_total", *subscription): 201,
        ("received_datagrams_total", *subscription): 202,
        ("received_bytes_total", *subscription): 203,
        ("truncated_datagrams_total", *subscription): 204,
        ("overflow_datagrams_total", *subscription): 205,
        ("subscription_stale", *subscription): 1,
        ("memberships", *subscription): 206,
        ("memberships_wanted", *subscription): 207,
        ("receive_buffer_bytes", *subscription): 208,
        ("receive_buffer_asked_bytes", *subscription): 210,
        ("manifest_files", *subscription): 211,
        ("manifest_issued_timestamp_seconds", *subscription): 212,
        ("manifest_expires_timestamp_seconds", *subscription): 213,
        ("refused_manifests_total", *subscription): 214,
        ("lost_numbers_total", *subscription): 215,
        ("duplicated_datagrams_total", *subscription): 216,
        ("reordered_datagrams_total", *subscription): 217,
        ("sequence_restarts_total", *subscription): 218,
        ("jitter_seconds", *subscription): 219.5,
        ("leg_datagrams_total", *subscription): 220,
        ("leg_first_datagrams_total", *subscription): 221,
        ("leg_lost_numbers_total", *subscription): 222,
        ("leg_skew_seconds", *subscription): 223.5,
        ("leg_silent", *subscription): 1,
        ("legs_unprotected", *subscription): 1,
        ("repaired_datagrams_total", *subscription): 224,
        ("ts_packets_total", *subscription): 225,
        ("ts_lost_packets_total", *subscription): 226,
        ("ts_errors_total", *subscription): 227,
        ("ts_bytes_per_second", *subscription): 228,
        ("ts_clock_jitter_seconds", *subscription): 229.5,
        ("mdi_delay_factor_seconds", *subscription): 230.5,
        ("kept_bytes", *subscription): 231,
        ("captures_total", *subscription): 232,
        ("failed_captures_total", *subscription): 233,
        **{
            (name, "inbound/a", output): base + number
            for output, base in (("x", 300), ("y", 400))
            for number, name in enumerate(
                (
                    "written_datagrams_total",
                    "written_bytes_total",
                    "queued_datagrams",
                    "dropped_datagrams_total",
                    "received_symbols_total",
                    "restored_symbols_total",
                    "repaired_blocks_total",
                    "wrong_blocks_total",
                    "files",
                    "written_notices_total",
                    "dropped_notices_total",
                    "tree_missing_files",
                    "switched_trees_total",
                    "engine_waiting_datagrams",
                    "engine_spool_bytes",
                    "engine_duplicates_total",
                ),
                start=1,
            )
        },
        **{("engine_connected", "inbound/a", output): 1 for output in "xy"},
    }
    assert values(samples, "mcastd_worker_state", "state").keys() == {"failed", "active"}
    assert values(samples, "mcastd_refused_sends_total", "errno")["ENOBUFS"] == 107
    assert values(samples, "mcastd_dropped_datagrams_total", "reason").keys() >= {"too-big", "no-space"}


def test_a_part_that_most_workers_lack_is_shown_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every family were asked for its value, whichever part a worker has, and others lack."""
    a = House(
        {"outbound": {"a": {**GROUP, "source": "/s"}}, "inbound": {"a": {**GROUP, "output": ["/x", "/y"]}}}
    )
    (head, into), (out_head, out) = sorted(a.rows())
    takes_files = House({"inbound": {"a": {**GROUP, "protocol": PROTOCOL, "output": [directory("x")]}}})
    objects = takes_files.rows()[0][1].identity.outputs[0].objects
    x, y = into.identity.outputs
    parts: list[tuple[Row, Row]] = [
        ((head, into._replace(**{name: value})), (out_head, out))
        for name, value in {
            "manifest": MANIFEST,
            "refused_manifests": {"signature": 1},
            "sequence": SequenceCounters(),
            "legs": (LegBooks(received=2, first=3, lost=4, skew=5.5, silent=True),),
            "ts": TransportBooks(TransportCounters(6, 7, Counter(PAT_error=8)), 9.0, 10.0, 11.0),
            "kept": KEPT,
        }.items()
    ]
    parts += [
        ((head, into), (out_head, out._replace(**{name: value})))
        for name, value in {
            "files": FILES,
            "announcement": ANNOUNCEMENT,
            "sent_legs": [SentLegBooks(12, 13, works=True)],
            "reception": ReceptionBooks(14, 15, 16),
        }.items()
    ]
    parts += [
        ((head, into._replace(identity=into.identity._replace(outputs=(x, other)))), (out_head, out))
        for other in (y._replace(objects=objects), y._replace(engine=lambda: engine_status(17, 18, 19)))
    ]
    shown = [rendered(Exposition(), [*rows]) for rows in parts]
    ungated = {kind: tuple(map(_without_part, of)) for kind, of in exposition.OF_KIND.items()}
    monkeypatch.setattr(exposition, "OF_KIND", ungated)
    monkeypatch.setattr(exposition, "OUTPUT", tuple(map(_without_part, exposition.OUTPUT)))
    assert shown == [rendered(Exposition(), [*rows]) for rows in parts]
    assert len({*shown, rendered(Exposition(), [(head, into), (out_head, out)])}) == len(parts) + 1


def _without_part(family: Family[Any]) -> Family[Any]:
    return family if family.part is None else family._replace(part=None)


def test_the_interface_is_the_one_it_is_on_or_was_on_or_is_to_be_on(house: MakeHouse, tmp_path: Path) -> None:
    def interface(setting: dict[str, str], *, joined: bool) -> str:
        a = House({"inbound": {"a": {**GROUP, **setting, "output": str(tmp_path / "x")}}})
        if joined:
            a.workers["inbound/a"]._turns.link = a.receivers["a"]
        exposition = Exposition()
        found = values(parse(rendered(exposition, a.rows())), "mcastd_memberships", "interface")
        a.workers["inbound/a"]._turns.link = None  # what a run that ends leaves
        assert (
            values(parse(rendered(exposition, a.rows())), "mcastd_memberships", "interface").keys()
            == found.keys()
        )
        (name,) = found
        return name

    assert interface({"interface": "eth9"}, joined=False) == "eth9"
    assert interface({"interface": "192.0.2.7"}, joined=False) == ""
    assert interface({}, joined=False) == ""
    assert interface({}, joined=True) == "fake0"
    assert interface({"interface": "192.0.2.7"}, joined=True) == "fake0"
    assert interface({"interface": "all"}, joined=True) == "all", "interfaces that come and go make no series"


def test_an_interface_whose_name_is_no_text_spoils_no_scrape(house: MakeHouse, tmp_path: Path) -> None:
    a = house(outbound={"a": {**GROUP, "source": "/dev/null"}})
    rows = [
        (
            headline,
            books._replace(identity=books.identity._replace(interface='v\udcff"\\x\x1b[31m\x9b\u202e')),
        )
        for headline, books in a.rows()
    ]
    text = rendered(Exposition(), rows)
    assert all(map(str.isprintable, text.split("\n")))
    shown = 'v\\udcff"\\x\\x1b[31m\\x9b\\u202e'
    assert values(parse(text), "mcastd_worker_info", "interface") == {shown: 1}


def test_nothing_that_comes_from_the_network_makes_a_series(house: MakeHouse, tmp_path: Path) -> None:
    a = house(inbound={"a": {**GROUP, "output": str(tmp_path / "a.log")}})
    link, exposition = a.receivers["a"], Exposition()
    link.deliver(b"x")
    wait_for(
        lambda: (
            values(parse(rendered(exposition, a.rows())), "mcastd_written_datagrams_total")["inbound/a"] == 1
        )
    )
    before = parse(rendered(exposition, a.rows()))
    for number in range(500):
        link.deliver(b"x%d" % number, origin=Origin(f"10.0.{number // 250}.{number % 250}", number, 1, 1))
    wait_for(
        lambda: (
            values(parse(rendered(exposition, a.rows())), "mcastd_written_datagrams_total")["inbound/a"]
            == 501
        )
    )
    after = parse(rendered(exposition, a.rows()))
    assert after.keys() == before.keys()


def test_names_and_paths_are_escaped(house: MakeHouse, tmp_path: Path) -> None:
    path = str(tmp_path / '100 %s%% a "b"\\n\nc')
    a = house(inbound={"a": {**GROUP, "output": path}})
    assert set(values(parse(rendered(Exposition(), a.rows())), "mcastd_written_bytes_total", "output")) == {
        path
    }


def test_names_are_remade_when_a_worker_is_another(tmp_path: Path) -> None:
    exposition = Exposition()
    for path, group in (("/a", "239.1.1.1"), ("/b", "239.1.1.1"), ("/b", "239.1.1.2")):
        a = House({"inbound": {"a": {"group": group, "port": 9, "output": path}}})
        samples = parse(rendered(exposition, a.rows()))
        assert set(values(samples, "mcastd_written_bytes_total", "output")) == {path}
        assert set(values(samples, "mcastd_received_bytes_total", "group")) == {group}
    assert parse(rendered(exposition, [])) == {}


def test_hundreds_are_one_group_of_lines_for_each_name(tmp_path: Path) -> None:
    several = range(2 * PART_WORKERS + 3)
    a = House(
        {
            "inbound": {f"i{n}": {**GROUP, "output": [f"/{n}a", f"/{n}b"]} for n in several},
            "outbound": {f"o{n}": {**GROUP, "source": "/s"} for n in several},
        }
    )
    exposition = Exposition()
    for changed in (several[0], several[-1]):
        a.workers[f"inbound/i{changed}"].counters.received = 5
        a.workers[f"outbound/o{changed}"].counters.sent = 6
    text = rendered(exposition, a.rows())
    names = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(list(groupby(names))) == len(set(names))
    samples = parse(text)
    assert len(samples) == len(names), "none twice"
    received = values(samples, "mcastd_received_datagrams_total")
    assert sorted(received) == sorted(f"inbound/i{n}" for n in several)
    assert {name for name, value in received.items() if value == 5} == {
        "inbound/i0",
        f"inbound/i{2 * PART_WORKERS + 2}",
    }
    sent = values(samples, "mcastd_sent_datagrams_total")
    assert {name for name, value in sent.items() if value == 6} == {
        "outbound/o0",
        f"outbound/o{2 * PART_WORKERS + 2}",
    }
    assert len(values(samples, "mcastd_written_bytes_total", "output")) == 2 * len(several)


def test_a_worker_made_anew_counts_from_the_start(tmp_path: Path) -> None:
    """After a reload, say: its names are the same, its counters are others."""
    exposition = Exposition()
    for written in (0, 7, 0, 3):
        a = House({"inbound": {"a": {**GROUP, "output": "/a"}}})
        samples = parse(rendered(exposition, a.rows()))
        assert values(samples, "mcastd_written_datagrams_total") == {"inbound/a": 0}
        a.workers["inbound/a"].sinks[0].counters.written = written
        a.workers["inbound/a"].counters.received = written
        samples = parse(rendered(exposition, a.rows()))
        assert values(samples, "mcastd_written_datagrams_total") == {"inbound/a": written}
        assert values(samples, "mcastd_received_datagrams_total") == {"inbound/a": written}


def test_symbols_and_files_are_told_apart_by_what_became_of_them() -> None:
    """From the start, and of outputs that take files alone."""
    a = House(
        {
            "inbound": {
                "a": {**GROUP, "protocol": PROTOCOL, "output": [directory("x")]},
                "b": {**GROUP, "output": "/y"},
            },
            "outbound": {"a": {**GROUP, "source": "/s"}},
        }
    )
    samples = parse(rendered(Exposition(), a.rows()))
    states = {"waiting", "receiving", "complete", "verified", "landed", "refused", "expired"}
    assert values(samples, "mcastd_files", "state") == dict.fromkeys(states, 0)
    uses = {"source": 1, "repair": 2, "duplicate": 3, "surplus": 4}
    objects = a.workers["inbound/a"].books().identity.outputs[0].objects
    assert objects is not None
    for use, number in uses.items():
        setattr(objects.symbols, use, number)
    samples = parse(rendered(Exposition(), a.rows()))
    assert values(samples, "mcastd_received_symbols_total", "use") == uses
    assert values(samples, "mcastd_received_symbols_total") == {"inbound/a": 4}  # the last of its samples
    for name in ("restored_symbols_total", "repaired_blocks_total", "wrong_blocks_total"):
        assert values(samples, f"mcastd_{name}") == {"inbound/a": 0}
    for name in (
        "source_files",
        "source_bytes",
        "pass_number",
        "pass_ratio",
        "unsent_files",
        "announcements_total",
    ):
        assert values(samples, f"mcastd_{name}") == {}


def test_what_a_worker_counts_that_hears_announcements(house: MakeHouse) -> None:
    a = house(discover={"a": {"groups": [GROUP["group"]], "interface": "eth0"}})
    worker = a.workers["discover/a"]
    counters = worker.counters
    assert isinstance(counters, DiscoveryCounters)
    counters.received, counters.received_bytes = 301, 302
    counters.dropped["encrypted"], counters.ended["evicted"] = 303, 304
    ((headline, books),) = a.rows()
    samples = parse(rendered(Exposition(), [(headline, books._replace(overflow=305, sessions=306))]))
    for name, value in {
        "received_datagrams_total": 301,
        "received_bytes_total": 302,
        "overflow_datagrams_total": 305,
        "sessions": 306,
    }.items():
        assert values(samples, f"mcastd_{name}") == {"discover/a": value}, name
    dropped = values(samples, "mcastd_dropped_datagrams_total", "reason")
    assert dropped == dict.fromkeys(REASONS, 0) | {"encrypted": 303}
    ended = values(samples, "mcastd_ended_sessions_total", "reason")
    assert ended == {"deleted": 0, "expired": 0, "evicted": 304}


def test_what_a_bridge_counts(house: MakeHouse) -> None:
    a = house(bridge={"a": {"from": "eth1", "to": "eth2", "groups": ["239.255.0.0/16"]}})
    counters = a.workers["bridge/a"].counters
    assert isinstance(counters, BridgeCounters)
    counters.received, counters.received_bytes = 401, 402
    counters.forwarded, counters.forwarded_bytes = 403, 404
    counters.dropped["unwanted"], counters.missed["eth2"] = 405, 408
    counters.missed["eth3"] = 9
    ((headline, books),) = a.rows()
    samples = parse(rendered(Exposition(), [(headline, books._replace(routes=406, overflow=407))]))
    for name, value in {
        "bridged_datagrams_total": 401,
        "bridged_bytes_total": 402,
        "forwarded_datagrams_total": 403,
        "forwarded_bytes_total": 404,
        "routes": 406,
        "missed_datagrams_total": 417,
        "overflow_datagrams_total": 407,
    }.items():
        assert values(samples, f"mcastd_{name}") == {"bridge/a": value}, name
    dropped = values(samples, "mcastd_dropped_datagrams_total", "reason")
    assert dropped == dict.fromkeys((*BRIDGE_REASONS, *RELAY_REASONS), 0) | {"unwanted": 405}


def test_what_an_amt_relay_counts() -> None:
    a = House({"amt_relay": {"a": {"listen": "192.0.2.1"}}})
    counters = a.workers["amt_relay/a"].counters
    assert isinstance(counters, AmtRelayCounters)
    counters.received, counters.received_bytes, counters.forwarded = 501, 502, 511
    counters.sent, counters.sent_bytes, counters.cut = 503, 504, 505
    counters.senders_told = 513
    counters.dropped["ttl"], counters.missed["full"], counters.ignored["stranger"] = 506, 507, 508
    ((headline, books),) = a.rows()
    books = books._replace(tunnels=509, memberships=510, overflow=512)
    samples = parse(rendered(Exposition(), [(headline, books)]))
    for name, value in {
        "received_datagrams_total": 501,
        "received_bytes_total": 502,
        "relayed_datagrams_total": 503,
        "relayed_bytes_total": 504,
        "cut_datagrams_total": 505,
        "senders_told_total": 513,
        "tunnels": 509,
        "relayed_groups": 510,
        "overflow_datagrams_total": 512,
    }.items():
        assert values(samples, f"mcastd_{name}") == {"amt_relay/a": value}, name
    for name, known, reason, count in (
        ("dropped_datagrams", DROP_REASONS, "ttl", 506),
        ("unrelayed_datagrams", MISS_REASONS, "full", 507),
        ("ignored_messages", IGNORED_REASONS, "stranger", 508),
    ):
        found = values(samples, f"mcastd_{name}_total", "reason")
        assert found == dict.fromkeys(known, 0) | {reason: count}, name


def test_what_a_gateway_counts() -> None:
    a = House({"gateway": {"a": {"listen": "192.0.2.1:4022", "allow_groups": ["239.0.0.0/8"]}}})
    counters = a.workers["gateway/a"].counters
    assert isinstance(counters, GatewayCounters)
    counters.received, counters.received_bytes, counters.requests = 601, 602, 603
    counters.sent, counters.sent_bytes = 604, 605
    counters.dropped["slow"], counters.refused["full"], counters.ended["stalled"] = 606, 607, 608
    counters.answered["504"] = 609
    ((headline, books),) = a.rows()
    assert books.gateway == GatewayBooks(0, 0, 0)
    books = books._replace(gateway=GatewayBooks(players=610, groups=611, lingering=612), overflow=613)
    samples = parse(rendered(Exposition(), [(headline, books)]))
    for name, value in {
        "received_datagrams_total": 601,
        "received_bytes_total": 602,
        "played_datagrams_total": 604,
        "played_bytes_total": 605,
        "players": 610,
        "played_groups": 611,
        "lingering_groups": 612,
        "overflow_datagrams_total": 613,
    }.items():
        assert values(samples, f"mcastd_{name}") == {"gateway/a": value}, name
    for name, label, known, reason, count in (
        ("dropped_datagrams", "reason", ("slow", "not-rtp"), "slow", 606),
        ("refused_players", "reason", REFUSALS, "full", 607),
        ("ended_players", "reason", ENDINGS, "stalled", 608),
        ("http_answers", "status", map(str, ANSWER_REASONS), "504", 609),
    ):
        found = values(samples, f"mcastd_{name}_total", label)
        assert found == dict.fromkeys(known, 0) | {reason: count}, name


def test_what_a_link_counts() -> None:
    a = House(
        {"link": {"a": {"connect": "192.0.2.1", "key": "/k", "send": ["239.0.0.0/8"], "transit": True}}}
    )
    counters = a.workers["link/a"].counters
    assert isinstance(counters, LinkCounters)
    numbers = {
        "sent": "link_sent_datagrams_total",
        "sent_bytes": "link_sent_bytes_total",
        "resent": "link_resent_records_total",
        "withheld": "link_withheld_records_total",
        "received": "received_datagrams_total",
        "received_bytes": "received_bytes_total",
        "forwarded": "link_forwarded_datagrams_total",
        "records": "link_records_total",
        "lost": "link_lost_records_total",
        "late": "link_late_records_total",
        "repaired": "link_repaired_records_total",
        "handshakes": "link_handshakes_total",
        "roamed": "link_roamed_total",
    }
    for value, name in enumerate(numbers, 601):
        setattr(counters, name, value)
    counters.dropped["other-link"], counters.unsent["rate"], counters.missed["full"] = 621, 622, 623
    counters.ignored["wrong-key"], counters.refused["EAGAIN"] = 624, 625
    ((headline, books),) = a.rows()
    assert books.link == LinkBooks(False, None, None, None, {})
    link = LinkBooks(True, 0.25, -3.5, 1472, {"gone-round": 626})
    samples = parse(rendered(Exposition(), [(headline, books._replace(link=link, overflow=627))]))
    expected: dict[str, float] = {metric: value for value, metric in enumerate(numbers.values(), 601)}
    expected |= {"link_up": 1, "link_round_trip_seconds": 0.25, "link_clock_offset_seconds": -3.5}
    expected |= {"link_message_bytes": 1472, "overflow_datagrams_total": 627}
    for metric, value in expected.items():
        assert values(samples, f"mcastd_{metric}") == {"link/a": value}, metric
    for metric, label, known, reason, count in (
        ("dropped_datagrams", "reason", of_links.DROP_REASONS, "other-link", 621),
        ("link_unsent_datagrams", "reason", of_links.UNSENT_REASONS, "rate", 622),
        ("link_missed_datagrams", "reason", of_links.MISS_REASONS, "full", 623),
        ("link_ignored_messages", "reason", of_links.IGNORED_REASONS, "wrong-key", 624),
        ("link_refused_messages", "errno", of_links.REFUSALS, "EAGAIN", 625),
        ("link_untaken_packets", "reason", of_links.UNTAKEN_REASONS, "gone-round", 626),
    ):
        found = values(samples, f"mcastd_{metric}_total", label)
        assert found == dict.fromkeys(known, 0) | {reason: count}, metric


def test_every_reason_is_known_from_the_start(tmp_path: Path) -> None:
    """By the sources: a reason that appears late is one whose first drop rate() does not see."""
    a = House({"inbound": {"a": {**GROUP, "output": ["/x/file", {"kind": "fifo", "path": "/x/pipe"}]}}})
    ((_, books),) = a.rows()
    file, pipe = (set(output.reasons) for output in books.identity.outputs)
    assert file - pipe == {"not-a-file", "rotation", "foreign-content"}
    assert pipe - file == {"not-a-fifo", "no-reader", "reader-gone", "full", "too-large", "stopped"}
    common = {"no-space", "file-too-large", "permission", "no-descriptors", "io-error", "unsafe-path", "loop"}
    common.add("crashed")
    assert file & pipe == common
    assert Counter(file) == Counter(books.identity.outputs[0].reasons)


def test_promtool_finds_no_fault(house: MakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setattr("mcastd.amt_relay.worker.check_privilege", lambda: None)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    make_group_key(tmp_path / "key")
    source = tmp_path / "source"
    source.write_text("a\n")
    files = tmp_path / "files"
    files.mkdir()
    (files / "whole").write_bytes(bytes(5000))
    (files / "elsewhere").symlink_to(source)
    received = {**directory("b"), "path": str(tmp_path / "received"), "notify": str(tmp_path / "landed")}
    slowly = {"rate": "1Mbit", "repeat": "forever"}
    sealed = {"kind": "flute", "protect": "0%", "key": str(tmp_path / "key"), "channel": "b"}
    a = house(
        outbound={
            "a": {**GROUP, "source": source, "copies": [{"group": "239.255.1.3"}]},
            "b": {**GROUP, "source": files, "protocol": sealed, "announce": True, **slowly},
        },
        discover={"a": {}},
        bridge={"a": {"from": "eth1", "to": "eth2", "groups": ["239.255.0.0/16"]}},
        amt_relay={"a": {"listen": "127.0.0.8"}},
        gateway={"a": {"listen": f"127.0.0.8:{free_port()}", "allow_groups": ["239.255.0.0/16"]}},
        link={
            "a": {
                "listen": "127.0.0.8",
                "key": str(tmp_path / "key"),
                "send": ["239.0.0.0/8"],
                "transit": True,
            }
        },
        inbound={
            "a": {
                **GROUP,
                "output": [
                    str(tmp_path / "a.log"),
                    {"kind": "fifo", "path": str(tmp_path / "p")},
                    {"kind": "redis", "servers": "redis://127.0.0.1:9"},
                ],
            },
            "c": {
                **GROUP,
                "output": str(tmp_path / "c.log"),
                "protocol": "rtp",
                "fec": True,
                "payload": "ts",
            },
            "d": {
                "legs": [GROUP, {**GROUP, "interface": "eth8"}],
                "merge": "payload",
                "output": str(tmp_path / "d.log"),
                "keep_before": {"time": "10s", "directory": str(tmp_path / "captures")},
            },
            "b": {
                **GROUP,
                "protocol": {"kind": "flute", "keys": [str(tmp_path / "key")]},
                "output": [received],
            },
        },
    )
    for receiver in a.receivers.values():
        receiver.deliver(b"x")
    states = ["finished", *["active"] * 10]
    wait_for(lambda: [headline.state for headline, _ in a.rows()] == states)
    wait_for(
        lambda: all(
            books.last_datagram
            for headline, books in a.rows()
            if not headline.name.startswith(("discover", "bridge", "amt_relay", "gateway", "link"))
        )
    )
    wait_for(lambda: all(books.link.message_bytes for _, books in a.rows() if books.link))
    text = b"".join(Metrics(a.rows).text())
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    exposed = {name.removesuffix("_total") for name, _ in parse(text.decode())}
    assert {name.removesuffix("_total") for name in families()} <= exposed
    assert {"mcastd_build_info", "process_cpu_seconds", "process_resident_memory_bytes"} <= exposed
    again = parse(b"".join(Metrics(a.rows).text()).decode())
    assert again["mcastd_scrape_duration_seconds_count", ()] == 0


def test_who_is_not_at_work_wants_no_membership(tmp_path: Path) -> None:
    a = House({"inbound": {"a": {**GROUP, "output": str(tmp_path / "a.log")}}})
    samples = parse(rendered(Exposition(), a.rows()))
    for name in ("mcastd_memberships_wanted", "mcastd_memberships"):
        assert values(samples, name) == {"inbound/a": 0}
    assert values(samples, "mcastd_receive_buffer_bytes") == {}
