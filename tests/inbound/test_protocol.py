"""A protocol between link and outputs: what it holds and drops is in the accounts at each moment."""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support import tardy
from support.audited import Audited
from support.subscription import Run, file_output, lost
from support.wait import wait_for

from mcastd.config import InboundSubscription
from mcastd.errors import NoArenaError
from mcastd.inbound.protocols import make_protocol
from mcastd.inbound.subscription import Subscription
from mcastd.net.link import Batch, ListBatch
from mcastd.worker import Signal

LONG = {"kind": "tardy", "hold": 3600}


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    tardy.add()
    yield
    tardy.remove()


def accounts(worker: Subscription) -> tuple[int, int, int, int]:
    """Datagrams received; written by the one output; held; dropped by the protocol."""
    counters, (sink,) = worker.counters, worker.sinks
    return counters.received, sink.counters.written, counters.held, counters.dropped["empty"]


def test_raw_is_no_protocol() -> None:
    config = InboundSubscription(group="239.255.1.2", port=9190, output="/x")
    assert make_protocol(config, Counter(), "inbound/x") is None


def test_the_made_up_one_is_one() -> None:
    """The contract: each datagram is given on once, dropped or held, and nothing is held after the end."""
    dropped: Counter[str] = Counter()
    config = InboundSubscription(group="239.255.1.2", port=9190, output="/x", protocol="tardy")
    protocol = make_protocol(config, dropped, "inbound/x")
    assert protocol is not None
    audited = Audited(protocol, dropped)
    given = []
    for number in range(5):
        payloads = [b"%d%d" % (number, each) for each in range(number)]
        given += [bytes(p) for batch in audited.feed(ListBatch([*payloads, b""])) for p in batch.payloads]
    assert (audited.fed, protocol.held, dropped) == (15, 5, {"empty": 5})
    assert protocol.deadline < math.inf
    given += [bytes(p) for batch in audited.expire(math.inf) for p in batch.payloads]
    assert (len(set(given)), protocol.held, protocol.deadline) == (10, 0, math.inf)


@pytest.mark.parametrize("times", [0, 2])
def test_one_whose_sum_is_wrong_is_found(times: int) -> None:
    class Miscounting(tardy.Tardy):
        def feed(self, batch: Batch) -> Iterator[Batch]:
            return iter([batch] * times)

    dropped: Counter[str] = Counter()
    audited = Audited(Miscounting(tardy.TardySettings(), dropped), dropped)
    with pytest.raises(AssertionError):
        audited.feed(ListBatch([b"a"]))


def test_what_it_holds_is_delivered_in_time(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"), protocol={"kind": "tardy", "hold": 0.05})
    link = run.start()
    link.deliver(b"a", b"b", b"", b"c", b"d", b"e")
    wait_for(lambda: accounts(run.worker) == (6, 5, 0, 1), "what it has held")
    assert (tmp_path / "a").read_bytes() == b"acebd"
    assert not run.failure


def test_what_it_holds_is_in_all_accounts_and_delivered_at_the_end(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "a"), protocol=LONG)
    run.start().deliver(b"a", b"b", b"c", b"", b"d")
    wait_for(lambda: accounts(run.worker) == (5, 2, 2, 1), "all")
    status, vitals, books = run.worker.status(), run.worker.vitals(), run.worker.books()
    assert (status.protocol, status.counters.held, status.counters.dropped) == ("tardy", 2, {"empty": 1})
    assert (vitals.held, vitals.dropped, books.identity.reasons) == (2, 1, ("empty",))
    run.stop()
    assert accounts(run.worker) == (5, 4, 0, 1)
    assert (tmp_path / "a").read_bytes() == b"acbd"


def test_it_stays_over_a_reload_if_its_settings_do(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"), protocol=LONG)
    run.start().deliver(b"a", b"b", b"c")
    wait_for(lambda: accounts(run.worker) == (3, 2, 1, 0), "all")
    protocol = run.worker._intake.protocol

    def reload(**settings: object) -> None:
        base = {"group": "239.255.1.2", "port": 9190, "protocol": LONG}
        base["output"] = [file_output(tmp_path / "a")]
        assert run.worker.update(InboundSubscription.model_validate({**base, **settings}))
        run.context.send(Signal.NETWORK)
        wait_for(lambda: run.worker._applied is run.worker._config, "the new settings")

    reload(output=[file_output(tmp_path / "a"), file_output(tmp_path / "b")])
    assert run.worker._intake.protocol is protocol
    assert run.worker.counters.held == 1
    later = run.worker.status().outputs[1]
    assert later.received_before == 2, "what is held will reach it"
    reload(protocol={"kind": "tardy", "hold": 1800})
    assert run.worker._intake.protocol is not protocol
    assert accounts(run.worker) == (3, 3, 0, 0), "delivered, to the outputs of now"
    assert (tmp_path / "a").read_bytes() == b"acb"
    reload(protocol="raw")
    assert run.worker.books().identity.reasons == ()


@pytest.mark.parametrize("format", ["pcapng", "json"])
def test_what_it_holds_reaches_an_output_that_asks_for_more_than_was_told_of_it(
    format: str, tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "a"), protocol=LONG)
    run.start().deliver(b"a", b"b", b"c", b"d")
    wait_for(lambda: accounts(run.worker) == (4, 2, 2, 0), "all")
    outputs = [file_output(tmp_path / "a"), file_output(tmp_path / "b", format=format)]
    settings = {"group": "239.255.1.2", "port": 9190, "protocol": LONG, "output": outputs}
    assert run.worker.update(InboundSubscription.model_validate(settings))
    run.context.send(Signal.NETWORK)
    wait_for(lambda: run.worker._applied is run.worker._config, "the new settings")
    run.stop()
    assert not run.failure
    assert run.worker.counters.held == 0
    assert (tmp_path / "a").read_bytes() == b"acbd"
    assert [one.counters.written for one in run.worker.status().outputs] == [4, 2]


def test_what_it_holds_is_delivered_when_a_run_fails(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"), protocol=LONG)
    link = run.start()
    link.deliver(b"a", b"b")
    wait_for(lambda: accounts(run.worker) == (2, 1, 1, 0), "all")
    link.error = lost()
    run.context.send(Signal.NETWORK)
    run.join()
    assert run.failure is link.error
    assert accounts(run.worker) == (2, 2, 0, 0)


@pytest.mark.parametrize("filled", [0.25, 0.0], ids=["more waits", "nothing waits"])
@pytest.mark.parametrize("ending", ["stop", "another stream"])
def test_what_it_holds_is_delivered_when_there_is_no_memory_to_receive_more(
    tmp_path: Path, make_run: Callable[..., Run], ending: str, filled: float
) -> None:
    """What the kernel still holds is lost, and said: it does not tell how many datagrams that are."""
    run = make_run(file_output(tmp_path / "a"), protocol=LONG)
    link = run.start()
    link.deliver(b"a", b"b", b"c")
    wait_for(lambda: accounts(run.worker) == (3, 2, 1, 0), "all")
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    link.filled = filled
    link.deliver(b"never taken")
    with capture_logs() as logs:
        if ending == "stop":
            run.stop()
        else:
            settings = {"group": "239.255.1.3", "port": 9191, "protocol": LONG}
            assert run.worker.update(
                InboundSubscription.model_validate(settings | {"output": [file_output(tmp_path / "a")]})
            )
            run.context.send(Signal.NETWORK)
            wait_for(lambda: link.closed, "the other")
            run.link.deliver(b"d", b"e")
            wait_for(lambda: run.worker.counters.received == 5, "what comes there")
            run.stop()
    assert run.failure is None
    assert accounts(run.worker)[2:] == (0, 0)
    assert (tmp_path / "a").read_bytes() == (b"acb" if ending == "stop" else b"acbde")
    said = [one["filled"] for one in logs if one["event"] == "reception.abandoned"]
    assert said == [filled] * bool(filled)
