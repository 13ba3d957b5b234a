"""A sealed and signed session as a whole: what a receiver takes, and what an outsider can do to it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mcastd.delivery.serials import Serials, StateError
from mcastd.keytext import GroupKey, SigningKey
from mcastd.protocols import fec, lct
from mcastd.protocols.manifest import (
    Manifest,
    ManifestFile,
    ManifestRefusedError,
    Part,
    Seen,
    build,
    require_current,
    verify,
)
from mcastd.protocols.seal import (
    OBJECT_OVERHEAD_BYTES,
    AnnouncementOpener,
    AnnouncementSealer,
    HashedBlock,
    NotOpenedError,
    ObjectOpener,
    SealingSession,
    key_ring,
)

pytest.importorskip("cryptography")
from mcastd.protocols.crypto import verifying_key

NEW, OLD, OUTSIDERS = (GroupKey(bytes(range(start, start + 32))) for start in (1, 2, 3))
SIGN, MEMBERS = (SigningKey(bytes(range(start, start + 32))) for start in (11, 12))
TSI, MANIFEST_TOI = 5, 900
NOW = 1_790_000_000
FILES = {"etc/motd": b"welcome\n" * 300, "boot/image": bytes(range(256)) * 31, "empty": b""}
CUT = fec.Oti(fec.NO_CODE, 200, 7)

Packet = tuple[bytes, int, int, bytes]  # header, SBN, ESI, payload: as a datagram has them


class Sender:
    """One run of a sender: its manifest is announced, then the symbols of its files."""

    def __init__(
        self, files: dict[str, bytes], serial: int, *, key: GroupKey = NEW, sign: SigningKey = SIGN
    ) -> None:
        session = SealingSession(key)
        self.objects: list[Packet] = []
        described = []
        for toi, (name, data) in enumerate(files.items(), start=1):
            blocks = fec.Blocks(CUT, len(data))
            held = [
                HashedBlock(data[blocks.offset(sbn) : blocks.offset(sbn) + blocks.size(sbn)])
                for sbn in range(blocks.count)
            ]
            part = Part(toi, len(data), CUT, tuple(block.digest for block in held))
            described.append(ManifestFile(tuple(name.split("/")), 0o644, 17, (part,)))
            sealer = session.sealer(TSI, part)
            for sbn, block in enumerate(held):
                payloads = sealer.source(sbn, block, 0, blocks.symbols(sbn))
                self.objects += [(sealer.header, sbn, esi, payload) for esi, payload in enumerate(payloads)]
        manifest = Manifest("images", TSI, serial, NOW, NOW + 1000, tuple(described), session.sealing)
        data = build(manifest, sign)
        oti = fec.Oti(fec.NO_CODE, 300, 1000)
        header = lct.build(TSI, MANIFEST_TOI, fec.NO_CODE, fec.build_fti(oti, len(data)))
        announcement = AnnouncementSealer(key, "images", serial, header, MANIFEST_TOI)
        self.announcement = [
            (header, 0, esi, announcement.seal(esi, data[at : at + 300]))
            for esi, at in enumerate(range(0, len(data), 300))
        ]


class Receiver:
    """What a receiver does, without a network: it counts what it does not take by reason."""

    def __init__(
        self,
        state: Path,
        keys: tuple[GroupKey, ...] = (NEW, OLD),
        signers: tuple[SigningKey, ...] = (SIGN,),
    ) -> None:
        self.keys = key_ring(keys)
        self.signers = [verifying_key(key) for key in signers]
        self.dropped: list[str] = []
        self.told: list[StateError] = []
        self.serials = Serials(state, self.told.append)
        self.files: dict[str, bytes] = {}
        self._opener = AnnouncementOpener(self.keys, "images")
        self._pieces: dict[bytes, dict[int, bytes]] = {}  # by salt and ESI
        self._openers: dict[bytes, tuple[ObjectOpener, str, Part]] = {}  # by header

    def take(self, packets: list[Packet], now: float = NOW) -> None:
        for header, sbn, esi, payload in packets:
            if (known := self._openers.get(header)) is not None:
                (symbol,) = known[0].open(sbn, esi, [payload])
                if symbol is None:
                    self.dropped.append("forged")
                else:
                    self._place(known[1], known[2], sbn, esi, symbol)
            else:
                self._announced(header, esi, payload, now)

    def _announced(self, header: bytes, esi: int, payload: bytes, now: float) -> None:
        try:
            found = self._opener.open(header, lct.parse(header).toi or 0, esi, payload)
            pieces = self._pieces.setdefault(found.salt, {})
            pieces[esi] = found.symbol
            extension = lct.parse(header).extensions[lct.EXT_FTI]
            if len(data := b"".join(pieces[at] for at in sorted(pieces))) == fec.parse_fti(0, extension)[1]:
                self._manifest(data, now)
        except (NotOpenedError, ManifestRefusedError) as error:
            self.dropped.append(error.reason)

    def _manifest(self, data: bytes, now: float) -> None:
        verified = verify(data, self.signers)
        manifest, signer = verified.manifest, verified.signer
        assert signer is not None
        assert manifest.sealing is not None
        require_current(verified, "images", self.serials.newest(self.signers, "images"), now)
        self.serials.keep(signer, "images", Seen(manifest.serial, verified.digest))
        self._openers.clear()
        for file in manifest.files:
            opener = ObjectOpener(
                self.keys[manifest.sealing.key_id], manifest.sealing.salt, TSI, part := file.parts[0]
            )
            self._openers[opener.header] = opener, "/".join(file.name), part
            self.files.setdefault("/".join(file.name), b"")

    def _place(self, name: str, part: Part, sbn: int, esi: int, symbol: bytes) -> None:
        at = (fec.Blocks(part.oti, part.length).first(sbn) + esi) * part.oti.symbol_size
        held = self.files[name].ljust(at + len(symbol), b"\0")
        self.files[name] = held[:at] + symbol + held[at + len(symbol) :]


def test_a_member_has_the_files_and_an_outsider_nothing(tmp_path: Path) -> None:
    sender = Sender(FILES, 41)
    member, outsider = Receiver(tmp_path / "a"), Receiver(tmp_path / "b", (OUTSIDERS,))
    for receiver in (member, outsider):
        receiver.take(sender.announcement + sender.objects[::-1])
    assert member.files == FILES
    assert member.dropped == []
    assert outsider.files == {}
    assert outsider.dropped == ["wrong-key"] * len(sender.announcement) + ["forged"] * len(sender.objects)
    sent = b"".join(payload for *_, payload in sender.announcement + sender.objects)
    assert not any(word in sent for word in (b"motd", b"image", b"welcome", bytes(range(50))))


def test_a_key_is_replaced_while_both_are_known(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    for serial, key in ((41, OLD), (42, NEW)):
        sender = Sender({"a": b"by %d" % serial}, serial, key=key)
        receiver.take(sender.announcement + sender.objects)
        assert receiver.files == {"a": b"by %d" % serial}
    assert receiver.dropped == []


def test_what_an_outsider_sends_changes_and_stops_nothing(tmp_path: Path) -> None:
    sender, elsewhere = Sender(FILES, 41), Sender(FILES, 99, key=OUTSIDERS)
    receiver = Receiver(tmp_path)
    receiver.take(
        elsewhere.announcement
        + [(header, sbn, esi, b"x" * 80) for header, sbn, esi, _ in sender.announcement]
    )
    receiver.take(sender.announcement)
    forged = []
    for number, (header, sbn, esi, payload) in enumerate(sender.objects):
        forged += [
            (header, sbn, esi, elsewhere.objects[number][3]),  # of a sender with another key
            (header, sbn, esi, payload[::-1]),
            (header, sbn, esi ^ 1, payload),  # in another place
            (header, sbn ^ 1, esi, payload),
            (lct.build(TSI, lct.parse(header).toi or 0, 0, close_object=True), sbn, esi, payload),
            (lct.build(TSI, 0, 0, close_session=True), sbn, esi, payload),
        ]
    receiver.take(forged)
    assert len(receiver.dropped) == len(elsewhere.announcement) + len(sender.announcement) + len(forged)
    receiver.take(sender.objects)
    assert receiver.files == FILES


def test_a_session_of_before_that_is_replayed_is_refused(tmp_path: Path) -> None:
    before, after = Sender({"a": b"old"}, 41), Sender({"a": b"new"}, 42)
    receiver = Receiver(tmp_path)
    receiver.take(before.announcement + before.objects)
    receiver.take(after.announcement + after.objects)
    receiver.take(before.announcement + before.objects)
    assert receiver.files == {"a": b"new"}
    assert receiver.dropped == ["rolled-back"] + ["forged"] * len(before.objects)
    started_again = Receiver(tmp_path)
    started_again.take(before.announcement + before.objects)
    assert started_again.files == {}
    assert started_again.dropped[0] == "rolled-back"
    started_again.take(after.announcement + after.objects)
    assert started_again.files == {"a": b"new"}


def test_the_last_manifest_of_a_signer_before_does_not_come_back(tmp_path: Path) -> None:
    before, after = Sender({"a": b"old"}, 41, sign=MEMBERS), Sender({"a": b"new"}, 42)
    receiver = Receiver(tmp_path, signers=(SIGN, MEMBERS))
    for sender in (before, after, before):
        receiver.take(sender.announcement + sender.objects)
    assert receiver.files == {"a": b"new"}
    assert receiver.dropped[0] == "rolled-back"


def test_a_member_can_read_and_not_speak_for_the_sender(tmp_path: Path) -> None:
    member = Sender({"a": b"forged"}, 43, sign=MEMBERS)
    receiver = Receiver(tmp_path)
    receiver.take(member.announcement + member.objects)
    assert receiver.files == {}
    assert receiver.dropped[0] == "signature"


def test_two_manifests_with_one_serial_and_wrong_clocks_are_refused(tmp_path: Path) -> None:
    first, second = Sender({"a": b"one"}, 41), Sender({"a": b"two"}, 41)
    receiver = Receiver(tmp_path)
    receiver.take(first.announcement + first.objects)
    receiver.take(second.announcement)
    receiver.take(first.announcement, now=NOW + 1000)
    receiver.take(first.announcement, now=NOW - 3600)
    receiver.take(first.announcement + first.objects, now=NOW + 999)
    assert receiver.dropped == ["ambiguous", "expired", "not-yet-valid"]
    assert receiver.files == {"a": b"one"}


def test_a_symbol_is_none_of_another_object_with_the_same_bytes() -> None:
    """Two files may have one content: a packet still is of the one that it was sealed for."""
    part = Part(1, 5, CUT, (hashlib.sha256(b"twice").digest(),))
    session = SealingSession(NEW)
    (payload,) = session.sealer(TSI, part).source(0, HashedBlock(b"twice"), 0, 1)
    salt = session.sealing.salt
    assert ObjectOpener(NEW, salt, TSI, part).open(0, 0, [payload]) == [b"twice"]
    assert ObjectOpener(NEW, salt, TSI, replace(part, toi=2)).open(0, 0, [payload]) == [None]
    assert len(payload) == len(b"twice") + OBJECT_OVERHEAD_BYTES
