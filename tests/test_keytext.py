"""Keys as text: what is taken, what is refused, and that no secret is said."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcastd.keytext import AccessToken, GroupKey, NotAKeyError, SigningKey, VerifyingKey, WrittenKey, kind_of
from mcastd.protocols import crypto

pytest.importorskip("cryptography")

KINDS = [GroupKey, SigningKey, VerifyingKey]
# RFC 8032 section 7.1, test 2: seed, public key, message, signature.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = b"\x72"
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.mark.parametrize("kind", KINDS)
@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50)
def test_the_text_of_a_key_is_read_as_that_key(kind: type[WrittenKey], value: bytes) -> None:
    try:
        key = kind(value)
    except NotAKeyError as error:
        assert error.reason == "weak"  # noqa: PT017
        return
    assert len(key.text) == len(kind.prefix) + 44
    assert kind.parse(f"  {key.text}\r\n") == key
    for other in KINDS:
        if other is not kind:
            with pytest.raises(NotAKeyError) as refused:
                other.parse(key.text)
            assert refused.value.reason == "other-kind"


GOOD = base64.b64encode(SEED).decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        (f"{GOOD} {GOOD}", "several-lines"),
        (f"{GOOD}\n{GOOD}\n", "several-lines"),
        (GOOD[:-1], "malformed"),
        (GOOD + "=", "malformed"),
        (GOOD[1:], "malformed"),
        (GOOD[:-2] + "t=", "malformed"),  # the same bytes, with bits in the last digit that mean nothing
        (GOOD.replace("/", "_").replace("+", "-"), "malformed"),
        (GOOD[:20] + "\0" + GOOD[21:], "malformed"),
        ("é" + GOOD[1:], "malformed"),
        (base64.b64encode(SEED + b"\1").decode(), "malformed"),
        (SEED.hex(), "malformed"),
        ("ed25519:" + GOOD, "other-kind"),
        ("ed25519-secret:" + GOOD, "other-kind"),
        (base64.b64encode(bytes(32)).decode(), "weak"),
    ],
)
def test_what_is_no_group_key_is_refused_and_not_repeated(text: str, reason: str) -> None:
    assert base64.b64decode(GOOD[:-2] + "t=") == SEED
    with pytest.raises(NotAKeyError) as refused:
        GroupKey.parse(text)
    assert refused.value.reason == reason
    assert GOOD[4:12] not in str(refused.value)


@given(st.text() | st.text("AB/+=:ed2519-secrt\n ", min_size=40, max_size=70) | st.just(GOOD))
@example("ed25519:")
@example("ed25519-secret:ed25519:" + GOOD)
def test_any_text_is_a_key_or_refused(text: str) -> None:
    for kind in KINDS:
        try:
            key = kind.parse(text)
        except NotAKeyError as error:
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert key.text == text.strip()
            assert kind_of(key.text) is kind


def test_no_secret_is_in_a_repr() -> None:
    for key in (GroupKey(SEED), SigningKey(SEED)):
        for shown in (repr(key), str(key), f"{key!r} {[key]}"):
            assert GOOD not in shown
            assert SEED.hex() not in shown
            assert repr(SEED) not in shown
        assert key.id.hex() in repr(key)


def test_a_key_of_another_length_is_none() -> None:
    for length in (0, 31, 33):
        with pytest.raises(NotAKeyError):
            GroupKey(bytes(range(length)))


def test_ids_tell_keys_and_kinds_apart_and_stay() -> None:
    ids = [kind(value).id for kind in KINDS for value in (SEED, PUBLIC)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 8 for one in ids)
    assert (
        GroupKey(SEED).id.hex() == "28bdce8478ee33bc"
    )  # it is on the wire: another version computes the same
    assert GroupKey(SEED) == GroupKey(bytes(SEED)) != SigningKey(SEED)


# -- signatures


def test_signatures_are_those_of_the_rfc() -> None:
    assert crypto.verifying_key(SigningKey(SEED)) == VerifyingKey(PUBLIC)
    assert crypto.sign(SigningKey(SEED), MESSAGE) == SIGNATURE
    assert crypto.is_signed(VerifyingKey(PUBLIC), SIGNATURE, MESSAGE)


@pytest.mark.parametrize(
    ("key", "signature", "message"),
    [
        (PUBLIC, SIGNATURE, MESSAGE + b"\0"),
        (PUBLIC, SIGNATURE, b""),
        (PUBLIC, SIGNATURE[:63], MESSAGE),
        (PUBLIC, b"", MESSAGE),
        (PUBLIC, SIGNATURE[:63] + b"\x10", MESSAGE),
        (PUBLIC, bytes(64), MESSAGE),
        (SEED, SIGNATURE, MESSAGE),
        (b"\xff" * 31 + b"\x7e", SIGNATURE, MESSAGE),  # no point of the curve
    ],
)
def test_another_signature_message_or_key_is_refused(key: bytes, signature: bytes, message: bytes) -> None:
    assert not crypto.is_signed(VerifyingKey(key), signature, message)


# -- the points of small order, computed here from the curve: x, y

PRIME = 2**255 - 19
D = -121665 * pow(121666, -1, PRIME) % PRIME
Point = tuple[int, int]


def add(first: Point, second: Point) -> Point:
    """RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = first, second
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def of_order_8() -> Point:
    """A point that is the neutral one (0, 1) after eight times, and not before.

    Twice it is (sqrt(-1), 0), so x = y (times a root of 1), and the curve's equation is quadratic in y**2:
    -x**2 + y**2 = 1 + d x**2 y**2 with x**2 = -y**2 is d y**4 + 2 y**2 - 1 = 0.
    """

    def root(square: int) -> int | None:
        found = pow(square, (PRIME + 3) // 8, PRIME)
        for one in (found, found * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
            if one * one % PRIME == square % PRIME:
                return one
        return None

    discriminant = root(1 + D)
    assert discriminant is not None
    for sign in (1, -1):
        square = (-1 + sign * discriminant) * pow(D, -1, PRIME) % PRIME
        y, x = root(square), root(-square)
        if x is not None and y is not None:
            return x, y
    raise AssertionError


def test_a_verifying_key_under_which_anybody_can_sign_is_refused() -> None:
    start = of_order_8()
    points, point = [], start
    for _ in range(8):
        points.append(point)
        point = add(point, start)
    assert point == start
    assert len(set(points)) == 8
    for x, y in points:
        for encoded in {y, y + PRIME} if y + PRIME < 1 << 255 else {y}:
            for sign in (x & 1, 1 - x & 1):
                value = (encoded | sign << 255).to_bytes(32, "little")
                with pytest.raises(NotAKeyError) as refused:
                    VerifyingKey(value)
                assert refused.value.reason == "weak"


def test_such_a_key_would_take_a_signature_of_nobody() -> None:
    """That is why it is refused: here y = 1, the neutral point, with R the same and S = 0."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"whatever")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("one two", "several-lines"),
        ("x" * 15, "malformed"),
        ("x" * 129, "malformed"),
        ("x" * 16 + "+", "malformed"),
        ("x" * 16 + "\xe9", "malformed"),
    ],
)
def test_what_is_no_token(text: str, reason: str) -> None:
    with pytest.raises(NotAKeyError) as refused:
        AccessToken.parse(text)
    assert refused.value.reason == reason
    assert not text or text not in str(refused.value)


def test_a_token_is_a_word_that_no_log_has() -> None:
    token = AccessToken.parse("  correct-horse.battery_~9\n")
    assert (token.text, token.value) == ("correct-horse.battery_~9", b"correct-horse.battery_~9")
    assert "horse" not in repr(token)
    assert token == AccessToken(b"correct-horse.battery_~9")
