"""What is unwise in the settings of one worker, by its kind: here those that have little."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from mcastd.config.addresses import split_end
from mcastd.config.advice.channels import OF_A_CHANNEL
from mcastd.config.advice.subscriptions import OF_A_SUBSCRIPTION, restless
from mcastd.config.gateway import GatewaySettings
from mcastd.config.link import LinkSettings
from mcastd.config.types import Advice


def _in_clear(link: LinkSettings) -> Advice:
    if link.security == "none":
        yield (
            "security",
            '"none" lets anybody on the way read what goes, and forge what comes: only inside WireGuard or'
            " IPsec; else leave it out, and set key",
        )


def _open_to_anybody(gateway: GatewaySettings) -> Advice:
    everywhere = [end for end in gateway.listen if ip_address(split_end(end)[0]).is_unspecified]
    if everywhere and not gateway.allow_clients and gateway.token is None:
        yield (
            "listen",
            f"{everywhere[0]} serves whoever reaches this host by any of its addresses; set allow_clients or"
            " token, or listen at an address of the network that the players are in",
        )


def _shown_to_anybody(gateway: GatewaySettings) -> Advice:
    if gateway.status_page and not gateway.allow_clients and gateway.token is None:
        yield (
            "status_page",
            "shows whoever may ask what all workers do, where they write, and what is wrong: set"
            " allow_clients or token",
        )


OF_ONE_WORKER: dict[str, tuple[Callable[[Any], Advice], ...]] = {
    "outbound": OF_A_CHANNEL,
    "inbound": OF_A_SUBSCRIPTION,
    "link": (_in_clear,),
    "gateway": (_open_to_anybody, _shown_to_anybody, restless),
}
