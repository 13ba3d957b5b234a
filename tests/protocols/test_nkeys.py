"""Keys of NATS users: as their library makes and signs them, which is not ours."""

from __future__ import annotations

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcastd.protocols.nkeys import Credentials, NotCredentialsError

nkeys = pytest.importorskip("nkeys", reason="needs nkeys: pip install nkeys")
pytest.importorskip("cryptography", reason="needs cryptography: apt install python3-cryptography")


def seed_of(raw: bytes) -> str:
    return str(nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER).decode())


@given(st.binary(min_size=32, max_size=32), st.text("abc", min_size=1))
def test_a_seed_signs_as_another_library_does(raw: bytes, nonce: str) -> None:
    assume(len({*raw}) > 1)
    seed = seed_of(raw)
    theirs = nkeys.from_seed(seed.encode())
    options = Credentials.parse(f"{seed}\n").options(nonce)
    assert options["nkey"] == theirs.public_key.decode()
    signature = base64.urlsafe_b64decode(options["sig"] + "==")
    assert theirs.verify(nonce.encode(), signature)


def test_a_file_of_credentials_has_who_it_is() -> None:
    seed = seed_of(bytes(range(32)))
    text = (
        "-----BEGIN NATS USER JWT-----\nhead.body-1.sig_2\n------END NATS USER JWT------\n\nKeep it.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    found = Credentials.parse(text)
    assert (found.key.value, found.jwt) == (bytes(range(32)), "head.body-1.sig_2")
    assert "nkey" not in found.options("n")
    assert found.options("n")["jwt"] == "head.body-1.sig_2"
    assert seed not in repr(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no seed"),
        ("secret", "no seed"),
        (seed_of(bytes(32))[:-1] + "A", "a mistake"),
        (seed_of(bytes(32)), "is random"),
        (nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_ACCOUNT).decode(), "none of a user"),
    ],
)
def test_what_has_no_key_of_a_user(text: str, words: str) -> None:
    with pytest.raises(NotCredentialsError, match=words) as refused:
        Credentials.parse(text)
    assert not text or text not in str(refused.value)


@given(st.text())
def test_any_text_is_refused_or_read(text: str) -> None:
    try:
        Credentials.parse(text)
    except NotCredentialsError:
        return
