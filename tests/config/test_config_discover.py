"""The tables ``[discover.NAME]``."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mcastd.config import Config, Discover
from mcastd.protocols import sap


def test_a_kind_of_worker_of_its_own() -> None:
    config = Config.model_validate({"discover": {"lan": {"interface": "eth0"}}})
    (settings,) = config.workers().values()
    assert isinstance(settings, Discover)
    assert list(config.workers()) == ["discover/lan"]
    assert (settings.groups, settings.named) == (sap.GROUPS, False)
    assert list(settings.ways()) == [("eth0", group) for group in sap.GROUPS]
    assert Discover.model_validate({"groups": ["239.255.255.254"]}).named


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"groups": []}, "must have at least one group"),
        ({"groups": ["239.255.255.254", "239.255.255.254"]}, "239.255.255.254 is named twice"),
        ({"groups": ["192.0.2.1"]}, "is not a multicast address"),
        (
            {"groups": ["ff05::2:7ffe"], "interface": "192.0.2.1"},
            "ff05::2:7ffe is IPv6, and the address of interface is not",
        ),
    ],
)
def test_what_is_refused(keys: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Discover.model_validate(keys)
