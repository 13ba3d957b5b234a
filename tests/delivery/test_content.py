"""Objects that have come whole are decoded within limits, and compared with their digests."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.delivery import content as content_module
from mcastd.delivery.content import GIVEN_BYTES, STEP_BYTES, check, require_receivable
from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.refused import BAD_DESCRIPTION, BAD_ENCODING, TOO_LARGE, WRONG_DIGEST, RefusedError
from mcastd.protocols.checksum import Checksum
from mcastd.protocols.fec import Oti

CONTENT = random.Random(7).randbytes(1000) + bytes(3000)
OTI = Oti(0, 1000, 100)


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "deflate": deflate,
}


def described(sent: bytes, **changes: Any) -> ObjectDescription:
    told = {"toi": 3, "name": ("a",), "length": len(sent), "content_length": len(sent), "oti": OTI, **changes}
    return ObjectDescription(**told)


def checked(sent: bytes, description: ObjectDescription, size_max: int = 1 << 30) -> tuple[bytes, int]:
    """The file that ``sent`` becomes, and in how many steps."""
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.write(source, sent)
        steps = sum(1 for _ in check(source, target if description.encoding else None, description, size_max))
        return os.pread(target if description.encoding else source, 1 << 26, 0), steps
    finally:
        os.close(source)
        os.close(target)


def refusal(sent: bytes, description: ObjectDescription, size_max: int = 1 << 30) -> str:
    with pytest.raises(RefusedError) as refused:
        checked(sent, description, size_max)
    return refused.value.reason


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=len)
@pytest.mark.parametrize("told", [True, False])
def test_a_file_is_what_was_packed(encoding: str, content: bytes, told: bool) -> None:
    sent = PACKERS[encoding](content)
    length = len(content) if told else None
    for md5 in (None, hashlib.md5(content).digest(), hashlib.md5(sent).digest()):
        description = described(sent, encoding=encoding, content_length=length, md5=md5)
        assert checked(sent, description)[0] == content


def test_http_calls_zlib_deflate() -> None:
    sent = zlib.compress(CONTENT)
    assert checked(sent, described(sent, encoding="deflate", content_length=len(CONTENT)))[0] == CONTENT


def test_many_members_do_not_cost_a_copy_of_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for a MiB of empty ones, which anybody can send."""
    most, begin = 0, zlib.decompressobj

    class Inflate:
        def __init__(self, window: int) -> None:
            self.inflate = begin(window)

        def decompress(self, data: bytes, size: int) -> bytes:
            nonlocal most
            most = max(most, len(data))
            return self.inflate.decompress(data, size)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inflate, name)

    monkeypatch.setattr(zlib, "decompressobj", Inflate)
    packed = gzip.compress(b"") * 3000 + gzip.compress(CONTENT)
    assert checked(packed, described(packed, encoding="gzip", content_length=len(CONTENT)))[0] == CONTENT
    assert 0 < most <= GIVEN_BYTES < len(packed)


def test_what_begins_nearly_like_zlib_is_deflate_still() -> None:
    """The check bits of a header of zlib fit one stream in 31."""
    packed = ((PACKERS["deflate"](content), content) for content in map(os.urandom, range(1, 2000)))
    sent, content = next(
        pair for pair in packed if int.from_bytes(pair[0][:2]) % 31 == 0 and pair[0][0] & 15 != 8
    )
    assert checked(sent, described(sent, encoding="deflate", content_length=len(content)))[0] == content


def test_gzip_may_have_several_members() -> None:
    sent = gzip.compress(CONTENT) + gzip.compress(b"") + gzip.compress(b"more")
    assert checked(sent, described(sent, encoding="gzip", content_length=None))[0] == CONTENT + b"more"


def test_it_goes_in_steps() -> None:
    content = bytes(3 * STEP_BYTES)
    sent = zlib.compress(content)
    made, steps = checked(sent, described(sent, encoding="zlib", content_length=len(content)))
    assert made == content
    assert steps >= 3
    assert checked(content, described(content, md5=hashlib.md5(content).digest())) == (content, 3)


def test_a_little_that_becomes_much_is_refused_before_it_is_written() -> None:
    bomb = zlib.compress(bytes(1 << 25))
    assert len(bomb) < 1 << 16
    for told, size_max in ((5000, 1 << 30), (None, 5000)):
        description = described(bomb, encoding="zlib", content_length=told)
        assert refusal(bomb, description, size_max) == TOO_LARGE


@pytest.mark.parametrize("encoding", PACKERS)
def test_what_is_not_as_it_says_is_refused(encoding: str) -> None:
    sent = PACKERS[encoding](CONTENT)
    length = len(CONTENT)
    for wrong in (b"", sent[:-1], sent[:1], sent + b"x", b"\xff" + sent[1:], CONTENT):
        assert refusal(wrong, described(wrong, encoding=encoding, content_length=length)) == BAD_ENCODING
    assert refusal(sent, described(sent, encoding=encoding, content_length=length + 1)) == BAD_ENCODING
    assert refusal(sent, described(sent, encoding=encoding, content_length=length - 1)) == TOO_LARGE


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_another_digest_is_refused(encoding: str) -> None:
    sent = gzip.compress(CONTENT)
    description = described(sent, encoding=encoding, content_length=None, md5=bytes(16))
    assert refusal(sent, description) == WRONG_DIGEST


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"length": 101}, TOO_LARGE),
        ({"content_length": 101, "encoding": "gzip"}, TOO_LARGE),
        ({"encoding": "br"}, BAD_ENCODING),
        ({"content_length": 99}, BAD_DESCRIPTION),
    ],
)
def test_what_cannot_be_received_is_refused_at_once(changes: dict[str, Any], reason: str) -> None:
    require_receivable(described(bytes(100)), 100)
    require_receivable(described(bytes(100), content_length=None), 100)
    with pytest.raises(RefusedError) as refused:
        require_receivable(described(bytes(100), **changes), 100)
    assert refused.value.reason == reason


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from(sorted(PACKERS)), st.integers(0, 70), st.booleans())
def test_whatever_comes_is_a_file_or_refused(noise: bytes, encoding: str, at: int, cut: bool) -> None:
    sent = PACKERS[encoding](noise)
    sent = sent[:at] + noise + (b"" if cut else sent[at:])
    description = described(sent, encoding=encoding, content_length=None)
    with contextlib.suppress(RefusedError):
        assert len(checked(sent, description, 4096)[0]) <= 4096


def checksum_of(content: bytes) -> bytes:
    found = Checksum()
    found.update(content)
    return found.digest()


def test_a_checksum_is_that_of_all_bytes_in_their_order() -> None:
    """As GMAC has it: NIST SP 800-38D, of which the cipher makes the same in one call."""
    dice = random.Random(4)
    content = dice.randbytes(STEP_BYTES + 7)
    pieces = Checksum()
    for at in range(0, len(content), 1000):
        pieces.update(memoryview(content)[at : at + 1000])
    right = AESGCM(bytes(32)).encrypt(bytes(12), b"", content)
    assert pieces.digest() == checksum_of(content) == right
    assert len({right, checksum_of(content[::-1]), checksum_of(content + b"\0"), checksum_of(b"")}) == 4


def test_of_two_digests_the_checksum_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    right, md5 = checksum_of(CONTENT), hashlib.md5(CONTENT).digest()
    assert checked(CONTENT, described(CONTENT, md5=bytes(16), checksum=right))[0] == CONTENT
    assert refusal(CONTENT, described(CONTENT, md5=md5, checksum=bytes(16))) == WRONG_DIGEST
    # Without the library there is MD5
    monkeypatch.setattr(content_module, "checksum", lambda: None)
    assert checked(CONTENT, described(CONTENT, md5=md5, checksum=bytes(16)))[0] == CONTENT
    assert refusal(CONTENT, described(CONTENT, md5=bytes(16), checksum=right)) == WRONG_DIGEST


def test_of_what_is_encoded_the_md5_is_compared() -> None:
    sent = gzip.compress(CONTENT)
    told = {"encoding": "gzip", "content_length": len(CONTENT), "checksum": bytes(16)}
    assert checked(sent, described(sent, md5=hashlib.md5(CONTENT).digest(), **told))[0] == CONTENT
    assert refusal(sent, described(sent, md5=bytes(16), **told)) == WRONG_DIGEST
