"""The handshake of links: ``Noise_NNpsk0_25519_AESGCM_SHA256``, The Noise Protocol Framework, revision 34.

```
 initiator                                                          responder
     |   e 32, sealed payload  -->                                      |   psk, e
     |                                      <--  e 32, sealed payload   |   e, ee
```

Both know one key beforehand (psk), and prove that they do. The keys that they get are made of it and of pairs
(e) that both forget: who learns the key later can open nothing that was recorded before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from typing import NamedTuple

from mcastd.keytext import KEY_BYTES
from mcastd.protocols.crypto import TAG_BYTES, agree, agreement_public, cipher, invalid_tag

PROTOCOL_NAME = b"Noise_NNpsk0_25519_AESGCM_SHA256"
EPHEMERAL_BYTES = 32
# By which a message is longer than its payload.
MESSAGE_OVERHEAD_BYTES = EPHEMERAL_BYTES + TAG_BYTES

_NONCE = struct.Struct(">4xQ")  # of AESGCM: section 12.4


class NotOfThisPeerError(ValueError):
    """A message was not made with this key for this handshake: it is forged, cut, or of another key."""


class NoiseKeys(NamedTuple):
    """What one end sends and receives by: 32 bytes each, which the other end has the other way round."""

    send: bytes
    receive: bytes


class _Symmetric(NamedTuple):
    """SymmetricState and CipherState of section 5. Each step gives a new one, so one can be undone."""

    chaining_key: bytes
    hash: bytes
    key: bytes = b""
    nonce: int = 0

    def mix_hash(self, data: bytes) -> _Symmetric:
        return self._replace(hash=hashlib.sha256(self.hash + data).digest())

    def mix_key(self, material: bytes) -> _Symmetric:
        chaining_key, key = _hkdf(self.chaining_key, material, 2)
        return self._replace(chaining_key=chaining_key, key=key, nonce=0)

    def mix_key_and_hash(self, material: bytes) -> _Symmetric:
        chaining_key, hashed, key = _hkdf(self.chaining_key, material, 3)
        return self.mix_hash(hashed)._replace(chaining_key=chaining_key, key=key, nonce=0)

    def seal(self, payload: bytes) -> tuple[_Symmetric, bytes]:
        sealed = cipher(self.key).encrypt(_NONCE.pack(self.nonce), payload, self.hash)
        return self.mix_hash(sealed)._replace(nonce=self.nonce + 1), sealed

    def open(self, sealed: bytes) -> tuple[_Symmetric, bytes]:
        """Raises NotOfThisPeerError."""
        try:
            payload = cipher(self.key).decrypt(_NONCE.pack(self.nonce), sealed, self.hash)
        except invalid_tag():
            raise NotOfThisPeerError("it is not sealed by this key for this handshake") from None
        return self.mix_hash(sealed)._replace(nonce=self.nonce + 1), payload


def _hkdf(chaining_key: bytes, material: bytes, count: int) -> list[bytes]:
    """HKDF of section 4.3: as RFC 5869, with an empty info."""
    secret = hmac.digest(chaining_key, material, "sha256")
    outputs = [b""]
    for number in range(1, count + 1):
        outputs.append(hmac.digest(secret, outputs[-1] + bytes([number]), "sha256"))
    return outputs[1:]


class NoiseHandshake:
    """One handshake: the initiator writes and reads a message, the responder reads and writes one."""

    def __init__(
        self, key: bytes, *, initiator: bool, prologue: bytes = b"", ephemeral: bytes | None = None
    ) -> None:
        """``key`` has 32 bytes. What both call ``prologue`` is authenticated. ``ephemeral`` is for tests."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a pre-shared key has {KEY_BYTES} bytes, not {len(key)}")
        self._is_initiator = initiator
        self._ephemeral = secrets.token_bytes(EPHEMERAL_BYTES) if ephemeral is None else ephemeral
        self._public = agreement_public(self._ephemeral)
        # The name has as many bytes as a hash: section 5.2, InitializeSymmetric
        state = _Symmetric(PROTOCOL_NAME, PROTOCOL_NAME).mix_hash(prologue)
        self._state = state.mix_key_and_hash(key)
        self._messages = 0

    def write(self, payload: bytes) -> bytes:
        """Our message, longer than its payload by MESSAGE_OVERHEAD_BYTES."""
        self._require(writes=True)
        # With a psk, e is mixed into the key as well: section 9.2
        state = self._state.mix_hash(self._public).mix_key(self._public)
        if not self._is_initiator:
            state = state.mix_key(self._shared)
        self._state, sealed = state.seal(payload)
        self._messages += 1
        return self._public + sealed

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's message. Raises NotOfThisPeerError; it can be called again then."""
        self._require(writes=False)
        theirs, sealed = message[:EPHEMERAL_BYTES], message[EPHEMERAL_BYTES:]
        if len(sealed) < TAG_BYTES:
            raise NotOfThisPeerError("it is shorter than any message of a handshake")
        state = self._state.mix_hash(theirs).mix_key(theirs)
        if self._is_initiator:
            state = state.mix_key(self._agree(theirs))
        opened = state.open(sealed)
        if not self._is_initiator:  # only now: what is forged is not worth it
            self._shared = self._agree(theirs)
        self._state, payload = opened
        self._messages += 1
        return payload

    def keys(self) -> NoiseKeys:
        """When both messages are through: Split() of section 5.2."""
        if self._messages != 2:
            raise RuntimeError("a handshake has two messages")
        of_initiator, of_responder = _hkdf(self._state.chaining_key, b"", 2)
        if self._is_initiator:
            return NoiseKeys(of_initiator, of_responder)
        return NoiseKeys(of_responder, of_initiator)

    @property
    def hash(self) -> bytes:
        """32 bytes that both ends have in common, and no other handshake: section 11.2."""
        return self._state.hash

    def _agree(self, theirs: bytes) -> bytes:
        try:
            return agree(self._ephemeral, theirs)
        except ValueError:
            raise NotOfThisPeerError("it has a public key of small order") from None

    def _require(self, *, writes: bool) -> None:
        """The initiator's turn is the first message, the responder's the second."""
        if self._messages > 1 or writes != (self._is_initiator == (self._messages == 0)):
            raise RuntimeError("a handshake is a message of the initiator, and then one of the responder")
