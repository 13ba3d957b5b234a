"""Files sent whole by a channel: what arrives is rebuilt byte for byte, by us and by another's receiver."""

from __future__ import annotations

import errno
import os
import random
import select
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.flute import Rebuilding
from support.wait import wait_for

from mcastd.config import FluteOutbound, OutboundChannel
from mcastd.delivery.carousel import Progress
from mcastd.delivery.catalog import Catalog
from mcastd.errors import SourceError
from mcastd.net.fake import FakeSender
from mcastd.net.headed_memory import HeadedMemory, PlacedPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.net.sockets import free_port
from mcastd.outbound.channel import Channel
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import objects, open_source
from mcastd.outbound.sources.objects import ObjectsSource
from mcastd.outbound.sources.source import NAP_MAX_SECONDS
from mcastd.protocols import raptorq
from mcastd.worker import Context, Signal

pytestmark = pytest.mark.usefixtures("no_fd_leak")
needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

SESSION = 77


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of 0, 1, 1448, 1449 and 2,000,000 bytes."""
    path = tmp_path / "images"
    (path / "deep" / "er").mkdir(parents=True)
    for name, size in (("empty", 0), ("one", 1), ("deep/even", 1448), ("deep/odd", 1449)):
        (path / name).write_bytes(random.Random(size).randbytes(size))
    (path / "deep" / "er" / "large").write_bytes(random.Random(9).randbytes(2_000_000))
    return path


def contents(tree: Path) -> dict[str, bytes]:
    return {str(file.relative_to(tree)): file.read_bytes() for file in tree.rglob("*") if file.is_file()}


def settings_of(path: Path, protect: str = "0%", **settings: Any) -> OutboundChannel:
    protocol = {"kind": "flute", "protect": protect, "session": SESSION}
    settings = {"group": "239.255.1.2", "port": 9190, "rate": "100Gbit", **settings}
    return OutboundChannel.model_validate({"source": path, "protocol": protocol, **settings})


@contextmanager
def opened(path: Path, protect: str = "0%", **settings: Any) -> Iterator[ObjectsSource]:
    source = open_source(settings_of(path, protect, **settings))
    assert isinstance(source, ObjectsSource)
    try:
        yield source
    finally:
        source.restart()


def round_of(source: ObjectsSource) -> list[bytes]:
    """The datagrams of the next pass."""
    datagrams: list[bytes] = []
    rounds = source.rounds
    while source.rounds == rounds:
        payloads = source.read()
        assert list(payloads.sizes) == list(map(len, payloads))
        datagrams += map(bytes, payloads)
    return datagrams


def rebuilding(datagrams: list[bytes]) -> Rebuilding:
    receiver = Rebuilding(SESSION)
    receiver.take(datagrams)
    return receiver


def rebuilt(datagrams: list[bytes]) -> dict[str, bytes]:
    return rebuilding(datagrams).files()


class TestSource:
    def test_once(self, tree: Path) -> None:
        with opened(tree) as source:
            assert rebuilt(round_of(source)) == contents(tree)
            assert (source.finished, source.rounds, source.state) == (True, 1, "finished")
            assert not source.read()

    @needs_library
    def test_with_loss(self, tree: Path) -> None:
        chance = random.Random(2)
        with opened(tree, "5%") as source:
            arrived = [datagram for datagram in round_of(source) if chance.random() > 0.05]
            assert rebuilt(arrived) == contents(tree)

    def test_its_position_is_how_much_of_the_files_has_gone(self, tree: Path) -> None:
        with opened(tree) as source:
            gone = 0
            while not source.finished:
                symbols = [len(datagram) - 20 for datagram in source.read() if any(datagram[12:16])]
                gone += sum(symbols)
                assert gone <= source.position <= 2_002_898
                assert source.position - gone < 4 * 1448, "but for symbols that are short"
            assert gone == source.position == 2_002_898

    def test_a_pass_is_told_by_its_source_symbols_and_repair_on_top_of_them(self, tree: Path) -> None:
        with opened(tree) as source:
            source._carousel.progress = Progress(
                0, 5, source_symbols=200, source_sent=50, repair_sent=7, source_begun=60, repair_begun=12
            )
            assert (source.files.pass_percent, source.files.repair_percent) == (25, 20)

    def test_what_is_sent_for_months_is_described_for_one(self, tree: Path) -> None:
        protocol = settings_of(tree).protocol
        assert isinstance(protocol, FluteOutbound)
        source = ObjectsSource(tree, protocol, max_datagram=1472, rate=8)
        while not source.position:
            source.read()
        assert source.files.described_seconds == 15 * 86_400
        source.restart()

    def test_repeated_with_what_is_there_by_then(self, tree: Path) -> None:
        with opened(tree, repeat=3) as source:
            assert rebuilt(round_of(source)) == contents(tree)
            (tree / "one").unlink()
            (tree / "new").write_bytes(b"!" * 11)
            (tree / "deep" / "odd").write_bytes(b"other")
            assert not source.finished
            assert rebuilt(round_of(source)) == contents(tree)
            assert rebuilt(round_of(source)) == contents(tree)
            assert (source.finished, source.rounds) == (True, 3)

    def test_forever(self, tree: Path) -> None:
        with opened(tree, repeat="forever") as source:
            for number in range(5):
                assert source.rounds == number
                assert len(round_of(source)) > 1000
            assert not source.finished

    def test_restarted(self, tree: Path) -> None:
        with opened(tree, repeat=2) as source:
            round_of(source)
            while source.files.pass_number < 2 or source.files.pass_percent < 40:
                source.read()
            source.restart()
            for _ in range(2):
                assert rebuilt(round_of(source)) == contents(tree)
            assert (source.finished, source.rounds) == (True, 3)

    def test_a_single_file(self, tree: Path) -> None:
        with opened(tree / "deep" / "odd") as source:
            assert rebuilt(round_of(source)) == {"odd": (tree / "deep" / "odd").read_bytes()}

    def test_datagrams_are_no_longer_than_allowed(self, tree: Path) -> None:
        with opened(tree, max_datagram=1000) as source:
            assert max(map(len, round_of(source))) == 996  # 20 bytes, and a multiple of 8
        with opened(tree, group="ff15::1234") as source:
            assert max(map(len, round_of(source))) == 1452

    def test_symbols_are_sent_from_where_they_lie(self, tree: Path) -> None:
        placed = []
        with opened(tree) as source, mock.patch.object(objects, "HeadedMemory", wraps=HeadedMemory) as made:
            while not source.finished:
                payloads = source.read()
                if isinstance(payloads, PlacedPayloads):
                    placed.append(len(payloads))
                else:
                    assert len(payloads) < 16  # what describes them
        assert sum(placed) > 1000
        assert made.call_count == 1

    def test_a_file_that_changes_under_way(self, tree: Path) -> None:
        large = tree / "deep" / "er" / "large"
        with opened(tree, repeat=2) as source:
            before = contents(tree)
            receiver = Rebuilding(SESSION)
            while source.files.pass_number == 0:
                source.read()
            large.write_bytes(bytes(2_000_000))
            receiver.take(round_of(source))
            assert receiver.files() == {name: before[name] for name in before if name != "deep/er/large"}
            assert source.files.given_up == 1
            assert 0 < source.nap < NAP_MAX_SECONDS  # at which the watcher would look for news instead
            receiver.take(round_of(source))
            assert receiver.files() == contents(tree)
            assert source.files.given_up == 0
            assert source.nap == 0
            assert source.state == "finished"

    def test_a_file_that_changes_in_the_last_pass(self, tree: Path) -> None:
        with opened(tree) as source:
            while source.files.pass_number == 0:
                source.read()
            (tree / "one").write_bytes(b"two")
            (tree / "deep" / "odd").unlink()
            assert rebuilt(round_of(source)).keys() == {"empty", "deep/even", "deep/er/large"}
            assert source.state == "finished, but for 2 files that changed under way"

    def test_status(self, tree: Path) -> None:
        (tree / "link").symlink_to("one")
        with opened(tree, repeat="forever") as source:
            assert (source.files.files, source.files.pass_number, source.files.pass_percent) == (0, 0, 0)
            percents = []
            while source.rounds == 0:
                source.read()
                percents.append(source.files.pass_percent)
            assert percents == sorted(percents)
            assert (percents[0], percents[-1]) == (0.0, 100.0)
            files = source.files
            assert (files.files, files.total_bytes) == (5, 2_002_898)
            assert (dict(files.refused), files.refusals) == ({"link": 1}, ("link: it is a symbolic link",))
            while source.files.pass_number < 2:
                source.read()
            assert source.files.repair_percent == 0

    @needs_library
    def test_status_of_repair(self, tree: Path) -> None:
        with opened(tree / "deep" / "er" / "large", "5%") as source:
            while not source.files.pass_percent:
                source.read()
            assert 8 < source.files.repair_percent < 12  # though none has been sent yet
            round_of(source)
            assert 8 < source.files.repair_percent < 12


def test_another_pace_changes_how_long_files_are_described(tree: Path) -> None:
    """Passes take longer then, or less long: receivers keep what they have for four of them."""
    with opened(tree, rate="1Gbit", repeat="forever") as source:
        receiver = Rebuilding(SESSION)
        while source.files.pass_number == 0:
            source.read()
        receiver.take(map(bytes, source.read()))
        (first,) = receiver.expires.values()
        for rate, seconds in ((10_000, 2 * 8 * 2_002_898 / 10_000), (None, 15 * 86_400), (10**8, 1800)):
            source.set_pace(rate, None)
            receiver.take(round_of(source))
            assert source.files.described_seconds == seconds
        last = max(receiver.expires.values())
        assert first + 30 * 86_400 - 3600 - 1 <= last <= first + 30 * 86_400 - 3600 + 10
        assert receiver.files() == contents(tree)


class TestFaults:
    def test_nothing_there_yet(self, tmp_path: Path) -> None:
        with opened(tmp_path / "images") as source:
            with pytest.raises(SourceError, match="waiting for it to be created"):
                source.read()
            (tmp_path / "images").mkdir()
            with pytest.raises(SourceError, match="there are no files in it; waiting for some"):
                source.read()
            (tmp_path / "images" / "link").symlink_to("/etc/passwd")
            with pytest.raises(SourceError, match="there are no files in it but 1 that are refused"):
                source.read()
            (tmp_path / "images" / "one").write_bytes(b"1")
            assert rebuilt(round_of(source)) == {"one": b"1"}

    def test_without_the_codec(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(raptorq, "_library", lambda: None)
        with opened(tree, "5%") as source:
            with pytest.raises(SourceError) as caught:
                source.read()
            assert caught.value.cause.startswith("raptorq is not installed")
            assert caught.value.way_out == f'set protect = "0%", or {raptorq.INSTALL}'
        with opened(tree, "0%") as source:
            assert rebuilt(round_of(source)) == contents(tree)

    @needs_library
    def test_a_codec_that_fails(self, tree: Path) -> None:
        with opened(tree, "5%") as source:
            real = source._codec.repair

            def fails(*_: Any) -> list[bytes]:
                raise raptorq.CodecError(
                    raptorq.CodecReason.LIBRARY, "the codec's process failed: it has ended"
                )

            source._carousel._make_repair = fails
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(SourceError, match="it has ended; trying again"):
                round_of(source)
            assert len(os.listdir("/proc/self/fd")) == before, "a file may stay open until all of it is read"
            source._carousel._make_repair = real
            assert source.rounds == 0
            assert rebuilt(round_of(source)) == contents(tree)

    def test_a_shortage(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(tree) as source:
            while not source.read():
                pass
            real = os.open

            def short(*_: Any, **named: Any) -> int:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            monkeypatch.setattr(os, "open", short)
            with pytest.raises(SourceError, match="too many open files; trying again"):
                round_of(source)
            monkeypatch.setattr(os, "open", real)
            assert source.rounds == 0
            assert rebuilt(round_of(source)) == contents(tree)
            assert source.files.given_up == 0


class TestChannel:
    @contextmanager
    def running(
        self, config: OutboundChannel, link: FakeSender, shared: SharedSender | None = None
    ) -> Iterator[tuple[Channel, Context]]:
        source = open_source(config)
        channel = Channel("outbound/images", config, lambda _: link, source, shared=shared)
        context = Context().open()
        thread = threading.Thread(target=channel.run, args=(context,))
        thread.start()
        try:
            yield channel, context
        finally:
            context.send(Signal.STOP)
            thread.join(60)
            assert not thread.is_alive()
            channel.close()
            context.close()

    def test_to_its_end(self, tree: Path) -> None:
        link = FakeSender()
        with self.running(settings_of(tree, repeat=2), link) as (channel, _):
            wait_for(lambda: link.closed, "the end")
            status = channel.status()
            assert status.files is not None
            assert (status.files.files, status.counters.rounds, status.protocol) == (5, 2, "flute")
            assert status.counters.sent == len(link.sent)
            assert rebuilt(link.sent) == contents(tree)

    def test_while_it_scans_it_says_so_and_not_once_it_sends(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link, go_on = FakeSender(), threading.Event()
        scan = Catalog.scan

        def slowly(catalog: Catalog) -> bool:
            catalog.progress = "13 files so far"
            return go_on.is_set() and scan(catalog)

        monkeypatch.setattr(Catalog, "scan", slowly)
        with self.running(settings_of(tree, rate="1Mbit"), link) as (_, context):
            detail = "to 239.255.1.2 port 9190, 1,000,000 bit/s"
            wait_for(lambda: context.detail == f"{detail}; scanning: 13 files so far", "the scan")
            go_on.set()
            wait_for(lambda: context.detail == detail, "the first pass")
            assert not context.degraded

    def test_a_reload_under_way_costs_nothing(self, tree: Path) -> None:
        config = settings_of(tree, rate="10Mbit")
        link = FakeSender()
        with self.running(config, link) as (channel, context):
            wait_for(lambda: len(link.sent) > 30, "some datagrams")
            assert channel.update(config.model_copy(update={"rate": 10**11, "interface": "eth7"}))
            context.send(Signal.NETWORK)
            wait_for(lambda: channel._source.finished and link.closed, "the end")
            assert rebuilt(link.sent) == contents(tree)
            symbols = [
                datagram for datagram in link.sent if datagram[12:16] != bytes(4) and len(datagram) > 20
            ]
            assert len(symbols) == len(set(symbols))

    def test_another_rate_tells_how_long_the_files_are_described(self, tree: Path) -> None:
        config = settings_of(tree, rate="10kbit", repeat="forever")
        link = FakeSender()

        def described(channel: Channel) -> float | None:
            files = channel.status().files
            assert files is not None
            return files.described_seconds

        with self.running(config, link) as (channel, context):
            wait_for(lambda: described(channel) == 2 * 8 * 2_002_898 / 10_000, "two passes")
            assert channel.update(config.model_copy(update={"rate": 10**9}))
            context.send(Signal.NETWORK)
            wait_for(lambda: described(channel) == 1800, "half an hour")

    def test_its_own_thread_sends(self, tree: Path) -> None:
        """Others that the shared thread sends for would wait while a block is hashed."""
        config = settings_of(
            tree / "deep" / "odd", rate="100kbit"
        )  # three datagrams a second and FDT packets
        link = FakeSender()
        shared = SharedSender()
        with (
            mock.patch.object(Channel, "_lend", side_effect=AssertionError("it was lent")),
            self.running(config, link, shared) as (channel, _),
        ):
            wait_for(lambda: len(link.sent) >= 5, "some datagrams")
            assert channel._source.slow
        shared.close()

    def test_other_settings_of_the_protocol_need_a_new_run(self, tree: Path) -> None:
        config = settings_of(tree)
        channel = Channel("outbound/images", config, lambda _: FakeSender(), open_source(config))
        assert not channel.update(settings_of(tree, "1%"))
        assert channel.update(settings_of(tree, rate="3Mbit"))
        channel.close()


def test_through_the_kernel(tree: Path) -> None:
    """Headers and symbols go as they lie, many datagrams in a call."""
    group, port = ip_address("239.255.12.2"), free_port()
    with (
        closing(SocketReceiver(group, port, interface="lo", receive_buffer=64 << 20)) as receiver,
        closing(SocketSender(group, port, interface="lo", ttl=0)) as sender,
        opened(tree) as source,
    ):
        arrived: list[bytes] = []
        while not source.finished:
            payloads, sent = source.read(), 0
            while sent < len(payloads):
                sent += sender.send(payloads.part(sent, len(payloads)))
            while select.select([receiver], [], [], 0)[0]:
                arrived += map(bytes, receiver.receive().payloads)
        assert rebuilt(arrived) == contents(tree)
        assert sender.sending == "gso"


class TestAnotherReceiver:
    """flute-alc's: what it writes is what we sent."""

    @pytest.mark.parametrize(
        ("protect", "loss"),
        [
            ("0%", 0.0),
            pytest.param("5%", 0.0, marks=needs_library),
            pytest.param("5%", 0.05, marks=needs_library),
            pytest.param("15%", 0.15, marks=needs_library),
        ],
    )
    def test_it_has_all_files(self, tree: Path, tmp_path: Path, protect: str, loss: float) -> None:
        flute = pytest.importorskip("flute", reason="flute-alc is not installed")
        (tmp_path / "received").mkdir()
        writer = flute.receiver.ObjectWriterBuilder(str(tmp_path / "received"))
        endpoint = flute.receiver.UDPEndpoint("239.255.1.2", 9190)
        receiver = flute.receiver.Receiver(endpoint, SESSION, writer, flute.receiver.Config())
        chance = random.Random(3)
        with opened(tree, protect) as source:
            for datagram in round_of(source):
                if chance.random() >= loss:
                    receiver.push(datagram)
        assert contents(tmp_path / "received") == contents(tree)
