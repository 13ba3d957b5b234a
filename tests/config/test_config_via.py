"""``via`` of a subscription, and ``[amt]``, which says for all of them what they do not say themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcastd.config import AmtFallbackVia, AmtVia, Config, InboundSubscription, NativeVia, diff

Loaded = Callable[..., Config]
Refused = Callable[..., list[str]]

TV = '[inbound.tv]\ngroup = "232.1.1.1"\nport = 5004\noutput = "/srv/tv"\n'


def via_of(config: Config) -> Any:
    return config.inbound["tv"].via


def test_what_is_said_for_all_holds_where_a_subscription_says_nothing(loaded: Loaded) -> None:
    assert via_of(loaded(TV)) == NativeVia()
    assert via_of(loaded(TV + 'via = "amt"')) == AmtVia()
    common = '[amt]\nrelay = "amt.example.net"\nrefresh = "10s"\n'
    assert via_of(loaded(common + TV + 'via = "amt"')) == AmtVia(relay="amt.example.net", refresh=10.0)
    own = 'via = { kind = "amt", relay = "192.0.2.1" }'
    assert via_of(loaded(common + TV + own)) == AmtVia(relay="192.0.2.1", refresh=10.0)
    assert via_of(loaded(common + TV)) == NativeVia()
    assert via_of(loaded(TV + 'via = "amt"', site=common)).relay == "amt.example.net", "of another file"


def test_a_change_for_all_concerns_those_that_come_so(loaded: Loaded) -> None:
    other = TV.replace("[inbound.tv]", "[inbound.radio]").replace("/srv/tv", "/srv/radio")
    text = TV + 'via = "amt"\n' + other
    before, after = loaded(text), loaded('[amt]\nrelay = "192.0.2.1"\n' + text)
    changes = diff(before, after)
    assert (changes.daemon_changed, {*changes.changed}) == ((), {"inbound/tv"})
    assert not after.inbound["tv"].receives_as(before.inbound["tv"])


def test_a_fallback_is_an_ordinary_subscription_as_well(loaded: Loaded) -> None:
    keys = 'via = "amt-fallback"\nexpect_every = 5\ninterface = "eth0"\nrejoin_every = "1min"\n'
    common = '[amt]\nrelay = "amt.example.net"\n'
    assert via_of(loaded(common + TV + keys)) == AmtFallbackVia(relay="amt.example.net")
    tv = loaded(TV + keys).inbound["tv"]
    assert not tv.is_tunnelled
    assert [*tv.ways()], "changes of its interface concern it"
    assert tv.receives_as(loaded(TV + keys.replace("= 5", "= 6")).inbound["tv"])
    for other in ('via = "amt"\n', "expect_every = 5\n"):
        assert not tv.receives_as(loaded(TV + other).inbound["tv"])


@pytest.mark.parametrize("kind", ["amt", "amt-fallback"])
@pytest.mark.parametrize(
    ("other", "is_same"),
    [("refresh = '5s'", True), ("relay = '192.0.2.9'", False), ("local_port = 2270", False)],
)
def test_another_refresh_is_the_same_way(loaded: Loaded, kind: str, other: str, is_same: bool) -> None:
    keys = f'via = "{kind}"\nexpect_every = 5\n'
    one, two = (loaded(f"[amt]\n{amt}\n{TV}{keys}").inbound["tv"] for amt in ("", other))
    assert one.receives_as(two) is two.receives_as(one) is is_same


def test_a_relay_that_is_looked_for_may_be_another_for_other_senders(loaded: Loaded) -> None:
    one, other = (TV + f'via = "amt"\nsources = ["203.0.113.{number}"]' for number in (1, 2))
    assert not loaded(one).inbound["tv"].receives_as(loaded(other).inbound["tv"])
    named = '[amt]\nrelay = "192.0.2.1"\n'
    assert loaded(named + one).inbound["tv"].receives_as(loaded(named + other).inbound["tv"])


def test_no_change_of_an_interface_concerns_a_tunnel() -> None:
    keys = {"group": "232.1.1.1", "port": 5004, "output": "/srv/tv"}
    assert [*InboundSubscription.model_validate(keys).ways()]
    assert [*InboundSubscription.model_validate({**keys, "via": "amt"}).ways()] == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            'via = "amt"\ninterface = "eth0"',
            'interface: does not apply to via = "amt": the route to the relay decides',
        ),
        ('via = "amt"\nrejoin_every = "1min"', 'rejoin_every: does not apply to via = "amt"'),
        ('via = "amt"\nprotocol = "rtp"\nfec = true', 'fec: does not apply to via = "amt"'),
        ('via = "tunnel"', 'via: must be "native", "amt" or "amt-fallback", not "tunnel"'),
        ('via = "amt-fallback"', 'via: "amt-fallback" needs expect_every: after so long a silence'),
        (
            'via = "amt-fallback"\nexpect_every = 5\nprotocol = "rtp"\nfec = true',
            'fec: does not apply to via = "amt-fallback"',
        ),
        ("via = 7", "via: must be the name of a way or a table, not 7"),
        ('via = { kind = "amt", rely = "192.0.2.1" }', 'unknown key; did you mean "relay"?'),
        ('via = { kind = "amt", relay = "239.1.1.1" }', "239.1.1.1 is no address that a relay can have"),
        (
            'via = { kind = "amt", relay = "not a name" }',
            'must be an address or a name like "amt.example.net"',
        ),
        ('via = { kind = "amt", relay = "1.2.3" }', 'must be an address or a name like "amt.example.net"'),
        (
            f'via = {{ kind = "amt", relay = "{64 * "a"}.net" }}',
            'must be an address or a name like "amt.example.net"',
        ),
        (  # and it is found at once
            f'via = {{ kind = "amt", relay = "{60 * "a"}!" }}',
            'must be an address or a name like "amt.example.net"',
        ),
    ],
)
def test_what_does_not_fit_is_named(refused: Refused, keys: str, problem: str) -> None:
    (found,) = refused(TV + keys)
    assert problem in found


def test_a_wrong_key_for_all_is_said_once_where_it_is(refused: Refused) -> None:
    (found,) = refused('[amt]\nrelay = ""\n' + TV + 'via = "amt"')
    assert found.startswith("mcastd.toml:2: amt.relay: must be an address or a name")
    (found,) = refused("[amt]\nport = 1\n" + TV + 'via = "amt"')
    assert found.startswith("mcastd.toml:2: amt.port: unknown key")
