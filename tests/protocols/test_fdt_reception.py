"""FDT instances from their symbols: in any order, repeated, changed under their number, and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols import fdt_reception
from mcastd.protocols.alc import fdt_packets, parse
from mcastd.protocols.fdt import FdtInstance, FileEntry, build
from mcastd.protocols.fdt_reception import FdtReception
from mcastd.protocols.fec import RAPTORQ, Oti
from mcastd.protocols.lct import Malformed

WALL = 1_800_000_000.0


def packets(name: str, number: int = 5, size: int = 80, encoding: str = "") -> list[bytes]:
    """An instance that describes one file; names of one length make instances of one length."""
    return fdt_packets(
        7, number, build(FdtInstance(int(WALL) + 9, (FileEntry(1, name, 5, 5),))), size, encoding
    )


def take(reception: FdtReception, *datagrams: bytes) -> list[str]:
    """The names that the instances say which these datagrams complete or repeat."""
    said = []
    for datagram in datagrams:
        packet = parse(datagram)
        instance = reception.take(packet.header, packet.sbn, packet.esi, packet.payload, WALL)
        said += [] if instance is None else [entry.location for entry in instance.files]
    return said


def refusal(reception: FdtReception, datagram: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        take(reception, datagram)
    return refused.value.reason


def test_an_instance_comes_in_any_order_and_is_said_with_its_last_symbol() -> None:
    reception, (first, second, third) = FdtReception(), packets("a")
    assert take(reception, third, third, first) == []
    assert take(reception, second) == ["a"]


def test_a_repeated_one_is_said_by_its_first_symbol() -> None:
    reception, (first, second, third) = FdtReception(), packets("a")
    take(reception, first, second, third)
    assert take(reception, second, third) == []
    assert take(reception, first, first) == ["a", "a"]


def test_instances_come_at_the_same_time() -> None:
    reception = FdtReception()
    mixed = [each for pair in zip(packets("a", 5), packets("b", 6), strict=True) for each in pair]
    assert take(reception, *mixed) == ["a", "b"]


def test_one_that_is_another_begins_anew_while_it_comes() -> None:
    """Its second symbol has the name: with the first it is the same, by the third it is complete."""
    reception = FdtReception()
    first, second, third = packets("a")
    assert (first, second != packets("b")[1], third) == (packets("b")[0], True, packets("b")[2])
    take(reception, first, second)
    assert take(reception, packets("b")[1], third) == [], "of the new one the first has not come"
    assert take(reception, first) == ["b"]


def test_one_that_is_another_begins_anew_when_it_has_come() -> None:
    reception = FdtReception()
    take(reception, *packets("a"))
    assert take(reception, *packets("b")) == ["a"], "its first symbol is the same"
    assert take(reception, *packets("b")) == ["b"]


@pytest.mark.parametrize("change", [{"size": 90}, {"encoding": "gzip"}])
def test_one_that_is_told_otherwise_is_another(change: dict[str, Any]) -> None:
    reception = FdtReception()
    take(reception, *packets("a")[:2])
    other = packets("a", **change)
    if "size" in change:
        assert take(reception, *other) == ["a"]
        assert take(reception, packets("a")[2]) == []
    else:
        take(reception, *other[:2])
        assert refusal(reception, other[2]) == "fdt-encoding"


def test_what_is_not_taken_is_so_again_without_being_read() -> None:
    reception, datagrams = FdtReception(), fdt_packets(7, 5, b"<junk/>" * 30, 80)
    take(reception, *datagrams[:2])
    assert refusal(reception, datagrams[2]) == "xml"
    kept = reception._whole._kept[5]
    assert [refusal(reception, each) for each in datagrams] == ["xml"] * 3
    assert reception._whole._kept[5] is kept


def test_what_was_used_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdt_reception, "COMING_MAX", 3)
    monkeypatch.setattr(fdt_reception, "WHOLE_MAX", 3)
    reception = FdtReception()
    for number in (1, 2, 3):
        take(reception, packets("a", number)[0])
    take(reception, packets("a", 1)[1], packets("a", 4)[0])
    assert [*reception._coming._kept] == [3, 1, 4]
    assert take(reception, packets("a", 1)[2]) == ["a"]
    for number in (2, 3):
        take(reception, *packets("a", number))
    take(reception, packets("a", 1)[1], *packets("a", 4))
    assert [*reception._whole._kept] == [3, 1, 4]


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdt_reception, "COMING_MAX_BYTES", 700)
    monkeypatch.setattr(fdt_reception, "WHOLE_MAX_BYTES", 5000)
    reception = FdtReception()
    for number in range(9):
        take(reception, packets("a", number)[0])
        assert sum(each.bytes for each in reception._coming._kept.values()) <= 700
    assert len(reception._coming._kept) == 3
    for number in range(9):
        take(reception, *packets("a", number))
        assert sum(each.bytes for each in reception._whole._kept.values()) <= 5000
    assert len(reception._whole._kept) == 2


def test_the_map_of_what_has_come_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With symbols of one byte it is as large as the instance."""
    monkeypatch.setattr(fdt_reception, "COMING_MAX_BYTES", 700)
    reception = FdtReception()
    for number in (1, 2):
        take(reception, packets("a", number, size=1)[0])
    assert [*reception._coming._kept] == [2]


def test_the_last_one_is_kept_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdt_reception, "COMING_MAX_BYTES", 1)
    assert take(FdtReception(), *packets("a")) == ["a"]


def test_an_instance_in_sub_blocks_is_refused() -> None:
    """Their symbols are no pieces of it (RFC 6330 section 4.4.1.2)."""
    header = parse(packets("a")[0]).header
    for sub_blocks in (1, 2):
        oti = Oti(RAPTORQ, 80, 3, blocks=1, sub_blocks=sub_blocks)
        told = header._replace(scheme=RAPTORQ, fti=(oti, 200))
        if sub_blocks == 1:
            assert FdtReception().take(told, 0, 0, bytes(80), WALL) is None
        else:
            with pytest.raises(Malformed, match="not taken"):
                FdtReception().take(told, 0, 0, bytes(80), WALL)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(0, 2), st.sampled_from([80, 90])),
        max_size=30,
    )
)
def test_nothing_is_said_that_was_not_sent(steps: list[tuple[str, int, int, int]]) -> None:
    reception = FdtReception()
    sent: set[str] = set()
    for name, number, index, size in steps:
        datagrams = packets(name, number, size)
        sent.add(name)
        try:
            assert set(take(reception, datagrams[index % len(datagrams)])) <= sent
        except Malformed as error:
            pytest.fail(f"of parts of instances that differ in a letter: {error}")


def test_what_is_kept_is_not_added_up_for_each_instance_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an instance of one datagram costs more the more there were: 3 ms after 4096 of them."""
    looks = 0

    class Counted(fdt_reception._Whole):
        @property
        def bytes(self) -> int:
            nonlocal looks
            looks += 1
            return 200

    monkeypatch.setattr(fdt_reception, "_Whole", Counted)
    monkeypatch.setattr(fdt_reception, "WHOLE_MAX", 100)
    reception = FdtReception()
    for number in range(300):
        assert take(reception, *packets("a", number)) == ["a"]
    assert looks == 300 + 200, "once when it is kept, once when it is forgotten"
