"""What the settings let players have: who may ask, by which names, for which groups. No socket, no clock."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.config import GatewaySettings
from mcastd.gateway.overview import ShownDaemon
from mcastd.gateway.pages import PAGE, PLAYLIST, POLICY, PlayedNow, playlist, start_page, status_page
from mcastd.gateway.subscriptions import Subscriptions, Unplayable
from mcastd.ip import Address, stays_on_link
from mcastd.keytext import AccessToken
from mcastd.protocols.gateway_paths import PageResource, StreamResource, SubscriptionResource, parse_path
from mcastd.protocols.http_request import HttpRefusal, HttpRequest

# Reasons of requests: for a group that may not be had, by a name of another host, without the token.
GROUP, NAME, TOKEN = "group", "name", "token"


class PlayerRefusal(HttpRefusal):
    """A request that is sound, and not served; ``reason`` is what it is counted by."""

    def __init__(self, status: int, text: str, reason: str) -> None:
        super().__init__(status, text)
        self.reason = reason


class NameRefusal(PlayerRefusal):
    """A request by a name that is not known to be this host's."""

    def __init__(self, name: str) -> None:
        super().__init__(421, f"{name} is not in names", NAME)
        self.name = name


class ServedPage(NamedTuple):
    """An answer that is no stream."""

    kind: str  # its media type
    body: bytes
    fields: tuple[str, ...] = ()  # more of its head


@dataclass(frozen=True, slots=True)
class PlayerRules:
    """Those of one configuration."""

    title: str  # of the gateway
    settings: GatewaySettings
    subscriptions: Subscriptions  # which are had by their names
    token: AccessToken | None = None  # None: none is needed
    # What the daemon does at a monotonic time, for its page; None: nobody knows.
    daemon: Callable[[float], ShownDaemon] | None = None

    def allows_client(self, address: Address) -> bool:
        allowed = self.settings.allow_clients
        return not allowed or any(address in one for one in allowed)

    def allows_group(self, group: Address) -> bool:
        allowed = self.settings.allow_groups
        is_allowed = any(group in one for one in allowed)
        return is_allowed and not stays_on_link(group)

    def asked_for(
        self, request: HttpRequest, played_now: Callable[[], PlayedNow], now: float
    ) -> StreamResource | ServedPage:
        """What a request is to get. Raises HttpRefusal if it is to get nothing, PlayerRefusal among them."""
        self._require_own_name(request.host)
        query = self._require_token(request)
        try:
            resource = parse_path(request.path)
        except ValueError as error:
            raise HttpRefusal(400, str(error)) from error
        if isinstance(resource, PageResource):
            streams = self._streams()
            if resource.page == "playlist":
                return ServedPage(PLAYLIST, playlist(streams, request.authority, query).encode())
            daemon = self.daemon if self.settings.status_page else None
            if daemon is not None and resource.page == "status":
                page = status_page(daemon(now), query)
            else:
                groups, has_status = self.settings.allow_groups, daemon is not None
                page = start_page(self.title, streams, groups, played_now(), query, has_status=has_status)
            return ServedPage(PAGE, page.encode(), POLICY)
        if isinstance(resource, SubscriptionResource):
            resource = self._subscription(resource.name)
        if resource is None:
            raise HttpRefusal(
                404, "there is nothing; ask for /udp/GROUP:PORT, /rtp/GROUP:PORT or /playlist.m3u"
            )
        if not self.allows_group(resource.group):
            raise PlayerRefusal(403, f"{resource.group} is not in allow_groups", GROUP)
        return resource

    def _subscription(self, name: str) -> StreamResource | None:
        """The subscription of a name; None: there is none. Raises HttpRefusal if players cannot have it."""
        found = self.subscriptions().get(name)
        if isinstance(found, Unplayable):
            raise HttpRefusal(404, f"{name} {found.why}")
        return found

    def _streams(self) -> dict[str, StreamResource]:
        """The subscriptions that may be asked for."""
        return {
            name: one
            for name, one in self.subscriptions().items()
            if isinstance(one, StreamResource) and self.allows_group(one.group)
        }

    def _require_own_name(self, host: str) -> None:
        """A page of another site may have its name lead here (DNS rebinding): it is not told anything."""
        name = host.rstrip(".")
        if "." not in name or name in self.settings.names or name.startswith("["):
            return
        try:
            ip_address(name)
        except ValueError:
            raise NameRefusal(name) from None

    def _require_token(self, request: HttpRequest) -> str:
        """The query by which links of an answer have the token, if the request has it so; else ""."""
        if self.token is None:
            return ""
        scheme, _, bearer = request.fields.get("authorization", "").partition(" ")  # RFC 6750 section 2.1
        by_query = request.query.get("token", "")
        known_by_query = hmac.compare_digest(by_query.encode(), self.token.value)
        known_by_field = hmac.compare_digest(bearer.strip().encode(), self.token.value)
        if known_by_query:
            return f"?token={by_query}"  # which has no character that has to be quoted
        if known_by_field and scheme.lower() == "bearer":
            return ""
        why = "a token is needed: ?token=TOKEN behind the path, or Authorization: Bearer TOKEN"
        raise PlayerRefusal(401, why, TOKEN)
