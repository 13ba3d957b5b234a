"""Key files: read, and made.

A key lies in a file of its own, one line (``keytext.py``), or is a credential of systemd (``LoadCredential=``
in systemd.exec(5)), which is meant by its name alone. A secret that others may read is no secret: it is
refused, with the command that mends it. No error repeats a secret.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mcastd.errors import McastdError, UnsafePathError, reason_of
from mcastd.keytext import (
    KEY_BYTES,
    AccessToken,
    GroupKey,
    NotAKeyError,
    SigningKey,
    VerifyingKey,
    WrittenKey,
)
from mcastd.paths import Place, place_of
from mcastd.printable import printable
from mcastd.protocols.crypto import verifying_key

# No file with one key is longer.
KEY_FILE_MAX_BYTES = 4096
# Nor one with another secret: the credentials of a user of NATS are some 2,000 bytes.
SECRET_MAX_BYTES = 65_536
# A key that could not be read, as without a descriptor, is read again after so long.
REREAD_SECONDS = 5.0
# Where systemd puts a service's credentials (systemd.exec(5)).
CREDENTIALS = "CREDENTIALS_DIRECTORY"
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
PUBLIC_SUFFIX = ".pub"

SomeKey = TypeVar("SomeKey", bound=WrittenKey)


class KeyFileError(McastdError):
    """A key cannot be had from its file, or not be written there.

    ``reason`` is "missing", "exposed" (others may read a secret), "writable" (others may write a public
    key), "unsafe-path", "not-a-file", "taken" (there is a file already), "no-credentials", a reason of
    NotAKeyError, or "io": then ``errno`` says it.
    """

    def __init__(self, what: str, cause: str, way_out: str = "", *, reason: str, errno: int = 0) -> None:
        self.reason = reason
        super().__init__(what, cause, way_out, errno=errno)


def read_key(kind: type[SomeKey], place: str) -> SomeKey:
    """Read a key of a kind from a ``place``: the path of its file, or the name of a credential.

    Raises KeyFileError.
    """
    path = path_of(place)
    what = f"cannot read {kind.noun} from {printable(path)}"
    ways_out = {
        errno.ENOENT: _to_have(kind, path),
        errno.EACCES: f"chown {_own_name()} {shlex.quote(str(path))}",
    }
    with _explained(what, ways_out), place_of(path) as found:
        text = _read(found, what, secret=kind is not VerifyingKey)
    try:
        return kind.parse(text)
    except NotAKeyError as error:
        raise KeyFileError(what, str(error), _instead(kind, path, error), reason=error.reason) from None


def read_secret(place: str, noun: str) -> str:
    """Read what is secret and none of our keys, as a password: a text, without the blanks around it.

    ``noun`` says what it is. Raises KeyFileError.
    """
    path = path_of(place)
    what = f"cannot read {noun} from {printable(path)}"
    quoted = shlex.quote(str(path))
    ways_out = {
        errno.ENOENT: f"write it there: (umask 077; cat > {quoted}), and chown {_own_name()} {quoted}",
        errno.EACCES: f"chown {_own_name()} {quoted}",
    }
    with _explained(what, ways_out), place_of(path) as found:
        text = _read(found, what, secret=True, most=SECRET_MAX_BYTES).strip()
    if not text:
        raise KeyFileError(what, "the file is empty", "write it there", reason="missing")
    return text


def read_verifying_key(told: str) -> VerifyingKey:
    """A verifying key that is told as its text, or as the place of its file. Raises KeyFileError."""
    if told.startswith(VerifyingKey.prefix):
        try:
            return VerifyingKey.parse(told)
        except NotAKeyError as error:
            raise KeyFileError("cannot use a verifying key", str(error), reason=error.reason) from None
    return read_key(VerifyingKey, told)


def path_of(place: str) -> Path:
    """The path of a key's file; of a credential, if ``place`` is its name. Raises KeyFileError."""
    if "/" in place:
        return Path(place)
    if directory := os.environ.get(CREDENTIALS):
        return Path(directory, place)
    raise KeyFileError(
        f"cannot read the credential {printable(place)}",
        f"systemd gave none (${CREDENTIALS} is not set)",
        f"add LoadCredential={place}:/PATH/OF/THE/KEY to the service, or name the path of a file",
        reason="no-credentials",
    )


def make_group_key(path: Path) -> GroupKey:
    """Make a file with a new group key. Raises KeyFileError, also if the name is taken."""
    key = GroupKey(os.urandom(KEY_BYTES))
    _make(path, key, SECRET_MODE)
    return key


def make_signing_pair(path: Path) -> VerifyingKey:
    """Make the two files of a signing pair: ``path``, and its public half beside it as ``path.pub``.

    There are both afterwards, or neither. Raises KeyFileError, or MissingLibraryError.
    """
    key = SigningKey(os.urandom(KEY_BYTES))
    public = verifying_key(key)
    _make(path, key, SECRET_MODE)
    try:
        _make(path.with_name(path.name + PUBLIC_SUFFIX), public, PUBLIC_MODE)
    except KeyFileError:
        with suppress(OSError):
            os.unlink(path)
        raise
    return public


def _read(place: Place, what: str, *, secret: bool, most: int = KEY_FILE_MAX_BYTES) -> str:
    fd = place.open(os.O_RDONLY)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(what, "it is no regular file", reason="not-a-file")
        # Others may have put it into such a directory: its owner tells who has
        if not place.ours and found.st_uid not in {0, os.geteuid()}:
            way_out = "move it to a directory that nobody else may write"
            raise KeyFileError(what, f"it belongs to uid {found.st_uid}", way_out, reason="unsafe-path")
        # Credentials are in a directory that systemd shows to the service alone, where the group's bits are
        # the mask of an access list (acl(5)), not the group's.
        directory = os.environ.get(CREDENTIALS)
        if directory is None or place.path.parent != Path(directory):
            _require_closed(found.st_mode, place.path, what, secret=secret)
        return os.read(fd, most).decode(errors="replace")
    finally:
        os.close(fd)


def _require_closed(mode: int, path: Path, what: str, *, secret: bool) -> None:
    """Raises KeyFileError if others may read a secret, or exchange a public key for another."""
    quoted = shlex.quote(str(path))
    if secret and mode & 0o077:
        cause = f"its mode {mode & 0o777:04o} opens it to others than its owner"
        raise KeyFileError(what, cause, f"chmod 600 {quoted}", reason="exposed")
    if mode & 0o022:
        cause = f"its mode {mode & 0o777:04o} lets others than its owner write it"
        raise KeyFileError(what, cause, f"chmod go-w {quoted}", reason="writable")


def _make(path: Path, key: WrittenKey, mode: int) -> None:
    """Write a key to a new file, and both it and its name to the disk. Raises KeyFileError."""
    ways_out = {
        errno.EEXIST: "it is kept: name another path, or move it away",
        errno.ENOENT: f"make its directory: mkdir -p -m 0755 {shlex.quote(str(path.parent))}",
    }
    with _explained(f"cannot make {printable(path)}", ways_out), place_of(path) as place:
        fd = place.create(0, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask is
            line = f"{key.text}\n".encode()
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
            sync_directory(place.directory)
        except OSError:
            place.remove(place.name)
            raise
        finally:
            os.close(fd)


def sync_directory(directory: int) -> None:
    """Write the names in a directory, which is open as a place's is (O_PATH), to the disk."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(what: str, ways_out: Mapping[int, str]) -> Iterator[None]:
    """Translate an error of a path into KeyFileError; ``ways_out`` has what to do by errno."""
    try:
        yield
    except UnsafePathError as error:
        raise KeyFileError(what, error.cause, reason="unsafe-path") from error
    except OSError as error:
        number = error.errno or 0
        reason = {errno.ENOENT: "missing", errno.EEXIST: "taken"}.get(number, "io")
        way_out = ways_out.get(number, "")
        raise KeyFileError(what, reason_of(error), way_out, reason=reason, errno=number) from error


def _to_have(kind: type[WrittenKey], path: Path) -> str:
    """What to do about a key that is not there. The public half of a new pair would verify nothing."""
    if kind is VerifyingKey:
        return f"copy it there from the sender, where it is beside sign_key, as PATH{PUBLIC_SUFFIX}"
    return f"copy it there, or make one: {_command(kind, path)}"


def _instead(kind: type[WrittenKey], path: Path, error: NotAKeyError) -> str:
    """What to do about a file that has no such key."""
    if error.reason == "other-kind":
        public = f"a signing key's public half is in PATH{PUBLIC_SUFFIX} at the sender"
        return public if kind is VerifyingKey else "name the right file"
    if kind is VerifyingKey:
        return _to_have(kind, path)
    # What is there may be something else, that nobody wants to lose: it stays
    return f"make another, and name that one: {_command(kind, path.with_name(path.name + '.new'))}"


def _command(kind: type[WrittenKey], path: Path) -> str:
    if kind is AccessToken:
        return f"(umask 077; openssl rand -hex 24 > {shlex.quote(str(path))})"
    sign = "" if kind is GroupKey else "--sign "
    return f"mcastd keygen {sign}{shlex.quote(str(path))}"


def _own_name() -> str:
    """The name of the user that we are; the number if it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
