"""Names from outside: what they become, and what is refused."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.delivery import names
from mcastd.delivery.names import Unsafe, UnsafeNameError, require_safe, safe_name
from mcastd.delivery.refused import UNSAFE_NAME


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("lab.img", ("lab.img",)),
        ("images/lab.img", ("images", "lab.img")),
        ("a b/c:d%2F", ("a b", "c:d%2F")),
        ("caf\udce9", ("caf\udce9",)),
        ("...", ("...",)),
        ("a?b#c", ("a?b#c",)),
        (".profile", (".profile",)),
        ("x" * 255, ("x" * 255,)),
    ],
)
def test_a_path_below_any_directory_is_taken(location: str, name: tuple[str, ...]) -> None:
    assert safe_name(location) == name


@pytest.mark.parametrize(
    ("location", "unsafe"),
    [
        ("", Unsafe.EMPTY),
        ("/", Unsafe.EMPTY),
        ("/etc/passwd", Unsafe.EMPTY),
        ("images/", Unsafe.EMPTY),
        ("images//lab.img", Unsafe.EMPTY),
        ("../lab.img", Unsafe.PARENT),
        ("images/../../lab.img", Unsafe.PARENT),
        ("images/..", Unsafe.PARENT),
        ("./lab.img", Unsafe.PARENT),
        ("lab\0.img", Unsafe.CONTROL),
        ("lab\n.img", Unsafe.CONTROL),
        ("lab\x1b[2J", Unsafe.CONTROL),
        ("lab\x85", Unsafe.CONTROL),
        ("lab\ud800", Unsafe.NOT_A_NAME),
        ("x" * 256, Unsafe.TOO_LONG),
        ("é" * 128, Unsafe.TOO_LONG),
        ("/".join(["x" * 250] * 9), Unsafe.TOO_LONG),
        ("/".join([*["x" * 255] * 7, "x" * 127, "x" * 128]), Unsafe.TOO_LONG),  # 2049 bytes with its slashes
        ("/".join("x" * 33), Unsafe.TOO_DEEP),
        (".mcastd-partial/5f3a", Unsafe.RESERVED),
        (".MCASTD-Partial", Unsafe.RESERVED),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(location: str, unsafe: Unsafe) -> None:
    with pytest.raises(UnsafeNameError) as refused:
        safe_name(location)
    assert refused.value.unsafe is unsafe
    assert refused.value.reason == UNSAFE_NAME
    assert str(refused.value).isprintable()


def test_only_the_first_part_is_reserved() -> None:
    assert safe_name(f"a/{names.PARTIAL_DIRECTORY}") == ("a", names.PARTIAL_DIRECTORY)


def test_a_name_is_cut_where_it_is_shown() -> None:
    assert names.shown("x" * 120) == "x" * 120
    assert names.shown("x" * 121) == "x" * 117 + "..."
    assert names.shown("a\x1bb") == r"a\x1bb"


def test_a_part_with_a_slash_is_refused() -> None:
    with pytest.raises(UnsafeNameError) as refused:
        require_safe(("a", "b/c"))
    assert refused.value.unsafe is Unsafe.SLASH


PARTS = st.sampled_from(["..", ".", "/", "a", ":", "\0", "é"])


@settings(max_examples=200)
@given(st.one_of(st.text(), st.lists(PARTS).map("".join)))
def test_whatever_is_sent_stays_below_the_directory(location: str) -> None:
    try:
        name = safe_name(location)
    except UnsafeNameError:
        return
    require_safe(name)
    path = os.path.join("/srv/images", *name)
    assert os.path.normpath(path) == path
    assert PurePosixPath("/srv/images") in PurePosixPath(path).parents
    assert len(PurePosixPath(path).parts) == 3 + len(name)
    os.fsencode(path)
