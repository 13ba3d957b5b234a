"""What the settings let players have: who may ask, by which names, for which groups. No socket, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.config import GatewaySettings
from mcastd.ip import Address, stays_on_link
from mcastd.protocols.gateway_paths import PageResource, StreamResource, SubscriptionResource, parse_path
from mcastd.protocols.http_request import HttpRefusal, HttpRequest

PLAYLIST = "audio/x-mpegurl; charset=utf-8"
# The reason of requests for a group that may not be had.
GROUP = "group"

Subscriptions = Callable[[], Mapping[str, StreamResource]]


class PlayerRefusal(HttpRefusal):
    """A request that is sound, and not served; ``reason`` is what it is counted by."""

    def __init__(self, status: int, text: str, reason: str) -> None:
        super().__init__(status, text)
        self.reason = reason


class ServedPage(NamedTuple):
    """An answer that is no stream."""

    kind: str  # its media type
    body: bytes


@dataclass(frozen=True, slots=True)
class PlayerRules:
    """Those of one configuration."""

    settings: GatewaySettings
    subscriptions: Subscriptions  # which are had by their names

    def allows_client(self, address: Address) -> bool:
        allowed = self.settings.allow_clients
        return not allowed or any(address.version == one.version and address in one for one in allowed)

    def allows_group(self, group: Address) -> bool:
        allowed = self.settings.allow_groups
        is_allowed = any(group.version == one.version and group in one for one in allowed)
        return is_allowed and not stays_on_link(group)

    def asked_for(self, request: HttpRequest) -> StreamResource | ServedPage:
        """What a request is to get. Raises HttpRefusal if it is to get nothing, PlayerRefusal among them."""
        self._require_own_name(request.host)
        try:
            resource = parse_path(request.path)
        except ValueError as error:
            raise HttpRefusal(400, str(error)) from error
        if isinstance(resource, PageResource) and resource.page == "playlist":
            return ServedPage(PLAYLIST, self._playlist(request.authority).encode())
        if isinstance(resource, SubscriptionResource):
            resource = self.subscriptions().get(resource.name)
        if not isinstance(resource, StreamResource):
            raise HttpRefusal(
                404, "there is nothing; ask for /udp/GROUP:PORT, /rtp/GROUP:PORT or /playlist.m3u"
            )
        if not self.allows_group(resource.group):
            raise PlayerRefusal(403, f"{resource.group} is not in allow_groups", GROUP)
        return resource

    def _playlist(self, host: str) -> str:
        """The subscriptions that may be asked for, as players take them, with URLs by the name they used."""
        lines = ["#EXTM3U"]
        for name, resource in self.subscriptions().items():
            if self.allows_group(resource.group):
                lines += [f"#EXTINF:-1,{name}", f"http://{host}/{name}" if host else f"/{name}"]
        return "\n".join([*lines, ""])

    def _require_own_name(self, host: str) -> None:
        """A page of another site may have its name lead here (DNS rebinding): it is not told anything."""
        name = host.rstrip(".")
        if "." not in name or name in self.settings.names or name.startswith("["):
            return
        try:
            ip_address(name)
        except ValueError:
            raise HttpRefusal(421, f"{name} is not in names") from None
