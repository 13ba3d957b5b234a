"""What is used of the library ``cryptography``, which is loaded when the first key is used and not before.

It takes 40 ms and 9 MiB, which a daemon without keys has no reason to spend; and it need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcastd.errors import McastdError
from mcastd.keytext import KEY_BYTES, SigningKey, VerifyingKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_BYTES = 16
NONCE_BYTES = 12
SIGNATURE_BYTES = 64


class MissingLibraryError(McastdError):
    """The library ``cryptography`` is not installed, or does not load."""


@contextmanager
def _library() -> Iterator[None]:
    """Around each import of it. Raises MissingLibraryError."""
    try:
        yield
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        cause = "the Python library cryptography is not installed" if absent else f"it does not load: {error}"
        way_out = "apt install python3-cryptography, or pip install 'mcastd[files]'"
        raise MissingLibraryError("cannot use keys", cause, way_out) from error


def check_library() -> None:
    """Load all of it that is used: later a descriptor might be missing for that.

    Raises MissingLibraryError, OSError.
    """
    key = SigningKey(bytes(range(KEY_BYTES)))
    is_signed(verifying_key(key), bytes(SIGNATURE_BYTES), b"")
    cipher(derive(key.value, b"", b""))
    invalid_tag()


def cipher(key: bytes) -> AESGCM:
    """AES-256 in Galois/Counter mode (NIST SP 800-38D) under a key of 32 bytes; a nonce has 12, a tag 16."""
    with _library():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    return AESGCM(key)


def authenticating(key: bytes, nonce: bytes) -> AEADEncryptionContext:
    """The same cipher, for what is authenticated piece by piece, and has no plaintext (GMAC)."""
    with _library():
        from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.algorithms import AES  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.modes import GCM  # noqa: PLC0415
    return Cipher(AES(key), GCM(nonce)).encryptor()


def invalid_tag() -> type[Exception]:
    """What ``cipher(...).decrypt`` raises if the tag is not that of these bytes under this key and nonce."""
    with _library():
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    return InvalidTag


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Another key of 32 bytes: HKDF with SHA-256 (RFC 5869)."""
    with _library():
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)


def agreement_public(private: bytes) -> bytes:
    """The public half of a pair of X25519 (RFC 7748): 32 bytes, as its private half has."""
    with _library():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """The secret that two have in common by X25519 (RFC 7748 section 6.1): 32 bytes.

    Raises ValueError for a public half by which everybody would know it: one of small order.
    """
    with _library():
        from cryptography.hazmat.primitives.asymmetric.x25519 import (  # noqa: PLC0415
            X25519PrivateKey,
            X25519PublicKey,
        )
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def verifying_key(key: SigningKey) -> VerifyingKey:
    """The public half of a signing pair."""
    with _library():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    return VerifyingKey(Ed25519PrivateKey.from_private_bytes(key.value).public_key().public_bytes_raw())


def sign(key: SigningKey, message: bytes) -> bytes:
    """The Ed25519 signature of a message (RFC 8032): 64 bytes."""
    with _library():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    return Ed25519PrivateKey.from_private_bytes(key.value).sign(message)


def is_signed(key: VerifyingKey, signature: bytes, message: bytes) -> bool:
    """Return True if it is the signature of the message by the pair that ``key`` is of."""
    with _library():
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    try:
        Ed25519PublicKey.from_public_bytes(key.value).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: no point of the curve has these bytes
        return False
    return True
