"""The signed manifest: its bytes, who may have made them, what is refused and why."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcastd.keytext import GroupKey, SigningKey, VerifyingKey
from mcastd.protocols import fec, manifest
from mcastd.protocols.manifest import (
    CLOCK_TOLERANCE_SECONDS,
    Manifest,
    ManifestFile,
    ManifestReason,
    ManifestRefusedError,
    Part,
    Sealing,
    Seen,
    Verified,
    build,
    require_current,
    verify,
)

pytest.importorskip("cryptography")
from mcastd.protocols import crypto

KEY = SigningKey(bytes(range(1, 33)))
PUBLIC = crypto.verifying_key(KEY)
OTHER = SigningKey(bytes(range(2, 34)))
NO_CODE = fec.Oti(fec.NO_CODE, 1432, 1024)
ISSUED, EXPIRES = 1_790_000_000, 1_790_086_400
SEALING = Sealing(b"group-id", bytes(range(100, 132)))


def hashes(count: int, seed: int = 0) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(bytes((seed, number))).digest() for number in range(count))


def file(*name: str, toi: int = 7, blocks: int = 1) -> ManifestFile:
    length = blocks * 1024 * 1432 - 5
    part = Part(toi, length, NO_CODE, hashes(blocks, toi % 256))
    return ManifestFile(name, 0o640, 1_700_000_000_123_456_789, (part,))


def made(*files: ManifestFile, **fields: object) -> Manifest:
    values: dict[str, object] = {
        "channel": "images",
        "session": 9,
        "serial": 41,
        "issued": ISSUED,
        "expires": EXPIRES,
        "files": files,
        "sealing": SEALING,
    }
    return Manifest(**(values | fields))  # type: ignore[arg-type]


def signed(body: bytes, key: SigningKey = KEY) -> bytes:
    """A body as a signer who has gone mad would send it."""
    signature = crypto.sign(key, b"mcastd manifest v1\0" + hashlib.sha512(body).digest())
    return b"mcastd\0\1" + signature + body


def body_of(value: Manifest) -> bytes:
    return build(value, KEY)[72:]


def reason_of_verify(data: bytes, keys: tuple[VerifyingKey, ...] = (PUBLIC,)) -> ManifestReason:
    with pytest.raises(ManifestRefusedError) as refused:
        verify(data, keys)
    assert str(refused.value).isprintable()
    return refused.value.reason


# -- there and back


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    component = st.text(min_size=1, max_size=12).filter(lambda part: not {"/", "\0"} & set(part))
    otis = [NO_CODE, fec.Oti(fec.NO_CODE, 7, 3), fec.Oti(fec.REED_SOLOMON, 100, 9, max_symbols=12)]
    tois = iter(draw(st.sets(st.integers(1, 2**64 - 1), min_size=12, max_size=12)))
    files = []
    for number in range(draw(st.integers(0, 4))):
        of_file = []
        for _ in range(draw(st.integers(1, 3))):
            oti = draw(st.sampled_from(otis))
            length = draw(st.integers(0, 40 * oti.symbol_size))
            of_file.append(Part(next(tois), length, oti, hashes(fec.Blocks(oti, length).count, number)))
        name = [draw(component) + str(number), *draw(st.lists(component, max_size=3))]
        mtime_ns = draw(st.integers(-(2**63), 2**63 - 1))
        files.append(ManifestFile(tuple(name), draw(st.integers(0, 0o777)), mtime_ns, tuple(of_file)))
    salt = draw(st.binary(min_size=32, max_size=32))
    return Manifest(
        channel=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,9}\Z")),
        session=draw(st.integers(0, 2**32 - 1)),
        serial=draw(st.integers(0, 2**64 - 1)),
        issued=draw(st.integers(0, ISSUED)),
        expires=draw(st.integers(ISSUED + 1, manifest.TIME_MAX_SECONDS)),
        files=tuple(files),
        sealing=draw(st.sampled_from([None, Sealing(salt[:8], salt)])),
    )


@given(manifests())
@settings(max_examples=30)
def test_what_is_built_is_read_as_the_same_in_any_order(value: Manifest) -> None:
    data = build(value, KEY)
    verified = verify(data, [PUBLIC])
    assert verified.signer == PUBLIC
    assert replace(verified.manifest, files=()) == replace(value, files=())
    assert set(verified.manifest.files) == set(value.files)
    assert build(verified.manifest, KEY) == build(replace(value, files=value.files[::-1]), KEY) == data


def test_names_that_are_no_utf_8_stay_what_they_are() -> None:
    name = os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe")
    (read,) = verify(build(made(file(*name)), KEY), [PUBLIC]).manifest.files
    assert [os.fsencode(part) for part in read.name] == [b"caf\xe9", b"\xff\xfe"]


def test_the_bytes_are_those_of_the_first_version() -> None:
    """Another version of mcastd reads them: this has to fail when they change."""
    data = build(made(file("etc", "motd", toi=9, blocks=2), file("a", toi=3)), KEY)
    assert data[:8] == b"mcastd\0\1"
    assert data[72:104] == struct.pack(">QQQIB", 41, ISSUED, EXPIRES, 9, 6) + b"ima"
    assert (
        hashlib.sha256(data).hexdigest() == "bda14ccb62e8b967b478345b73b770a07a79698c67f2ab9b0d5c2d4cb69c658b"
    )


def test_files_keep_their_directories() -> None:
    names = [("b", "c", "d"), ("e",), ("b", "c-d"), ("b", "c", "a"), ("a",), ("b", "a")]
    files = [file(*name, toi=number) for number, name in enumerate(names, start=1)]
    found = [one.name for one in verify(build(made(*files), KEY), [PUBLIC]).manifest.files]
    assert found == [("a",), ("b", "a"), ("b", "c", "a"), ("b", "c", "d"), ("b", "c-d"), ("e",)]


# -- who signed it


def test_one_of_several_trusted_keys_has_signed_it() -> None:
    data = build(made(file("a")), KEY)
    assert verify(data, [crypto.verifying_key(OTHER), PUBLIC]).signer == PUBLIC
    assert reason_of_verify(data, (crypto.verifying_key(OTHER),)) == "signature"


def test_every_bit_is_signed() -> None:
    data = build(made(file("a"), sealing=None), KEY)
    for place in range(8, len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert reason_of_verify(bytes(changed)) == "signature"
    assert reason_of_verify(data + b"\0") == reason_of_verify(data[:-1]) == "signature"


def test_nothing_is_parsed_before_it_is_known_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_body: bytes) -> Manifest:
        raise AssertionError("parsed")

    data = build(made(file("a")), OTHER)
    monkeypatch.setattr(manifest, "_parsed", parse)
    assert reason_of_verify(data) == "signature"
    with pytest.raises(AssertionError, match="parsed"):
        verify(data, [crypto.verifying_key(OTHER)])


def test_one_that_nobody_signed_is_taken_only_where_nobody_is_asked_for() -> None:
    data = build(made(file("a")), None)
    assert data[8:72] == bytes(64)
    assert verify(data, []).signer is None
    assert reason_of_verify(data) == "signature"


def test_a_signature_for_something_else_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key may sign other things: what it signs here begins with what it is."""
    body = body_of(made(file("a")))
    for message in (body, hashlib.sha512(body).digest(), b"mcastd link v1\0" + hashlib.sha512(body).digest()):
        assert reason_of_verify(b"mcastd\0\1" + crypto.sign(KEY, message) + body) == "signature"


# -- when and where it holds


def judged(
    serial: int, seen: int | None, *, now: float = ISSUED + 1.0, channel: str = "images", other: bool = False
) -> str:
    verified = verify(build(made(file("a"), serial=serial), KEY), [PUBLIC])
    before = bytes(32) if other else verified.digest
    try:
        require_current(verified, channel, None if seen is None else Seen(seen, before), now)
    except ManifestRefusedError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("serial", "seen", "reason"),
    [
        (41, None, ""),
        (41, 40, ""),
        (41, 41, ""),
        (41, 42, "rolled-back"),
        (0, None, ""),
        (0, 1, "rolled-back"),
        (2**64 - 1, 2**64 - 2, ""),
        (2**64 - 1, 2**64 - 1, ""),
        (2**64 - 2, 2**64 - 1, "rolled-back"),
        (0, 2**64 - 1, "rolled-back"),  # a serial never wraps
    ],
)
def test_an_older_manifest_is_refused(serial: int, seen: int | None, reason: str) -> None:
    assert judged(serial, seen) == reason


def test_another_manifest_with_the_serial_of_one_before_is_refused() -> None:
    assert judged(41, 41, other=True) == "ambiguous"
    assert judged(41, 40, other=True) == ""


def test_a_manifest_of_another_channel_is_refused() -> None:
    assert judged(41, None, channel="backups") == "other-channel"
    assert judged(41, 99, channel="backups") == "other-channel"


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (float(ISSUED), ""),
        (ISSUED - CLOCK_TOLERANCE_SECONDS, ""),
        (ISSUED - CLOCK_TOLERANCE_SECONDS - 0.5, "not-yet-valid"),
        (0.0, "not-yet-valid"),  # a host whose clock was never set
        (EXPIRES - 0.5, ""),
        (float(EXPIRES), "expired"),
        (1e12, "expired"),
    ],
)
def test_the_clock_decides_at_each_look(now: float, reason: str) -> None:
    assert judged(41, 41, now=now) == reason


def test_steps_of_the_clock_are_followed() -> None:
    verified = verify(build(made(file("a")), KEY), [PUBLIC])
    seen = Seen(41, verified.digest)
    for now, reason in (
        (ISSUED + 5, ""),
        (EXPIRES + 5, "expired"),
        (ISSUED - 999, "not-yet-valid"),
        (ISSUED, ""),
    ):
        found = ""
        try:
            require_current(verified, "images", seen, now)
        except ManifestRefusedError as error:
            found = error.reason
            assert str(error).isprintable()  # noqa: PT017
        assert found == reason


# -- what nobody may say, even with the key


@pytest.mark.parametrize(
    "value",
    [
        made(file("a", toi=0)),
        made(file("a", toi=2**64)),
        made(file("a", toi=5), file("b", toi=5)),
        made(file("a", toi=5), file("a", toi=6)),
        made(file("a", toi=5), file("a", "b", toi=6)),
        made(file("a", "b", toi=5), file("a", "b", "c", "d", toi=6)),
        made(file()),
        made(file("")),
        made(file("a", "")),
        made(file("a/b")),  # it would be read as two parts
        made(file("/a")),
        made(file("a\0b")),
        made(file("a" * 2048, "b" * 2048)),
        made(file("\udc00")),  # half of a character, which stands for no byte
        made(replace(file("a"), mode=0o1777)),
        made(replace(file("a"), mode=0o4755)),
        made(replace(file("a"), mode=-1)),
        made(replace(file("a"), mtime_ns=2**63)),
        made(replace(file("a"), parts=())),
        made(replace(file("a"), parts=(Part(7, 100, NO_CODE, ()),))),
        made(replace(file("a"), parts=(Part(7, 100, NO_CODE, hashes(2)),))),
        made(replace(file("a"), parts=(Part(7, 100, NO_CODE, (b"short",)),))),
        made(replace(file("a"), parts=(Part(7, 2**48, NO_CODE, hashes(1)),))),
        made(file("a"), channel=""),
        made(file("a"), channel="../x"),
        made(file("a"), channel="x" * 65),
        made(file("a"), channel="b\u00e4r"),
        made(file("a"), session=-1),
        made(file("a"), session=2**32),
        made(file("a"), serial=-1),
        made(file("a"), serial=2**64),
        made(file("a"), expires=ISSUED),
        made(file("a"), expires=manifest.TIME_MAX_SECONDS + 1),
        made(file("a"), issued=-1),
        made(file("a"), sealing=Sealing(b"short", bytes(32))),
        made(file("a"), sealing=Sealing(bytes(8), b"x" * 33)),
    ],
    ids=lambda value: "",
)
def test_no_manifest_is_built_that_would_be_refused(value: Manifest) -> None:
    with pytest.raises(ManifestRefusedError) as refused:
        build(value, KEY)
    assert refused.value.reason == "malformed"


ONE = made(file("a", toi=5), sealing=None)
HEAD = struct.pack(">QQQIB", 41, ISSUED, EXPIRES, 9, 6) + b"images\0"
CUT = manifest.pack_oti(NO_CODE)
LAST_OF_ONE = struct.pack(">HHqH", 1, 0o640, 0, 1) + b"a" + struct.pack(">QQI", 5, 9, 0) + hashes(1)[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (HEAD[:-1], "malformed"),
        (HEAD[:-1] + b"\2" + struct.pack(">II", 0, 0), "malformed"),
        (HEAD[:-1] + b"\1" + struct.pack(">II", 0, 0), "malformed"),
        (HEAD + struct.pack(">II", 2**32 - 1, 0), "too-large"),
        (HEAD + struct.pack(">II", 0, 2**32 - 1), "too-large"),
        (HEAD + struct.pack(">II", 200_000, 0), "malformed"),
        (HEAD + struct.pack(">II", 1, 200_000) + CUT, "malformed"),
        (HEAD + struct.pack(">II", 1, 1) + CUT, "malformed"),
        (HEAD + struct.pack(">II", 1, 1) + CUT + LAST_OF_ONE[:-1], "malformed"),
        (HEAD + struct.pack(">II", 1, 1) + CUT + LAST_OF_ONE + b"\0", "malformed"),
        (HEAD + struct.pack(">II", 0, 1) + LAST_OF_ONE, "malformed"),  # no such cut
        (HEAD + struct.pack(">II", 1, 1) + CUT[:1] + b"\0\0" + CUT[3:] + LAST_OF_ONE, "malformed"),
        (HEAD + struct.pack(">II", 1, 1) + b"\7" + CUT[1:] + LAST_OF_ONE, "malformed"),
        # A name, a number of parts and a number of hashes that are longer than all there is.
        (HEAD + struct.pack(">IIHHqH", 0, 1, 4096, 0, 0, 1) + b"a", "malformed"),
        (HEAD + struct.pack(">IIHHqH", 0, 1, 1, 0, 0, 65535) + b"a", "malformed"),
        (
            HEAD + struct.pack(">II", 1, 1) + CUT + LAST_OF_ONE[:15] + struct.pack(">QQI", 5, 2**47, 0),
            "malformed",
        ),
        (
            HEAD + struct.pack(">II", 1, 1) + CUT + LAST_OF_ONE[:15] + struct.pack(">QQI", 5, 2**63, 0),
            "malformed",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_signer_says_is_held_to_its_limits(body: bytes, reason: str) -> None:
    assert reason_of_verify(signed(body)) == reason


def test_the_body_made_by_hand_is_taken_when_it_is_right() -> None:
    """Else the cases above could be refused for something else."""
    body = HEAD + struct.pack(">II", 1, 1) + CUT + LAST_OF_ONE
    assert verify(signed(body), [PUBLIC]).manifest.files[0].name == ("a",)
    assert verify(signed(HEAD + struct.pack(">II", 0, 0)), [PUBLIC]).manifest.files == ()


def test_files_out_of_order_are_refused() -> None:
    first, second = (
        LAST_OF_ONE.replace(b"a", name, 1).replace(b"\5", toi, 1)
        for name, toi in ((b"a", b"\6"), (b"b", b"\7"))
    )
    head = HEAD + struct.pack(">II", 1, 2) + CUT
    assert len(verify(signed(head + first + second), [PUBLIC]).manifest.files) == 2
    assert reason_of_verify(signed(head + second + first)) == "malformed"


def test_too_many_bytes_are_refused_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "is_signed", None)
    assert reason_of_verify(bytes(manifest.MANIFEST_MAX_BYTES + 1)) == "too-large"
    for data in (b"", b"mcastd\0\1", b"mcastd\0\2" + bytes(100), b"<?xml" + bytes(100)):
        assert reason_of_verify(data) == "malformed"


def test_a_manifest_of_too_many_bytes_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(build(made(file("a")), KEY))
    monkeypatch.setattr(manifest, "MANIFEST_MAX_BYTES", size)
    build(made(file("a")), KEY)
    with pytest.raises(ManifestRefusedError) as refused:
        build(made(file("ab")), KEY)
    assert refused.value.reason == "too-large"


def test_a_manifest_of_too_many_objects_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        replace(file(name), parts=(Part(toi, 0, NO_CODE, ()),)) for toi, name in enumerate("abc", start=1)
    ]
    data = build(made(*files), KEY)
    monkeypatch.setattr(manifest, "OBJECTS_MAX", 2)
    assert reason_of_verify(data) == "too-large"
    many = replace(files[0], parts=tuple(Part(toi, 0, NO_CODE, ()) for toi in (1, 2, 3)))
    with pytest.raises(ManifestRefusedError):
        build(made(many), KEY)


WHOLE = body_of(made(file("etc", "motd", toi=9, blocks=2), file("a", toi=3)))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9), st.integers(0, 9))
@example(0, b"\xff" * 9, 0)
@settings(max_examples=150)
def test_any_signed_bytes_are_read_or_refused(place: int, put: bytes, cut: int) -> None:
    body = WHOLE[:place] + put + WHOLE[place + cut :]
    try:
        verified = verify(signed(body), [PUBLIC])
    except ManifestRefusedError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert verify(build(verified.manifest, KEY), [PUBLIC]).manifest == verified.manifest


@given(st.binary(max_size=200))
@settings(max_examples=80)
def test_any_bytes_are_refused(data: bytes) -> None:
    for tried in (data, b"mcastd\0\1" + data):
        assert reason_of_verify(tried) in ("malformed", "signature")
        with pytest.raises(ManifestRefusedError):
            verify(tried, [])


def test_a_tree_takes_its_names_and_hashes_and_little_more() -> None:
    part = Part(1, 1_000_000, NO_CODE, hashes(1))
    files = [
        ManifestFile(("data", f"{number:05}"), 0o644, 1, (replace(part, toi=number + 1),))
        for number in range(2_000)
    ]
    data = build(made(*files), KEY)
    assert len(data) < 2_000 * (14 + 10 + 20 + 32) + 300
    assert len(verify(data, [PUBLIC]).manifest.files) == 2_000


def test_keys_of_other_kinds_cannot_sign_or_verify() -> None:
    """A group key has 32 bytes as well: it is of another type, and its text is refused (test_keytext.py)."""
    assert not isinstance(GroupKey(KEY.value), SigningKey)
    data = build(made(file("a")), SigningKey(KEY.value))
    assert verify(data, [PUBLIC]) == Verified(
        verify(data, [PUBLIC]).manifest, PUBLIC, hashlib.sha512(data[72:]).digest()[:32]
    )
