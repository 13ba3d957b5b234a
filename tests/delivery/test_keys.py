"""Key files: made once, for their owner alone; read only if nobody else can; errors that say what to do."""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcastd.cli import main
from mcastd.delivery import keys
from mcastd.delivery.keys import KeyFileError, read_key, read_secret, read_verifying_key
from mcastd.keytext import AccessToken, GroupKey, SigningKey, VerifyingKey, WrittenKey
from mcastd.protocols import crypto

pytest.importorskip("cryptography")

SECRET = bytes(range(3, 35))
KINDS = [GroupKey, SigningKey, VerifyingKey]


def written(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def refusal(kind: type[WrittenKey], place: str) -> KeyFileError:
    with pytest.raises(KeyFileError) as refused:
        read_key(kind, place)
    text = str(refused.value)
    assert text.startswith(f"cannot read {kind.noun} from {place}: ") or refused.value.reason in (
        "no-credentials",
        "missing",
    )
    assert text.isprintable()
    assert base64.b64encode(SECRET).decode()[:12] not in text
    return refused.value


# -- what is made


def test_a_group_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "images.key"
    before = os.umask(0o777)
    try:
        key = keys.make_group_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{key.text}\n"
    assert len(base64.b64decode(path.read_text(), validate=False)) == 32
    assert read_key(GroupKey, str(path)) == key
    assert keys.make_group_key(tmp_path / "other.key") != key
    with pytest.raises(KeyFileError) as refused:
        keys.make_group_key(path)
    assert (refused.value.reason, refused.value.errno) == ("taken", errno.EEXIST)
    assert read_key(GroupKey, str(path)) == key


def test_a_signing_pair_is_made_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "images.sign"
    public = keys.make_signing_pair(path)
    of_public = tmp_path / "images.sign.pub"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(of_public.stat().st_mode) == 0o644
    assert of_public.read_text() == f"{public.text}\n"
    for told in (str(of_public), public.text):
        assert read_verifying_key(told) == public
    signature = crypto.sign(read_key(SigningKey, str(path)), b"words")
    assert crypto.is_signed(public, signature, b"words")


def test_a_pair_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path, of_public = tmp_path / "images.sign", tmp_path / "images.sign.pub"
    of_public.write_text("of another pair")
    with pytest.raises(KeyFileError, match=re.escape(f"cannot make {of_public}: file exists")):
        keys.make_signing_pair(path)
    assert not path.exists()
    assert of_public.read_text() == "of another pair"


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_what_the_disk_does_not_take_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, no_fd_leak: None
) -> None:
    path = tmp_path / "images.key"

    def fail(_fd: int, line: bytes = b"") -> int:
        if call == "fsync":
            raise OSError(errno.EIO, "no")
        return len(line) - 1

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(KeyFileError) as refused:
            keys.make_group_key(path)
    assert (refused.value.reason, refused.value.errno) == (
        "io",
        {"fsync": errno.EIO, "write": errno.ENOSPC}[call],
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_no_link_of_others_leads_a_new_key_elsewhere(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    tmp_path.chmod(0o1777)
    link.symlink_to(target)
    os.chown(link, 65_534, 65_534, follow_symlinks=False)
    with pytest.raises(KeyFileError) as refused:
        keys.make_group_key(link)
    assert refused.value.reason == "unsafe-path"
    assert not target.exists()


# -- what is read


@pytest.mark.parametrize("kind", [GroupKey, SigningKey])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_secret_that_others_may_open_is_refused_with_the_fix(
    tmp_path: Path, kind: type[WrittenKey], mode: int
) -> None:
    place = written(tmp_path / "a b.key", kind(SECRET).text, mode)
    error = refusal(kind, place)
    assert error.reason == "exposed"
    assert f"its mode {mode:04o} opens it" in error.cause
    assert error.way_out == f"chmod 600 '{place}'"
    os.system(error.way_out)
    assert read_key(kind, place) == kind(SECRET)


def test_a_public_key_that_others_may_exchange_is_refused_with_the_fix(tmp_path: Path) -> None:
    place = written(tmp_path / "images.pub", VerifyingKey(SECRET).text, 0o664)
    error = refusal(VerifyingKey, place)
    assert (error.reason, error.way_out) == ("writable", f"chmod go-w {place}")
    os.system(error.way_out)
    assert read_verifying_key(place) == VerifyingKey(SECRET)


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("there", KINDS)
def test_a_key_of_another_kind_is_refused(
    tmp_path: Path, wanted: type[WrittenKey], there: type[WrittenKey]
) -> None:
    place = written(tmp_path / "key", f"{there(SECRET).text}\n")
    if wanted is there:
        assert read_key(wanted, place) == wanted(SECRET)
    else:
        error = refusal(wanted, place)
        assert (error.reason, error.cause) == ("other-kind", f"this is {there.noun}, not {wanted.noun}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (bytes(range(200, 232)), "malformed"),
        (b"\xff" * 44, "malformed"),
        (base64.b64encode(SECRET) * 2, "malformed"),
        (base64.b64encode(SECRET) + b"\n" + base64.b64encode(SECRET), "several-lines"),
        (b"# a comment\n" + base64.b64encode(SECRET), "several-lines"),
        (b" " * 5000 + base64.b64encode(SECRET), "empty"),  # what is beyond 4096 bytes is not read
        (base64.b64encode(bytes(32)), "weak"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_without_a_key_is_refused_by_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    place = written(tmp_path / "images.key", content)
    error = refusal(GroupKey, place)
    assert error.reason == reason
    assert error.way_out == f"make another, and name that one: mcastd keygen {place}.new"


@given(st.binary(max_size=80) | st.text("AQab+/= \n\0").map(str.encode))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_a_key_or_refused(tmp_path: Path, content: bytes) -> None:
    place = written(tmp_path / "any", content)
    for kind in KINDS:
        try:
            key = read_key(kind, place)
        except KeyFileError as error:
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert key.text.encode() == content.strip()


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, no_fd_leak: None) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for place in (str(pipe), "/dev/zero"):
        assert refusal(GroupKey, place).reason == "not-a-file"
    assert refusal(GroupKey, str(tmp_path)).reason == "not-a-file"
    assert refusal(GroupKey, str(tmp_path / "none")).way_out == (
        f"copy it there, or make one: mcastd keygen {tmp_path}/none"
    )
    assert refusal(SigningKey, str(tmp_path / "none")).way_out == (
        f"copy it there, or make one: mcastd keygen --sign {tmp_path}/none"
    )


def test_no_pair_is_made_in_place_of_a_public_half_that_is_missing_or_broken(tmp_path: Path) -> None:
    # What is signed by the sender's key no other public half verifies
    copied = "copy it there from the sender, where it is beside sign_key, as PATH.pub"
    assert refusal(VerifyingKey, str(tmp_path / "none")).way_out == copied
    assert refusal(VerifyingKey, written(tmp_path / "empty", b"")).way_out == copied


@pytest.mark.root
def test_a_key_of_another_user_is_refused_with_the_fix(tmp_path: Path) -> None:
    place = written(tmp_path / "images.key", GroupKey(SECRET).text)
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    os.seteuid(65_534)
    try:
        error = refusal(GroupKey, place)
    finally:
        os.seteuid(0)
    assert (error.reason, error.errno) == ("io", errno.EACCES)
    assert error.way_out == f"chown nobody {place}"


@pytest.mark.root
def test_no_link_of_others_is_followed_to_a_key(tmp_path: Path) -> None:
    written(tmp_path / "theirs", GroupKey(SECRET).text)
    tmp_path.chmod(0o1777)
    link = tmp_path / "images.key"
    link.symlink_to(tmp_path / "theirs")
    assert read_key(GroupKey, str(link)) == GroupKey(SECRET)
    os.chown(link, 65_534, 65_534, follow_symlinks=False)
    assert refusal(GroupKey, str(link)).reason == "unsafe-path"


@pytest.mark.root
def test_in_a_directory_of_all_no_key_of_another_is_taken(tmp_path: Path) -> None:
    """Its owner could exchange it at any time, as in /tmp. Where nobody else may write, root has put it."""
    place = written(tmp_path / "images.key", GroupKey(SECRET).text)
    os.chown(place, 65_534, 65_534)
    assert read_key(GroupKey, place) == GroupKey(SECRET)
    tmp_path.chmod(0o1777)
    error = refusal(GroupKey, place)
    assert (error.reason, error.cause) == ("unsafe-path", "it belongs to uid 65534")
    os.chown(place, 0, 0)
    assert read_key(GroupKey, place) == GroupKey(SECRET)


# -- credentials of systemd


def test_a_name_is_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As systemd has it for a service with User=: the mask of its access list shows as the group's bits.
    written(tmp_path / "images.key", GroupKey(SECRET).text, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_key(GroupKey, "images.key") == GroupKey(SECRET)
    assert read_key(GroupKey, str(tmp_path / "images.key")) == GroupKey(SECRET)
    with pytest.raises(KeyFileError) as refused:
        read_key(GroupKey, "other.key")
    assert refused.value.reason == "missing"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    error = refusal(GroupKey, "images.key")
    assert error.reason == "no-credentials"
    assert "LoadCredential=images.key:" in error.way_out


def test_a_file_beside_the_credentials_is_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "images.key", GroupKey(SECRET).text, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert refusal(GroupKey, str(tmp_path / "images.key")).reason == "exposed"


# -- the command


def keygen(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["keygen", *arguments], prog_name="mcastd")
    return result.exit_code, result.output


def test_the_command_makes_a_group_key_and_says_what_to_do_with_it(tmp_path: Path) -> None:
    path = tmp_path / "images.key"
    status, output = keygen(str(path))
    key = read_key(GroupKey, str(path))
    assert status == 0
    assert output.startswith(f"made {path}, a group key (id {key.id.hex()}), for a group or for a link\n")
    assert "both name it as key in their [link.NAME]" in output
    assert key.text not in output
    assert ("chown mcastd" in output) == (os.geteuid() == 0)
    again = keygen(str(path))
    assert again == (
        1,
        f"mcastd: cannot make {path}: file exists; it is kept: name another path, or move it away\n",
    )
    assert read_key(GroupKey, str(path)) == key


def test_the_command_makes_a_signing_pair_and_shows_its_public_half(tmp_path: Path) -> None:
    path = tmp_path / "images.sign"
    status, output = keygen("--sign", str(path))
    assert status == 0
    assert f"{path}.pub" in output
    (shown,) = re.findall(r"ed25519:\S+", output)
    assert VerifyingKey.parse(shown) == read_verifying_key(f"{path}.pub")
    assert read_key(SigningKey, str(path)).text not in output
    assert keygen("--sign", str(path))[0] == 1


def test_the_command_needs_a_directory_and_one_path(tmp_path: Path) -> None:
    status, output = keygen(str(tmp_path / "none" / "x"))
    assert (status, output.count("\n")) == (1, 1)
    assert output.endswith(
        f"no such file or directory; make its directory: mkdir -p -m 0755 {tmp_path}/none\n"
    )
    assert keygen()[0] == keygen("a", "b")[0] == 2


def test_without_the_library_a_pair_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules, "cryptography"]:
        if name.partition(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    status, output = keygen("--sign", str(tmp_path / "images.sign"))
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert output == (
        "mcastd: cannot use keys: the Python library cryptography is not installed;"
        " apt install python3-cryptography, or pip install 'mcastd[files]'\n"
    )
    assert keygen(str(tmp_path / "images.key"))[0] == 0


def test_a_token_lies_in_a_file_as_keys_do(tmp_path: Path) -> None:
    path = tmp_path / "tv.token"
    missing = refusal(AccessToken, str(path))
    assert missing.reason == "missing"
    assert f"openssl rand -hex 24 > {path}" in str(missing)
    place = written(path, "correct-horse-battery\n", 0o640)
    assert refusal(AccessToken, place).reason == "exposed"
    path.chmod(0o600)
    assert read_key(AccessToken, place).text == "correct-horse-battery"
    written(path, "short")
    short = refusal(AccessToken, place)
    assert short.reason == "malformed"
    assert "16 to 128" in str(short)
    assert short.way_out.startswith("make another, and name that one: ")
    assert short.way_out.endswith(f"{path}.new)")


def test_a_password_that_is_not_there_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nats password"
    with pytest.raises(KeyFileError) as missing:
        read_secret(str(path), "the password")
    make, separator, own = missing.value.way_out.removeprefix("write it there: ").partition(", and ")
    assert separator
    subprocess.run(["sh", "-c", f"{make} && {own}"], input=b"correct horse\n", check=True)
    assert read_secret(str(path), "the password") == "correct horse"
