"""What a reload says of itself."""

from __future__ import annotations

from mcastd.config import Changes
from mcastd.reload_notes import PAIR_SECONDS, LastChanges


def test_a_reload_that_changes_no_setting_says_what_the_one_before_did() -> None:
    last, same = LastChanges(), Changes(unchanged=("inbound/a", "link/l"))
    assert last.note(same, 100.0, rereads=False) == []
    assert last.note(Changes(added=("inbound/a",), changed=("link/l",)), 101.0, rereads=True) == []
    did = "new since the reload 2.5 s ago: added inbound/a; changed link/l"
    assert last.note(same, 103.5, rereads=False) == [f"nothing is {did}"]
    assert last.note(same, 103.5, rereads=True) == [
        f"no setting is {did}; keys and tokens were read from their files again"
    ], "a key may well be new"
    assert last.note(same, 101.0 + PAIR_SECONDS, rereads=True) == []
