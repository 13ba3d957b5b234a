"""The handshake of links: beside a published vector, beside another implementation, and beside forgeries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from mcastd.protocols.crypto import cipher
from mcastd.protocols.noise import (
    MESSAGE_OVERHEAD_BYTES,
    PROTOCOL_NAME,
    NoiseHandshake,
    NotOfThisPeerError,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))

# The vector of this name in those of cacophony, which implementations of Noise share.
PROLOGUE = bytes.fromhex("4a6f686e2047616c74")
PSK = bytes.fromhex("54686973206973206d7920417573747269616e20706572737065637469766521")
EPHEMERALS = [
    bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
    bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
]
# Its "handshake_hash" is that after the first message.
HASH = bytes.fromhex("29d92c13649b5d28b41afd8dc5d6ce7f46df2348e4061c09f1c354b593e13add")
MESSAGES = [  # payloads and messages, of the initiator and the responder in turn
    (
        b"Ludwig von Mises",
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
        "7c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1",
    ),
    (
        b"Murray Rothbard",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
        "2f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
    ),
    (b"F. A. Hayek", "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6"),
    (b"Carl Menger", "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0"),
    (b"Jean-Baptiste Say", "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd"),
]
ZERO_NONCE = bytes(12)


def pair(key: bytes = KEY, other: bytes = KEY) -> tuple[NoiseHandshake, NoiseHandshake]:
    return NoiseHandshake(key, initiator=True), NoiseHandshake(other, initiator=False)


def test_the_published_vector() -> None:
    both = [
        NoiseHandshake(PSK, initiator=role == 0, prologue=PROLOGUE, ephemeral=EPHEMERALS[role])
        for role in (0, 1)
    ]
    for number, (payload, message) in enumerate(MESSAGES[:2]):
        writer, reader = both[number], both[1 - number]
        assert (made := writer.write(payload)).hex() == message
        assert reader.read(made) == payload
        assert reader.hash == writer.hash
        assert (reader.hash == HASH) == (number == 0)
    keys = [one.keys() for one in both]
    assert keys[0] == keys[1][::-1]
    for number, (payload, message) in enumerate(MESSAGES[2:]):
        # Of each end the next message: the responder's come second
        nonce = (number // 2).to_bytes(12)
        assert cipher(keys[number % 2].send).encrypt(nonce, payload, b"").hex() == message


@pytest.mark.parametrize("ours", ["initiator", "responder"])
def test_beside_noiseprotocol(ours: str) -> None:
    connection = pytest.importorskip("noise.connection", reason="needs noiseprotocol, another Noise")
    theirs = connection.NoiseConnection.from_name(PROTOCOL_NAME)
    theirs.set_psks(KEY)
    theirs.set_prologue(b"between us")
    (theirs.set_as_responder if ours == "initiator" else theirs.set_as_initiator)()
    theirs.start_handshake()
    me = NoiseHandshake(KEY, initiator=ours == "initiator", prologue=b"between us")

    def to_them() -> None:
        assert bytes(theirs.read_message(me.write(b"from us"))) == b"from us"

    def from_them() -> None:
        assert me.read(bytes(theirs.write_message(b"from them"))) == b"from them"

    for step in (to_them, from_them) if ours == "initiator" else (from_them, to_them):
        step()
    assert theirs.handshake_finished
    assert theirs.get_handshake_hash() == me.hash
    keys = me.keys()
    assert bytes(theirs.decrypt(cipher(keys.send).encrypt(ZERO_NONCE, b"there", b""))) == b"there"
    assert cipher(keys.receive).decrypt(ZERO_NONCE, bytes(theirs.encrypt(b"back")), b"") == b"back"


def test_no_two_handshakes_have_the_same_keys() -> None:
    seen: set[Any] = set()
    for _ in range(3):
        ours, theirs = pair()
        theirs.read(ours.write(b""))
        ours.read(theirs.write(b""))
        seen |= {*ours.keys()}
    assert len(seen) == 6


def test_a_message_is_as_much_longer_as_it_says() -> None:
    ours, _ = pair()
    assert len(ours.write(b"twelve bytes")) == 12 + MESSAGE_OVERHEAD_BYTES


def test_another_key_or_prologue_is_refused() -> None:
    ours, theirs = pair(other=OTHER_KEY)
    with pytest.raises(NotOfThisPeerError):
        theirs.read(ours.write(b""))
    ours = NoiseHandshake(KEY, initiator=True, prologue=b"version 1")
    with pytest.raises(NotOfThisPeerError):
        NoiseHandshake(KEY, initiator=False, prologue=b"version 2").read(ours.write(b""))


def test_a_forged_answer_does_not_end_the_handshake() -> None:
    ours, theirs = pair()
    theirs.read(ours.write(b""))
    right = theirs.write(b"right")
    _, stranger = pair()
    stranger.read(pair()[0].write(b""))
    for forged in (stranger.write(b"wrong"), right[:-1], right[:40], b"", right + b"x"):
        with pytest.raises(NotOfThisPeerError):
            ours.read(forged)
    assert ours.read(right) == b"right"
    assert ours.keys() == theirs.keys()[::-1]


def test_a_public_key_of_small_order_is_refused() -> None:
    """Its secret would be 0. Who knows the key can send one; nobody else gets that far."""
    ours, theirs = pair()
    sealed_with_zero = ours._state.mix_hash(bytes(32)).mix_key(bytes(32)).seal(b"")[1]
    with pytest.raises(NotOfThisPeerError, match="small order"):
        theirs.read(bytes(32) + sealed_with_zero)


def test_messages_have_their_turn() -> None:
    ours, theirs = pair()
    with pytest.raises(RuntimeError):
        ours.keys()
    with pytest.raises(RuntimeError):
        theirs.write(b"")
    message = ours.write(b"")
    with pytest.raises(RuntimeError):
        ours.write(b"")
    theirs.read(message)
    with pytest.raises(RuntimeError):
        theirs.read(message)


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        NoiseHandshake(KEY[1:], initiator=True)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_whatever_comes_is_refused(message: bytes, initiator: bool) -> None:
    reader = NoiseHandshake(KEY, initiator=initiator)
    if initiator:
        reader.write(b"")
    with pytest.raises(NotOfThisPeerError):
        reader.read(message)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    ours, theirs = pair()
    message = bytearray(ours.write(b"payload"))
    at = data.draw(st.integers(0, 8 * len(message) - 1))
    message[at // 8] ^= 1 << at % 8
    with pytest.raises(NotOfThisPeerError):
        theirs.read(bytes(message))
