"""Continuity counters: what is in order by columns is so packet by packet, and as tshark sees it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import program
from support.transport import Multiplex, film, packet

from mcastd.analysis.continuity import GROUP_PIDS
from mcastd.analysis.transport import TransportAnalysis
from mcastd.counters import TransportCheck
from mcastd.protocols import ts
from mcastd.protocols.ts import NULL_PID, PACKET_BYTES
from mcastd.protocols.ts_restamp import Restamper


def packets_of(data: bytes) -> list[bytes]:
    return [data[at : at + PACKET_BYTES] for at in range(0, len(data), PACKET_BYTES)]


def one_by_one(packets: Sequence[bytes]) -> tuple[int, int]:
    """Errors, and packets that are missing, as H.222.0 section 2.4.3.3 has them."""
    errors = lost = 0
    last: dict[int, tuple[int, bool]] = {}  # by PID: the counter, and whether it came twice
    for one in packets:
        header = ts.header_at(one, 0)
        if header.pid == NULL_PID:
            continue
        is_break = ts.is_discontinuous_at(one, 0)
        before = last.get(header.pid)
        if header.is_damaged:
            if before is not None and header.has_payload:
                last[header.pid] = (before[0] + 1) % 16, False
        elif not header.has_payload:
            if is_break:
                last[header.pid] = header.counter, False
        elif before is None or is_break or header.counter == (before[0] + 1) % 16:
            last[header.pid] = header.counter, False
        elif header.counter == before[0]:
            errors += before[1]
            last[header.pid] = header.counter, True
        else:
            errors += 1
            lost += (header.counter - before[0] - 1) % 16
            last[header.pid] = header.counter, False
    return errors, lost


def cut(packets: Sequence[bytes], sizes: Sequence[int]) -> TransportAnalysis:
    """Feed packets in datagrams of seven, and in batches of these numbers of datagrams, over and over."""
    analysis, at, turn = TransportAnalysis(), 0, 0
    datagrams = [b"".join(packets[begin : begin + 7]) for begin in range(0, len(packets), 7)]
    while at < len(datagrams):
        size = sizes[turn % len(sizes)]
        analysis.feed(datagrams[at : at + size], (), 100.0 + at / 1000)
        at, turn = at + size, turn + 1
    return analysis


def counted(analysis: TransportAnalysis) -> tuple[int, int]:
    counters = analysis.counters
    assert counters.errors[TransportCheck.CONTINUITY] == sum(
        count.errors for count in analysis.continuity.pids.values()
    )
    return counters.errors[TransportCheck.CONTINUITY], counters.lost


def damaged(one: bytes) -> bytes:
    return one[:1] + bytes((one[1] | 0x80,)) + one[2:]


def test_a_stream_in_order_has_no_errors_however_it_is_cut() -> None:
    packets = Multiplex().packets(4000)
    for sizes in ([1], [10, 3], [256]):
        analysis = cut(packets, sizes)
        assert counted(analysis) == one_by_one(packets) == (0, 0)
        assert not analysis.counters.errors.total()
        assert analysis.counters.packets == 4000


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ([5, 6, 9, 10], (1, 2)),
        ([5, 6, 6, 7], (0, 0)),  # a packet may come twice
        ([5, 6, 6, 6, 6, 7], (2, 0)),
        ([5, 6, 6, 8], (1, 1)),
        ([5, 7, 6, 8], (3, 1 + 14 + 1)),
        ([14, 15, 0, 1], (0, 0)),
        ([3, 2, 3], (1, 14)),
        ([9], (0, 0)),
    ],
)
def test_each_kind_of_fault_is_counted_as_it_is(came: list[int], expected: tuple[int, int]) -> None:
    packets = [packet(0x77, counter) for counter in came]
    assert one_by_one(packets) == expected
    for sizes in ([1], [100]):
        assert counted(cut(packets, sizes)) == expected


def test_what_excuses_a_counter() -> None:
    without_payload = packet(0x77, 3, payload=b"", adaptation=bytes(183))
    break_without_payload = packet(0x77, 11, payload=b"", adaptation=b"\x80" + bytes(182))
    excused = packet(0x77, 9, discontinuous=True)
    packets = [packet(0x77, 3), without_payload, packet(0x77, 4), excused, packet(0x77, 10)]
    packets += [break_without_payload, packet(0x77, 12), packet(NULL_PID, 3), packet(NULL_PID, 9)]
    packets += [damaged(packet(0x77, 2)), packet(0x77, 14), damaged(packet(0x1234, 5)), packet(0x1234, 5)]
    assert one_by_one(packets) == (0, 0)
    for sizes in ([1], [100]):
        analysis = cut(packets, sizes)
        assert counted(analysis) == (0, 0)
        assert analysis.counters.errors[TransportCheck.TRANSPORT] == 2


FAULT = st.sampled_from(["drop", "double", "triple", "swap", "break", "bare", "damage"])
FAULTS = st.lists(st.tuples(st.integers(0, 600), FAULT), max_size=30)


@settings(max_examples=60, deadline=None)
@given(FAULTS, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 45))
def test_columns_see_what_a_loop_over_packets_sees(
    faults: list[tuple[int, str]], sizes: list[int], pids: int
) -> None:
    order = random.Random(pids)
    counters = dict.fromkeys(range(0x200, 0x200 + 37 * pids, 37), 0)
    packets = []
    for _ in range(700):
        pid = order.choice([*counters])
        counters[pid] += 1
        packets.append(packet(pid, counters[pid]))
    for at, fault in faults:
        one = packets[at]
        header = ts.header_at(one, 0)
        match fault:
            case "drop":
                del packets[at]
            case "double" | "triple":
                packets[at:at] = [one] * (1 + (fault == "triple"))
            case "swap":
                packets[at : at + 2] = reversed(packets[at : at + 2])
            case "break":
                packets[at] = packet(header.pid, at, discontinuous=True)
            case "bare":
                packets[at:at] = [packet(header.pid, at, payload=b"", adaptation=bytes(183))]
            case "damage":
                packets[at] = damaged(one)
    assert counted(cut(packets, sizes)) == one_by_one(packets)


def test_any_number_of_pids_is_followed() -> None:
    order = random.Random(5)
    pids = order.sample(range(0x20, 0x1FFF), 600)
    counters = dict.fromkeys(pids, 0)
    packets = []
    for number in range(5000):
        pid = pids[number % GROUP_PIDS] if number % 2 else order.choice(pids)
        counters[pid] += 1
        if number % 401:
            packets.append(packet(pid, counters[pid]))
    expected = one_by_one(packets)
    assert expected[0] > 5
    for sizes in ([1], [30], [256]):
        assert counted(cut(packets, sizes)) == expected


def test_a_pid_that_has_gone_is_forgotten_and_may_come_again() -> None:
    analysis = TransportAnalysis()
    analysis.feed([packet(0x77, 3) + packet(0x78, 4)], (), 100.0)
    for second in range(70):
        analysis.feed([packet(0x78, 5 + second)], (), 101.0 + second)
    assert analysis.continuity.pids.keys() == {0x78}
    analysis.feed([packet(0x77, 9) + packet(0x78, 75)], (), 171.0)
    assert counted(analysis) == (0, 0)
    assert analysis.continuity.pids.keys() == {0x77, 0x78}


def test_it_counts_what_tshark_counts_of_a_damaged_film(tmp_path: Path) -> None:
    data = film(tmp_path / "film.ts").read_bytes()
    datagrams = [data[at : at + 7 * PACKET_BYTES] for at in range(0, len(data), 7 * PACKET_BYTES)]
    order = random.Random(3)
    left = [one for number, one in enumerate(datagrams) if number < 9 or order.random() > 0.05]
    assert len(datagrams) - len(left) > 5
    packets, path = packets_of(b"".join(left)), tmp_path / "damaged.ts"
    # Where what is lost has a packet without payload behind it, tshark takes the counter of that for the next
    path.write_bytes(b"".join(one for one in packets if ts.header_at(one, 0).has_payload))
    command = [program("tshark"), "-n", "-r", str(path), "-T", "fields", "-e", "mp2t.cc.drop"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    dropped = sum(bool(line) for line in ran.stdout.splitlines())
    for sizes in ([1], [10], [256]):
        errors, _ = counted(cut(packets, sizes))
        assert errors == dropped > 5


def test_a_seam_of_ours_has_no_errors_and_a_raw_one_has_some(tmp_path: Path) -> None:
    data = film(tmp_path / "film.ts", seconds=1).read_bytes()
    restamper, rounds = Restamper(), b""
    for _ in range(3):
        rounds += bytes(restamper.feed(data)) + bytes(restamper.finish())
    seamless = cut(packets_of(rounds), [10])
    assert seamless.counters.packets == 3 * len(data) // PACKET_BYTES
    # The clock waits there until the last picture has been shown, maybe for more than a tenth of a second
    found = {check for check, count in seamless.counters.errors.items() if count}
    assert found <= {TransportCheck.PCR_REPETITION}
    raw = cut(packets_of(3 * data), [10])
    expected, _ = one_by_one(packets_of(3 * data))
    assert raw.counters.errors[TransportCheck.CONTINUITY] == expected >= 2
    assert raw.counters.errors[TransportCheck.PCR_DISCONTINUITY] == 2
