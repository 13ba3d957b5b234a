"""What is joined where groups come from, by table."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from mcastd.bridge.rules import Rule
from mcastd.bridge.upstream import changes, upstream
from mcastd.ip import ANY_SOURCE, NO_SOURCE, SourceFilter

LEFT, RIGHT, DOWN = 3, 5, 8
NEWS, FILMS = ip_address("239.1.1.1"), ip_address("239.2.0.9")
ONE, TWO, FAR = map(ip_address, ("10.1.0.1", "10.1.0.2", "192.0.2.9"))


def rule(*groups: str, sources: tuple[str, ...] = (), joined: bool = True, both: bool = False) -> Rule:
    came_by = frozenset({LEFT, RIGHT} if both else {LEFT})
    prefixes = tuple(map(ip_network, groups)), tuple(map(ip_network, sources))
    return Rule(came_by, {RIGHT: 1, DOWN: 1}, *prefixes, joined)


def include(*sources: object) -> SourceFilter:
    return SourceFilter(False, sources)  # type: ignore[arg-type]


def exclude(*sources: object) -> SourceFilter:
    return SourceFilter(True, sources)  # type: ignore[arg-type]


ALL = rule("224.0.0.0/4")
NAMED = rule("239.1.1.1", joined=False, sources=("10.1.0.2",))


@pytest.mark.parametrize(
    ("rules", "right", "down", "joined"),
    [
        ([ALL], None, None, {}),
        ([ALL], ANY_SOURCE, None, {LEFT: ANY_SOURCE}),
        ([ALL], include(ONE), include(TWO), {LEFT: include(ONE, TWO)}),
        ([ALL], include(ONE), exclude(ONE, TWO), {LEFT: exclude(TWO)}),
        ([ALL], NO_SOURCE, None, {}),
        ([rule("239.2.0.0/16")], ANY_SOURCE, None, {}),
        ([rule("239.1.0.0/16", sources=("10.1.0.0/24",))], include(ONE, FAR), None, {LEFT: include(ONE)}),
        ([rule("239.1.0.0/16", sources=("10.1.0.0/24",))], include(FAR), None, {}),
        ([rule("239.1.0.0/16", sources=("10.1.0.0/24",))], exclude(ONE), None, {LEFT: exclude(ONE)}),
        ([rule("239.1.0.0/16", sources=("10.1.0.1", "10.1.0.2"))], exclude(ONE), None, {LEFT: include(TWO)}),
        # Nothing is joined that could go nowhere
        ([Rule(frozenset({LEFT}), {LEFT: 1}, (ip_network("239.1.1.1"),))], None, None, {}),
        # Nothing is joined for members of the interface itself
        ([rule("224.0.0.0/4", both=True)], include(ONE), None, {LEFT: include(ONE)}),
        ([rule("224.0.0.0/4", both=True)], None, include(TWO), {LEFT: include(TWO), RIGHT: include(TWO)}),
        # Without members, what is named by itself
        ([rule("239.1.0.0/16", joined=False)], ANY_SOURCE, None, {}),
        ([rule("239.1.1.1", joined=False)], None, None, {LEFT: ANY_SOURCE}),
        ([NAMED], None, None, {LEFT: include(TWO)}),
        (
            [rule("239.1.1.1", joined=False, sources=("10.1.0.2",)), ALL],
            include(FAR),
            None,
            {LEFT: include(TWO, FAR)},
        ),
    ],
)
def test_what_is_joined(
    rules: list[Rule],
    right: SourceFilter | None,
    down: SourceFilter | None,
    joined: dict[int, SourceFilter],
) -> None:
    wanted = {(RIGHT, NEWS): right, (DOWN, NEWS): down, (RIGHT, FILMS): exclude(FAR)}
    assert upstream(rules, NEWS, lambda ifindex, group: wanted.get((ifindex, group))) == joined


def test_what_differs() -> None:
    have = {LEFT: include(ONE), RIGHT: ANY_SOURCE, DOWN: ANY_SOURCE}
    want = {LEFT: include(ONE, TWO), RIGHT: ANY_SOURCE}
    assert dict(changes(have, want)) == {LEFT: include(ONE, TWO), DOWN: None}
