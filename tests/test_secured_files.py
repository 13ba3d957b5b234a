"""Files from a channel with keys to a subscription with keys, through memory: who is believed."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.secured import Receiver, Sender
from support.trees import files_below, grow_tree

from mcastd import clock
from mcastd.config import FluteInbound
from mcastd.delivery.keys import KeyFileError, make_group_key, make_signing_pair
from mcastd.errors import SourceError
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import ListBatch
from mcastd.protocols import alc, fec, lct, raptorq
from mcastd.protocols.crypto import MissingLibraryError
from mcastd.protocols.manifest import MTIME_NS_MAX, ManifestReason
from mcastd.protocols.manifest_packets import MANIFEST_TOI, manifest_packets

pytest.importorskip("cryptography")
pytestmark = pytest.mark.usefixtures("no_fd_leak")
needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

SIZES = {"empty": 0, "one": 1, "deep/even": 2896, "deep/odd": 2897, "deep/er/large": 300_001}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a tree, two pairs for signing (a, b), and two group keys (1, 2)."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    grow_tree(tmp_path / "source", SIZES)
    for name in "ab":
        make_signing_pair(tmp_path / name)
    for name in "12":
        make_group_key(tmp_path / name)
    return tmp_path


@pytest.fixture
def sender(place: Path) -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def make(**keys: Any) -> Sender:
        made.append(Sender(place, **keys))
        return made[-1]

    yield make
    for one in made:
        one.source.restart()


@pytest.fixture
def receiver(place: Path) -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(**settings: Any) -> Receiver:
        made.append(Receiver(place, **settings))
        return made[-1]

    yield make
    for one in made:
        one.sink.close(for_good=True)
        assert one.accounted == one.fed


MakeSender = Callable[..., Sender]
MakeReceiver = Callable[..., Receiver]
SIGNED = {"verify_keys": ["a.pub"]}
SEALED = {"verify_keys": ["a.pub"], "keys": ["1"]}


def toi_of(datagram: bytes) -> int:
    return lct.parse(datagram).toi or 0


def flipped(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes([datagram[-1] ^ 1])


def test_both_ends_tell_of_the_same_manifest(place: Path, sender: MakeSender, receiver: MakeReceiver) -> None:
    by_a, by_b, taker = sender(sign="a", key="1"), sender(sign="b", key="1"), receiver(**SEALED)
    assert by_a.source.files is not None
    assert by_a.source.files.manifest is None  # the keys are read when the first pass begins
    taker.take(by_b.a_pass())
    other = taker.sequencer.manifest
    assert other is not None
    assert (other.serial, other.files, other.refused) == (None, 0, "signature")
    assert other.refusal == "no key that is trusted has signed it"
    refused = taker.sequencer.refused_manifests
    assert refused["signature"] >= 1
    assert {*refused} == {*map(str, ManifestReason)}  # each from the start, or rate() misses the first
    assert refused.total() == refused["signature"]
    taker.take(by_a.a_pass())
    sent, taken = by_a.source.files.manifest, taker.sequencer.manifest
    assert sent == taken
    assert sent is not None
    assert sent.signer == (place / "a.pub").read_text().strip()
    assert (sent.files, sent.total_bytes, sent.refused) == (len(SIZES), sum(SIZES.values()), "")
    assert sent.issued is not None
    assert sent.expires == sent.issued + 3600
    assert by_a.source.files.described_seconds == 1800
    taker.take(by_b.a_pass())
    assert taker.sequencer.manifest is taken


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ({"sign": "a"}, SIGNED),
        ({"sign": "a"}, {}),  # without keys its FDT is believed
        ({"key": "1"}, {"keys": ["1"]}),
        ({"sign": "a", "key": "1"}, SEALED),
        ({"sign": "a", "key": "1"}, {"keys": ["2", "1"]}),
        pytest.param({"sign": "a", "key": "1", "protect": "20%"}, SEALED, marks=needs_library),
        pytest.param({"sign": "a", "protect": "20%"}, SIGNED, marks=needs_library),
    ],
)
def test_each_pass_brings_what_has_changed(
    place: Path, sender: MakeSender, receiver: MakeReceiver, sent: dict[str, str], received: dict[str, Any]
) -> None:
    sending, receiving = sender(**sent), receiver(**received)
    loss, chance = 0.1 if "protect" in sent else 0.0, random.Random(3)
    for odd in (b"other", b"third"):
        receiving.take([one for one in sending.a_pass() if chance.random() >= loss])
        assert receiving.files == files_below(place / "source")
        (place / "source" / "deep" / "odd").write_bytes(odd)
    assert not receiving.dropped
    assert max(map(len, sending.a_pass())) <= 1472


def test_what_was_held_of_another_session_is_foreign_once_the_session_is_known(
    place: Path, sender: MakeSender, receiver: MakeReceiver
) -> None:
    sending, receiving = sender(sign="a"), receiver(**SIGNED)
    datagrams = sending.a_pass()
    symbols = [one for one in datagrams if toi_of(one) not in {0, MANIFEST_TOI} and len(one) > 20]
    elsewhere = [one[:8] + (2).to_bytes(4) + one[12:] for one in symbols[:9]]  # another TSI
    receiving.take(elsewhere)
    assert receiving.sequencer.held == 9
    receiving.take(datagrams)
    assert receiving.dropped == {"foreign-session": 9}
    assert receiving.files == files_below(place / "source")


def test_of_the_session_that_is_named_alone_a_manifest_is_taken(place: Path, sender: MakeSender) -> None:
    datagrams = sender(sign="a").a_pass()  # in session 7
    for session, foreign in ((8, len(datagrams)), (7, 0)):
        settings = FluteInbound(session=session, verify_keys=(str(place / "a.pub"),))
        dropped: Counter[str] = Counter()
        sequencer = FluteSequencer(settings, dropped, "inbound/images")
        sequencer.open()
        assert sum(len(batch) for batch in sequencer.feed(ListBatch(datagrams))) == len(datagrams) - foreign
        assert dropped["foreign-session"] == foreign


def test_it_says_so_while_manifests_of_another_session_come_than_the_one_of_its_settings(
    place: Path, sender: MakeSender
) -> None:
    datagrams = sender(sign="a").a_pass()
    settings = FluteInbound(verify_keys=(str(place / "a.pub"),), session=8)
    sequencer = FluteSequencer(settings, Counter(), "inbound/images")
    sequencer.open()
    assert sequencer.problem == ""
    list(sequencer.feed(ListBatch(datagrams)))
    assert sequencer.problem == "takes no files: session 7 comes, and it is to receive 8"
    list(sequencer.feed(ListBatch(sender(sign="a", session=8).a_pass())))
    assert sequencer.problem == ""


def test_without_a_manifest_that_holds_what_comes_is_held(place: Path, sender: MakeSender) -> None:
    datagrams = sender(sign="a").a_pass()
    symbols = [one for one in datagrams if toi_of(one) not in {0, MANIFEST_TOI} and len(one) > 20]
    settings, now, wall = FluteInbound(verify_keys=(str(place / "a.pub"),)), 50.0, clock.wall()
    sequencer = FluteSequencer(settings, Counter(), "inbound/images", now=lambda: now, wall=lambda: wall)
    sequencer.open()
    (batch,) = sequencer.feed(ListBatch(datagrams))
    assert len(batch) == len(datagrams)
    for seconds, held in ((3500.0, 0), (3700.0, len(symbols))):
        now, wall = now + seconds, wall + seconds
        (batch,) = sequencer.feed(ListBatch(symbols))
        assert (len(batch), sequencer.held) == (len(symbols) - held, held)


@pytest.mark.parametrize(
    ("sent", "received", "reason"),
    [
        ({}, SIGNED, "no-fdt"),
        ({"sign": "b"}, SIGNED, "refused"),
        ({"sign": "a", "key": "1"}, SIGNED, "wrong-key"),
        ({"sign": "a", "key": "1"}, {}, "wrong-key"),
        ({"sign": "a", "key": "2"}, SEALED, "wrong-key"),
        ({"sign": "b", "key": "1"}, SEALED, "refused"),
        ({"key": "1"}, SEALED, "refused"),
        ({"sign": "a"}, SEALED, "forged"),
        ({}, SEALED, "forged"),
        ({"sign": "a"}, SIGNED | {"name": "other"}, "refused"),
    ],
)
def test_what_is_not_signed_and_sealed_as_it_is_to_be_is_refused(
    sender: MakeSender, receiver: MakeReceiver, sent: dict[str, str], received: dict[str, Any], reason: str
) -> None:
    receiving = receiver(**received)
    receiving.take(sender(**sent).a_pass())
    list(receiving.sequencer.expire(float("inf")))
    assert receiving.files == {}
    assert receiving.dropped[reason]
    assert receiving.dropped.keys() <= {reason, "no-fdt"}
    if (manifest := receiving.sequencer.manifest) is not None and sent and reason != "refused":
        assert (manifest.serial, manifest.refused) == (None, reason)
        assert manifest.refusal


def test_an_outsider_fills_no_log_with_refused_manifests(
    sender: MakeSender, receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason is said once until a manifest is taken, whichever come in turns."""
    logged: list[str] = []
    receiving = receiver(**SIGNED)
    monkeypatch.setattr(
        receiving.sequencer._objects._log, "warning", lambda *_, reason, **__: logged.append(reason)
    )
    of_another = sender(sign="b").a_pass()
    signed = next(one for one in of_another if toi_of(one) == MANIFEST_TOI)
    none = signed[:48] + b"?" + signed[49:]  # its first byte, behind header, payload ID and serial
    receiving.take([signed, none] * 9)
    assert logged == ["signature", "malformed"]
    assert receiving.dropped == {"refused": 18}


def test_an_outsider_changes_nothing_in_a_sealed_session(
    place: Path, sender: MakeSender, receiver: MakeReceiver
) -> None:
    sending, receiving = sender(sign="a", key="1"), receiver(**SEALED)
    before = sending.a_pass()
    (place / "source" / "one").write_bytes(b"newer")
    datagrams = sending.a_pass()
    old = [one for one in before if toi_of(one) == MANIFEST_TOI]
    new = [one for one in datagrams if toi_of(one) == MANIFEST_TOI]
    objects = [one for one in datagrams if toi_of(one) != MANIFEST_TOI]
    assert b"deep" not in b"".join(datagrams)  # no name is to be read, and no FDT
    assert not [one for one in datagrams if toi_of(one) == 0]
    receiving.take(new[:1])
    oti = fec.Oti(fec.NO_CODE, 100, 8)
    outsiders = {
        "forged": [
            *map(flipped, objects),
            *map(flipped, new),
            *(bytes([one[0], one[1] | 3, *one[2:]]) for one in objects),  # the close flags A and B
            *alc.fdt_packets(7, 3, b"an FDT", 100),
            lct.build(7, MANIFEST_TOI, fec.NO_CODE, fec.build_fti(oti, 6)) + bytes(4) + b"x" * 6,
            *manifest_packets(7, b"manifest", 2**63, 1472),
        ],
        "replayed": old,
        "foreign-session": [one[:11] + b"\x08" + one[12:] for one in objects],
    }
    for reason, forged in outsiders.items():
        receiving.take(forged)
        assert receiving.dropped[reason] == len(forged)
    assert receiving.dropped.keys() == outsiders.keys()
    assert receiving.files.keys() <= {"empty"}
    for one in objects:
        receiving.take([flipped(one), one, old[0]])
    assert receiving.files == files_below(place / "source")


def test_a_wrong_block_of_a_signed_session_is_thrown_away(
    place: Path, sender: MakeSender, receiver: MakeReceiver
) -> None:
    sending, receiving = sender(sign="a"), receiver(**SIGNED)
    receiving.take(
        [flipped(one) if toi_of(one) not in {0, MANIFEST_TOI} else one for one in sending.a_pass()]
    )
    assert receiving.files == {"empty": b""}
    assert receiving.sink.counters.dropped["hash"]
    receiving.take(sending.a_pass())
    assert receiving.files == files_below(place / "source")


@pytest.mark.parametrize("key", ["", "1"])
def test_an_output_that_begins_later_gets_all_files(
    place: Path, sender: MakeSender, receiver: MakeReceiver, key: str
) -> None:
    sending, receiving = sender(sign="a", key=key), receiver(**(SEALED if key else SIGNED))
    receiving.take(sending.a_pass())
    receiving.give_to(place / "another")
    receiving.take(sending.a_pass())
    assert receiving.files == files_below(place / "source")


def test_both_ends_are_started_anew(place: Path, sender: MakeSender, receiver: MakeReceiver) -> None:
    first = sender(sign="a", key="1")
    old = first.a_pass()
    stopped = receiver(**SEALED)
    stopped.take(old[: len(old) // 2])
    stopped.sink.close()
    second = sender(sign="a", key="1")  # its salt and its serial are others
    receiving = receiver(**SEALED)
    receiving.take(second.a_pass())
    assert receiving.files == files_below(place / "source")
    assert not receiving.dropped
    receiving.sink.close()
    again = receiver(**SEALED)
    again.take(old)  # the state directory knows that they were replaced
    list(again.sequencer.expire(float("inf")))
    assert again.dropped["replayed"]
    assert again.dropped.keys() == {"replayed", "no-fdt"}


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ({"sign": "a"}, SIGNED),
        pytest.param({"sign": "a", "key": "1", "protect": "20%"}, SEALED, marks=needs_library),
    ],
)
def test_a_file_that_is_too_large_for_one_object_comes_in_parts(
    place: Path, sender: MakeSender, receiver: MakeReceiver, sent: dict[str, str], received: dict[str, Any]
) -> None:
    large = place / "source" / "deep" / "er" / "large"
    with large.open("r+b") as file:  # most of it is a hole
        file.truncate(9_000_001)
        file.seek(8_500_000)
        file.write(b"not in the first part")
    sending = sender(object_max=4_000_000, **sent)
    datagrams = sending.a_pass()
    assert (sending.source.files.files, sending.source.files.total_bytes) == (
        5,
        sum(path.stat().st_size for path in (place / "source").rglob("*") if path.is_file()),
    )
    loss, chance = 0.1 if "protect" in sent else 0.0, random.Random(3)
    arrived = [one for one in datagrams if chance.random() >= loss]
    stopped = receiver(**received)
    stopped.take(arrived[: len(arrived) * 2 // 3])
    assert "deep/er/large" not in stopped.files
    stopped.sink.close()
    again = receiver(**received)
    manifest = [one for one in arrived if toi_of(one) == MANIFEST_TOI]
    again.take(manifest + arrived[len(arrived) * 2 // 3 - 200 * len(sent) :])
    again.take(sending.a_pass())
    assert again.files == files_below(place / "source")
    with large.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"a block of the second part is another")
    before = again.sink.counters.written_bytes
    again.take(sending.a_pass())
    assert again.files == files_below(place / "source")
    block = 1024 * 1448
    assert again.sink.counters.written_bytes - before <= block
    other = place / "other"
    unsigned = Receiver(other)
    unsigned.take(sending.a_pass())  # nothing tells it that these belong together
    assert "deep/er/large" not in unsigned.files
    unsigned.sink.close(for_good=True)


@pytest.mark.parametrize("key", ["", "1"])
def test_a_receiver_that_is_started_anew_goes_on_with_what_it_had(
    place: Path, sender: MakeSender, receiver: MakeReceiver, key: str
) -> None:
    received = SEALED if key else SIGNED
    (place / "source" / "long").write_bytes(random.Random(9).randbytes(4_000_000))  # three blocks
    datagrams = sender(sign="a", key=key).a_pass()
    last_block = next(at for at, one in enumerate(datagrams) if one[16:18] == b"\0\2")
    stopped = receiver(**received)
    stopped.take(datagrams[: last_block + 50])
    assert "long" not in stopped.files
    stopped.sink.close()
    again = receiver(**received)
    again.take([one for one in datagrams if toi_of(one) == MANIFEST_TOI] + datagrams[last_block:])
    assert again.files == files_below(place / "source")
    assert again.sink.counters.dropped.total() == 0


def test_keys_are_rotated(place: Path, sender: MakeSender, receiver: MakeReceiver) -> None:
    receiving = receiver(verify_keys=["a.pub", "b.pub"], keys=["1", "2"])
    for sign, key, content in (("a", "1", b"of a"), ("b", "1", b"of b"), ("b", "2", b"of 2")):
        (place / "source" / "one").write_bytes(content)
        receiving.take(sender(sign=sign, key=key).a_pass())
        assert receiving.files["one"] == content
    assert not receiving.dropped


def test_a_key_that_others_can_read_is_said(place: Path, sender: MakeSender, receiver: MakeReceiver) -> None:
    (place / "1").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        receiver(**SEALED)
    sending = sender(sign="a", key="1")
    with pytest.raises(SourceError, match="chmod 600"):
        sending.source.read()
    (place / "1").chmod(0o600)
    assert sending.a_pass()


def test_without_its_keys_a_subscription_takes_nothing(place: Path, sender: MakeSender) -> None:
    dropped: Counter[str] = Counter()
    settings = FluteInbound.model_validate({"verify_keys": [str(place / "a.pub")]})
    sequencer = FluteSequencer(settings, dropped, "inbound/images")  # it was not opened
    datagrams = sender(sign="a").a_pass()
    (given,) = sequencer.feed(ListBatch(datagrams))
    assert len(given) == 0
    assert dropped == {"refused": len(datagrams)}


@pytest.mark.parametrize("keys", [{"verify_keys": ["a.pub"]}, {"keys": ["1"]}])
def test_without_the_library_a_subscription_with_keys_does_not_begin(
    place: Path, receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch, keys: dict[str, list[str]]
) -> None:
    """It would count as active until the first manifest, and lose what comes with that."""
    for name in [*sys.modules, "cryptography"]:
        if name.partition(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match="python3-cryptography"):
        receiver(**keys)


@pytest.mark.parametrize(
    ("sent", "keys"), [({"sign": "a"}, {"verify_keys": ["a.pub"]}), ({"key": "1"}, {"keys": ["1"]})]
)
def test_the_library_is_loaded_before_anything_comes(
    place: Path, sender: MakeSender, sent: dict[str, str], keys: dict[str, list[str]]
) -> None:
    """Later a descriptor could be missing for that: the run ended then, with all that came meanwhile."""
    script = "import os, resource, sys, pickle; sys.path[:0] = sys.argv[1:3]\nfrom pathlib import Path\n"
    script += "from support.secured import Receiver\nfrom mcastd.net.link import ListBatch\n"
    script += "place, keys, datagrams = pickle.load(sys.stdin.buffer)\nreceiver = Receiver(place, **keys)\n"
    script += "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 4096))\n"
    script += "print(sum(map(len, receiver.sequencer.feed(ListBatch(datagrams)))), receiver.dropped.total())"
    datagrams = sender(**sent).a_pass()
    result = subprocess.run(
        [sys.executable, "-c", script, *sys.path[:2]],
        input=pickle.dumps((place, keys, datagrams)),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.split()[-2:] == [b"%d" % len(datagrams), b"0"]


def test_a_manifest_stays_while_nothing_has_changed(sender: MakeSender) -> None:
    sending = sender(sign="a", key="1")
    first, second = ({one for one in sending.a_pass() if toi_of(one) == MANIFEST_TOI} for _ in range(2))
    assert first == second


def test_no_md5_is_made_of_files_that_a_manifest_alone_tells_of(
    sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as all other hashing. Where they are signed and not sealed an FDT tells it, too."""
    made: list[str] = []
    md5 = hashlib.md5

    def counting(*data: bytes, **said: bool) -> hashlib._Hash:
        made.append("md5")
        return md5(*data, **said)

    monkeypatch.setattr(hashlib, "md5", counting)
    sender(sign="a", key="1").a_pass()
    assert not made
    sender(sign="a").a_pass()
    assert len(made) == len(SIZES)


def test_a_manifest_is_renewed_within_a_long_pass(
    sender: MakeSender, receiver: MakeReceiver, place: Path
) -> None:
    """A pass takes longer than it would, as the link is full or the rate is lowered: no manifest expires."""
    now = [clock.wall() - 1801]
    sending = sender(sign="a", key="1", wall=lambda: now[0])
    first = {one for one in sending.some(30) if toi_of(one) == MANIFEST_TOI}
    status = sending.source.files.manifest
    assert (status.issued, status.expires) == (int(now[0]), int(now[0] + 3600))
    now[0] += 1799
    again = sending.some(30)
    assert {one for one in again if toi_of(one) == MANIFEST_TOI} <= first
    assert sending.source.files.manifest is status
    now[0] += 2
    rest = sending.a_pass()
    assert sending.source.rounds == 1
    assert first.isdisjoint(rest)
    assert sending.source.files.manifest.expires == int(now[0] + 3600)
    taker = receiver(**SEALED)
    taker.take([*rest, *sending.a_pass()])  # the rest of that pass, and what came before it of the next
    assert taker.files == files_below(place / "source")
    assert not taker.dropped


def test_a_manifest_is_made_anew_when_the_clock_is_set_back_within_a_pass(
    sender: MakeSender, receiver: MakeReceiver, place: Path
) -> None:
    """As of a host whose clock was two hours ahead: who comes then takes nothing from the future."""
    ahead = 7200.0
    sending = sender(sign="a", key="1", wall=lambda: clock.wall() + ahead)
    first = {one for one in sending.some(30) if toi_of(one) == MANIFEST_TOI}
    ahead = 0.0
    rest = sending.a_pass()
    assert sending.source.rounds == 1
    assert first.isdisjoint(rest)
    taker = receiver(**SEALED)
    taker.take([*rest, *sending.a_pass()])
    assert taker.files == files_below(place / "source")
    assert not taker.dropped


def test_a_time_that_no_manifest_can_say_costs_no_file(
    sender: MakeSender, receiver: MakeReceiver, place: Path
) -> None:
    odd, late = place / "source" / "one", MTIME_NS_MAX + 10**18
    os.utime(odd, ns=(0, late))
    if odd.stat().st_mtime_ns != late:
        pytest.skip("this file system has no such times")
    taker = receiver(**SEALED)
    taker.take(sender(sign="a", key="1").a_pass())
    assert taker.files == files_below(place / "source")
    assert (taker.path / "one").stat().st_mtime_ns == MTIME_NS_MAX


def test_what_a_manifest_lists_no_more_is_neither_awaited_nor_counted(
    sender: MakeSender, receiver: MakeReceiver, place: Path
) -> None:
    taker, sending = receiver(**SEALED), sender(sign="a", key="1")
    datagrams = sending.a_pass()
    symbols = [one for one in datagrams if toi_of(one) != MANIFEST_TOI]
    ((large, _),) = Counter(map(toi_of, symbols)).most_common(1)
    some = [one for one in symbols if toi_of(one) == large][:3]
    taker.take([one for one in datagrams if toi_of(one) != large] + some)
    objects = taker.sink.status().objects
    assert objects is not None
    assert objects.states == {"landed": len(SIZES) - 1, "receiving": 1}
    for name in SIZES:
        if name != "one":
            (place / "source" / name).unlink()
    (place / "source" / "new").write_bytes(b"news")
    taker.take([*some, *(one for one in sending.a_pass() if toi_of(one) == MANIFEST_TOI)])
    objects = taker.sink.status().objects
    assert objects is not None
    assert objects.states == {"landed": 1, "expired": 1}
    assert objects.total_bytes == objects.present_bytes == SIZES["one"]
    assert (taker.path / "one").exists()
    assert len(taker.files) == len(SIZES) - 1  # what has landed stays


def test_a_manifest_holds_for_as_long_as_passes_take_at_another_rate(sender: MakeSender) -> None:
    now = clock.wall()
    sending = sender(sign="a", wall=lambda: now)
    sending.some(30)
    sending.source.set_pace(1000, None)
    sending.some(1)
    passes = 4 * 8 * sum(SIZES.values()) / 1000
    assert sending.source.files.manifest.expires == int(now + 3600)  # until half of that is over it is kept
    assert sending.source.files.described_seconds == passes / 2
