"""Keys of NATS users as text, and the file that a user has them in: https://github.com/nats-io/nkeys.

A seed is two bytes of prefix, the 32 bytes of an Ed25519 key and a CRC-16, in base 32; the public key has one
byte of prefix. A ``.creds`` file has a user's JWT, too, in blocks like those of PEM.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass

from mcastd.keytext import NotAKeyError, SigningKey
from mcastd.protocols.crypto import sign, verifying_key

# The letters that keys begin with, as the uppermost five bits of their prefix.
SEED = 18 << 3  # S
USER = 20 << 3  # U
KEY_BYTES = 32

_BLOCK = re.compile(r"-+BEGIN ([A-Z ]+)-+\s+([A-Za-z0-9_=.-]+)\s+-+END [A-Z ]+-+")


class NotCredentialsError(ValueError):
    """A text has no key of a NATS user; its own text never has a secret."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a NATS user proves itself with."""

    key: SigningKey
    jwt: str = ""  # which says who it is; "": the server knows its public key

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Of a ``.creds`` file, or a seed alone. Raises NotCredentialsError."""
        blocks = {name.split()[-1]: value for name, value in _BLOCK.findall(text)}
        seed = blocks.get("SEED") or text.strip()
        return cls(_key_of(seed), blocks.get("JWT", ""))

    @property
    def public_key(self) -> str:
        """As the configuration of a server has it: it begins with U."""
        key = verifying_key(self.key).value
        return _encode(bytes([USER]) + key)

    def options(self, nonce: str) -> dict[str, str]:
        """What CONNECT has of it: the nonce of the server, signed."""
        signed = base64.urlsafe_b64encode(sign(self.key, nonce.encode())).rstrip(b"=")
        return {"sig": signed.decode(), **({"jwt": self.jwt} if self.jwt else {"nkey": self.public_key})}


def _key_of(text: str) -> SigningKey:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise NotCredentialsError("it has no seed of a key, which begins with SU") from error
    if len(raw) != KEY_BYTES + 4 or raw[0] & 0xF8 != SEED:
        raise NotCredentialsError("it has no seed of a key, which begins with SU")
    if (raw[0] & 7) << 5 | raw[1] >> 3 != USER:
        raise NotCredentialsError("its key is none of a user")
    if struct.unpack("<H", raw[-2:])[0] != binascii.crc_hqx(raw[:-2], 0):
        raise NotCredentialsError("its key has a mistake: its sum is another")
    try:
        return SigningKey(raw[2:-2])
    except NotAKeyError as error:
        raise NotCredentialsError(str(error)) from None


def _encode(raw: bytes) -> str:
    whole = raw + struct.pack("<H", binascii.crc_hqx(raw, 0))
    return base64.b32encode(whole).rstrip(b"=").decode()
