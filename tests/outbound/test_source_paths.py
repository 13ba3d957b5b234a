"""Where a source leads: no link that others may have put on its way is followed, whenever it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.strangers import STRANGER, give_away, shared

from mcastd.errors import SourceError
from mcastd.outbound.framing import make_framer
from mcastd.outbound.sources.file import FileSource

__all__ = ["shared"]  # a fixture
SECRET = b"for root alone\n"
UNSAFE = "in a directory that others may write; name the file itself, without that link"

MakeSource = Callable[..., FileSource]

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def open_source(no_fd_leak: None) -> Iterator[MakeSource]:
    sources: list[FileSource] = []

    def opened(path: Path, **settings: object) -> FileSource:
        sources.append(FileSource(path, make_framer("line", 1472), **settings))  # type: ignore[arg-type]
        return sources[-1]

    yield opened
    for source in sources:
        source.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir(0o700)
    path = tmp_path / "private" / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def plant(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    give_away(link)


def refusal(source: FileSource) -> str:
    with pytest.raises(SourceError) as refused:
        source.read()
    return str(refused.value)


@pytest.mark.root
@pytest.mark.parametrize("settings", [{}, {"follow": True}, {"repeat": "forever"}], ids=str)
def test_a_link_of_a_stranger_is_not_followed(
    shared: Path, secret: Path, open_source: MakeSource, settings: dict[str, object]
) -> None:
    path = shared / "news"
    plant(path, secret)
    source = open_source(path, **settings)
    for _ in range(2):
        assert refusal(source) == f"cannot read {path}: news is a symbolic link of uid {STRANGER}, {UNSAFE}"
    path.unlink()
    path.write_bytes(b"news\n")
    assert source.read() == [b"news\n"]


def test_nor_is_another_name_of_a_link_of_ours(shared: Path, secret: Path, open_source: MakeSource) -> None:
    link = secret.with_name("link")
    link.symlink_to(secret)
    os.link(link, shared / "news", follow_symlinks=False)
    assert refusal(open_source(shared / "news")).endswith(
        f": news is a symbolic link of uid {os.geteuid()}, {UNSAFE}"
    )


@pytest.mark.root
def test_nor_is_one_in_place_of_a_directory(shared: Path, secret: Path, open_source: MakeSource) -> None:
    plant(shared / "dir", secret.parent)
    assert f"dir is a symbolic link of uid {STRANGER}" in refusal(open_source(shared / "dir" / "secret"))


@pytest.mark.root
def test_nor_one_to_a_fifo(shared: Path, tmp_path: Path, open_source: MakeSource) -> None:
    os.mkfifo(tmp_path / "pipe")
    plant(shared / "news", tmp_path / "pipe")
    assert f"news is a symbolic link of uid {STRANGER}" in refusal(open_source(shared / "news"))


@pytest.mark.root
@pytest.mark.parametrize("settings", [{"follow": True}, {"repeat": 2}], ids=str)
def test_nor_one_that_takes_the_place_of_what_is_read(
    shared: Path, secret: Path, open_source: MakeSource, settings: dict[str, object]
) -> None:
    """At a rotation of a followed file, or between two rounds."""
    path = shared / "news"
    path.write_bytes(b"news\n")
    source = open_source(path, **settings)
    assert source.read() == [b"news\n"]
    plant(path, secret)
    assert source.has_news(), "so that it is looked at, and told"
    assert f"news is a symbolic link of uid {STRANGER}" in refusal(source)


@pytest.mark.root
def test_nor_one_that_takes_the_place_of_a_fifo(shared: Path, secret: Path, open_source: MakeSource) -> None:
    path = shared / "news"
    os.mkfifo(path)
    source = open_source(path)
    assert source.read() == []
    plant(path, secret)
    assert source.read() == []
    assert f"news is a symbolic link of uid {STRANGER}" in refusal(source)


def test_own_links_are_followed(shared: Path, secret: Path, open_source: MakeSource) -> None:
    (shared / "dir").symlink_to(secret.parent)
    (shared / "news").symlink_to("dir/secret")
    assert open_source(shared / "news").read() == [SECRET]


@pytest.mark.root
def test_a_strangers_own_file_or_pipe_is_what_was_asked_for(shared: Path, open_source: MakeSource) -> None:
    file, pipe = shared / "file", shared / "pipe"
    file.write_bytes(b"theirs\n")
    os.mkfifo(pipe)
    for path in (file, pipe):
        give_away(path)
    assert open_source(file).read() == [b"theirs\n"]
    assert open_source(pipe).read() == []


@pytest.mark.parametrize("directory", [False, True])
def test_what_a_process_has_open_is_read_by_its_name_in_proc(
    secret: Path, open_source: MakeSource, directory: bool
) -> None:
    fd = os.open(secret.parent if directory else secret, os.O_RDONLY)
    try:
        path = Path(f"/proc/self/fd/{fd}")
        assert open_source(path / "secret" if directory else path).read() == [SECRET]
    finally:
        os.close(fd)


def test_so_is_what_lies_below_the_root_of_a_process(secret: Path, open_source: MakeSource) -> None:
    assert open_source(Path(f"/proc/self/root/{secret}")).read() == [SECRET]
