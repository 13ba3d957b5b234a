"""Channels of media, made for real: a way that is down. See test_gallery.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.faults import ip, news, outbound
from support.gallery import Case, Lab, show

CASES = [
    Case(
        "leg-down",
        "warning",
        outbound('copies = [{ group = "239.255.6.10", interface = "eth1" }]'),
        ip("link set eth1 down", "link set eth1 up, addr replace fe80::1/64 dev eth1 nodad"),
        prepare=news,
        worker="outbound/news",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)
