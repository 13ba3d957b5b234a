"""Senders with an address of their link alone, of which nothing goes to another network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mcastd.doctor.finding import Finding, Severity
from mcastd.doctor.subject import counted_more
from mcastd.ip import LINK_LOCAL

_WAY_OUT = "give the sender an address of its network, as by DHCP"


def local_senders(
    now: Mapping[str, int],
    before: Mapping[str, int],
    seen: Iterable[str] = (),
    way_out: str = "",
    *,
    is_wanted: bool = True,
) -> Iterator[Finding]:
    """By the datagrams that did not go on, by reason. ``seen`` is more evidence, ``way_out`` another one.

    If nobody knows whether it ``is_wanted``, it may be of those that come anyway, as what hosts look for each
    other by.
    """
    if (count := counted_more(now, before, LINK_LOCAL)) > 0:
        yield Finding(
            "sender-link-local",
            Severity.BROKEN if is_wanted else Severity.WARNING,
            "what comes goes no further: its sender's address is of the sender's link alone, and no router"
            " forwards from there (RFC 3927, RFC 4291)",
            (f"dropped for that: {count} while watched, {now[LINK_LOCAL]} in all (status)", *seen),
            "; or ".join(filter(None, (_WAY_OUT, way_out))),
        )
