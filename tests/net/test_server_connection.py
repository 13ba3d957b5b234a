"""Files for TLS that cannot be used are named."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcastd.engines.connected import EngineServer
from mcastd.engines.nats_connection import NatsLogin
from mcastd.engines.nats_consumer import NatsSubscriber
from mcastd.net.server_connection import ServerConnection, TlsFileError, TlsFiles

SERVER = EngineServer("tls://192.0.2.1", "192.0.2.1", 4222, is_encrypted=True)


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody who takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, its key, the same with a password, the key of another one, and what is none of these."""
    directory = tmp_path_factory.mktemp("tls")
    new = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-subj",
        "/CN=x",
    )
    for name in ("pem", "other"):
        command = (*new, "-nodes", "-keyout", directory / f"{name}-key", "-out", directory / name)
        subprocess.run(command, check=True, capture_output=True)
    locked = ("openssl", "ec", "-in", directory / "pem-key", "-aes256", "-passout", "pass:secret")
    subprocess.run((*locked, "-out", directory / "locked-key"), check=True, capture_output=True)
    (directory / "junk").write_text("junk")
    return directory


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("gone", "", ""), "cannot use {0}/gone: no such file or directory"),
        (("", "gone", ""), "cannot use {0}/gone: no such file or directory"),
        (("", "pem", "gone"), "cannot use {0}/pem and {0}/gone: no such file or directory"),
        (("junk", "", ""), "cannot use {0}/junk: it has no certificate (PEM)"),
        (("", "junk", ""), "cannot use {0}/junk: that is no certificate with its key (PEM)"),
        (
            ("", "pem", "other-key"),
            "cannot use {0}/pem and {0}/other-key: that is no certificate with its key",
        ),
        (("", "pem", "locked-key"), "{0}/locked-key: the key of the certificate wants a password"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    port: int, files: Path, no_fd_leak: None, names: tuple[str, ...], words: str
) -> None:
    connection = ServerConnection("127.0.0.1", port, 5.0)
    with pytest.raises(TlsFileError) as error:
        connection.encrypt("localhost", TlsFiles(*(str(files / name) if name else "" for name in names)))
    connection.close()
    found = NatsSubscriber([SERVER], TlsFiles(), NatsLogin(), name="", subject="a", queue="").unreachable(
        SERVER, error.value
    )
    assert words.format(files) in str(found)
    assert (
        found.way_out == "give files that are there, and that the daemon may read, by ca, cert and cert_key"
    )
