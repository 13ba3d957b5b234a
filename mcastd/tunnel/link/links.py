"""All links of a host, in one thread: messages between peers and the networks here.

```
   peers --- UDP ---> sockets, one for each link --> end.py --> site.py ---> local.py: the network here
                                                                  |    <---
                                                                  +--> end.py of other links
```
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence

from mcastd import clock, log
from mcastd.bell import Bell
from mcastd.counters import LinkCounters
from mcastd.deadlines import Deadlines
from mcastd.token_bucket import TokenBucket
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.exchange import Exchange
from mcastd.tunnel.link.local import LocalNetwork
from mcastd.tunnel.link.networks import LocalNetworks, NameOf, OpenNetwork
from mcastd.tunnel.link.peer_search import PeerSearch
from mcastd.tunnel.link.plan import LinkPlan, settings_of, way_of
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite, SiteLink
from mcastd.tunnel.link.standby import Standbys
from mcastd.tunnel.link.step import MayGo
from mcastd.tunnel.watched import WatchedDescriptors
from mcastd.tunnel.woken_thread import WokenThread

# A link or a network that failed begins anew after so long.
ANEW_SECONDS = 10.0
# After an error that is no link's and no network's.
CRASH_SECONDS = 1.0


class Links:
    """For any thread; the first link starts a thread of its own.

    In a turn of it those links and networks are visited alone that have something to be read, or are due, or
    that these have something for: among hundreds, who is idle costs nothing.
    """

    def __init__(self, open_network: OpenNetwork, name_of: NameOf = lambda interface: interface) -> None:
        self.site = LinkSite(secrets.randbits(64))
        self.running: dict[str, RunningLink] = {}  # of the thread; others may look
        self._networks = LocalNetworks(open_network, name_of, self._network_begins_or_ends)
        self._exchange = Exchange(
            self.site, self.running, self._networks.by_interface, self._guard, self._guard_network
        )
        self._standbys = Standbys(self.site, self.running)
        self._search = PeerSearch(lambda link: self._command(lambda now: self._touch(link)))
        self._deadlines = Deadlines[RunningLink | LocalNetwork]()
        self._watched = WatchedDescriptors[RunningLink | LocalNetwork | Bell]()
        # Those to which something was done in this turn, so that all that follows from them is to be renewed
        self._touched_links: dict[RunningLink, None] = {}
        self._touched_networks: dict[LocalNetwork, None] = {}
        self._troubles: dict[LocalNetwork, tuple[str, ...]] = {}  # as links were told
        # A command to do so waits: of hundreds of links each may have found that the network changed
        self._is_to_look = self._is_to_doubt = False
        self._commands: deque[Callable[[float], None]] = deque()
        self._thread = WokenThread("links", self._run)
        self._log = log.get_logger()

    # -- for any thread

    def enlist(
        self,
        name: str,
        plan: LinkPlan,
        counters: LinkCounters | None = None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a link, or go over to another plan of it. Raises NoThreadError.

        It is counted in ``counters``; ``on_news`` is called, from the thread of the links, when the
        :class:`LinkSight` of it is another one.
        """
        self._command(lambda now: self._begin(name, plan, counters, on_news, now))

    def dismiss(self, name: str) -> None:
        """End a link."""
        self._command(lambda now: self._dismiss(name, now))

    def network_changed(self) -> None:
        """Interfaces or addresses of this host are others: look at them."""
        if self._thread.has_begun and not self._is_to_look:
            self._is_to_look = True
            self._command(self._look_again)

    def host_changed(self) -> None:
        """Something of this host's network is another one, if only an address by which peers are reached."""
        if self._thread.has_begun and not self._is_to_doubt:
            self._is_to_doubt = True
            self._command(self._doubt)

    def network(self, interface: str) -> LocalNetwork | None:
        """The network here that links with this interface are for; None: there is none now."""
        return self._networks.by_interface.get(interface)

    def close(self) -> None:
        """Take leave of all peers, and end the thread."""
        self._thread.close()

    def _command(self, command: Callable[[float], None]) -> None:
        self._commands.append(command)
        self._thread.begin()
        self._thread.wake()

    # -- the thread

    def _run(self, bell: Bell) -> None:
        self._watched.watch(bell, [bell.fileno()])
        while not self._thread.ends:
            try:
                self._turn(bell)
            except Exception:  # a bug of ours must not end all links
                self._log.exception("links.crashed")
                self._exchange.wants_changed = True
                self._touch_all()
                time.sleep(CRASH_SECONDS)
        now = clock.monotonic()
        for name in [*self.running]:
            self._end(name, now)

    def _turn(self, bell: Bell) -> None:
        """Wait for what comes, and do what is due."""
        ready = self._watched.wait(self._deadline)
        bell.quiet()
        now = clock.monotonic()
        while self._commands:
            self._commands.popleft()(now)
        for found in ready:
            if not isinstance(found, Bell):
                self._visit(found, self._exchange.receive, self._exchange.take, now)
        for found in self._deadlines.due(now):
            self._visit(found, self._attend, self._tick, now)
        if self._networks.deadline <= now:
            self._keep_networks(now)
        if self._standbys.deadline <= now or self._standbys.concerns(self._touched_links):
            self._exchange.wants_changed |= self._standbys.settle(now)
        if self._exchange.deadline <= now:
            self._exchange.settle(now)
        self._renew(now)

    @property
    def _deadline(self) -> float:
        others = self._networks.deadline, self._standbys.deadline, self._exchange.deadline
        return min(self._deadlines.first, *others)

    def _visit(
        self,
        found: RunningLink | LocalNetwork,
        of_link: Callable[[RunningLink, float], None],
        of_network: Callable[[LocalNetwork, float], None],
        now: float,
    ) -> None:
        """Do a step of a link or network, if it is there still: what came before may have ended it."""
        if not isinstance(found, RunningLink):
            if self._networks.is_there(found):
                self._guard_network(found, of_network, now)
        elif self.running.get(found.name) is found:
            self._guard(found, of_link, now)

    def _guard(self, link: RunningLink, step: Callable[[RunningLink, float], None], now: float) -> None:
        """Do something to a link, as :meth:`_protect` does."""
        self._touch(link)
        self._protect(link, step, now)

    def _protect(self, link: RunningLink, step: Callable[[RunningLink, float], None], now: float) -> None:
        """What one link does wrong must not cost the others their thread: it begins anew."""
        try:
            step(link, now)
        except Exception:
            self._log.exception("link.crashed", link=link.name)
            self._end(link.name, now)
            self._begin(link.name, link.plan, link.end.counts, link.on_news, now)
            anew = self.running[link.name]
            anew.crashed, anew.look_at = True, now + ANEW_SECONDS
            self._deadlines.set(anew, anew.look_at)

    def _guard_network(
        self, network: LocalNetwork, step: Callable[[LocalNetwork, float], None], now: float
    ) -> None:
        """Do something to a network here, as :meth:`_protect_network` does."""
        self._touched_networks[network] = None
        self._protect_network(network, step, now)

    def _protect_network(
        self, network: LocalNetwork, step: Callable[[LocalNetwork, float], None], now: float
    ) -> None:
        """Neither must what a network here does wrong: after a while it is opened anew."""
        try:
            step(network, now)
        except Exception:
            interfaces = self._networks.by_interface
            interface = next((name for name, one in interfaces.items() if one is network), "")
            self._log.exception("network.crashed", interface=interface)
            self._networks.fail(network, now + ANEW_SECONDS)

    def _tick(self, network: LocalNetwork, now: float) -> None:
        self._exchange.wants_changed |= network.tick(now)

    # -- what follows from a visit

    def _touch(self, link: RunningLink) -> None:
        self._touched_links[link] = None

    def _touch_all(self) -> None:
        self._touched_links.update(dict.fromkeys(self.running.values()))
        self._touched_networks.update(dict.fromkeys(self._networks.by_interface.values()))

    def _renew(self, now: float) -> None:
        """Of all that were touched, have what is waited for as it is now, and tell of links that changed."""
        networks, self._touched_networks = self._touched_networks, {}
        for network in networks:
            if self._networks.is_there(network):
                self._protect_network(network, self._renew_network, now)
            if not self._networks.is_there(network):
                self._forget(network)
        links, self._touched_links = self._touched_links, {}
        for link in links:
            if self.running.get(link.name) is link:
                self._protect(link, self._renew_link, now)
            if self.running.get(link.name) is not link:
                self._forget(link)

    def _renew_network(self, network: LocalNetwork, now: float) -> None:
        self._watched.watch(network, network.filenos())
        self._deadlines.set(network, network.deadline)
        troubles = (*network.troubles,)
        if troubles != self._troubles.get(network, ()):
            self._touch_all()
        self._troubles[network] = troubles

    def _renew_link(self, link: RunningLink, now: float) -> None:
        self._watched.watch(link, [] if link.socket is None else [link.socket.fileno()])
        self._deadlines.set(link, link.deadline)
        interface = link.plan.interface
        troubles: Sequence[str] = ()
        if (network := self._networks.by_interface.get(interface)) is not None:
            troubles = network.troubles
        elif interface:
            troubles = (f"{interface} failed; it is opened again",)
        link.tell(troubles, rests=self.site.links[link.name].rests)

    def _forget(self, found: RunningLink | LocalNetwork) -> None:
        self._watched.watch(found, [])
        self._deadlines.set(found, math.inf)
        if not isinstance(found, RunningLink):
            self._troubles.pop(found, None)

    # -- the networks here

    def _look_again(self, now: float) -> None:
        """The network is another one."""
        self._is_to_look = False
        self._networks.look_again()
        self._keep_networks(now)
        for network in dict.fromkeys(self._networks.by_interface.values()):
            self._guard_network(network, lambda one, at: one.network_changed(at), now)
        for link in self.running.values():
            if link.socket is None and not link.crashed:
                link.look_at = now
                self._touch(link)

    def _doubt(self, now: float) -> None:
        """The ways to peers may be others: ask whether they are there, and so show them where we are."""
        self._is_to_doubt = False
        for link in self.running.values():
            if link.end.heartbeat.doubt(now):
                self._touch(link)

    def _keep_networks(self, now: float) -> None:
        """Have the networks that links are for."""
        plans = [link.plan for link in self.running.values()]
        self._networks.keep(dict.fromkeys(plan.interface for plan in plans if plan.interface), now)

    def _network_begins_or_ends(self, network: LocalNetwork) -> None:
        self._exchange.wants_changed = True
        self._touch_all()
        self._touched_networks[network] = None

    # -- links that begin and end

    def _begin(
        self,
        name: str,
        plan: LinkPlan,
        counters: LinkCounters | None,
        on_news: Callable[[], None],
        now: float,
    ) -> None:
        before = self.running.get(name)
        if (
            before is not None
            and way_of(before.plan) == way_of(plan)
            and (counters is None or counters is before.end.counts)
        ):
            before.on_news = on_news
            self._change(before, plan, now)
            return
        if before is not None:
            self._end(name, now)
        end = LinkEnd(
            plan.key,
            self.site.origin,
            settings_of(plan),
            now,
            wall_ns=time.time_ns,
            allow=_allowed(plan),
            counts=counters,
        )
        self.running[name] = link = RunningLink(name, plan, end, on_news)
        self.site.links[name] = SiteLink(end, plan.send, plan.transit)
        self._follow_plan(link, now)

    def _change(self, link: RunningLink, plan: LinkPlan, now: float) -> None:
        """Have a link go over to another plan of the same way: what goes by it goes on."""
        before, link.plan = link.plan, plan
        if plan.rate != before.rate:
            link.end.limit(_allowed(plan))
        link.end.change(plan.key, settings_of(plan, link.version), now)
        rests = self.site.links[link.name].rests
        self.site.links[link.name] = SiteLink(link.end, plan.send, plan.transit, rests)
        self._follow_plan(link, now)

    def _follow_plan(self, link: RunningLink, now: float) -> None:
        """Have all that depends on the plan of a link be as that says."""
        self._touch(link)
        self._standbys.links_changed()
        self._keep_networks(now)
        self._exchange.wants_changed = True

    def _dismiss(self, name: str, now: float) -> None:
        self._end(name, now)
        self.site.forget_link(name)

    def _end(self, name: str, now: float) -> None:
        link = self.running.get(name)
        if link is None:
            return
        try:
            self._exchange.after(link, link.end.close(now), now)
        except Exception:  # it may be ended since it has crashed
            self._log.exception("link.crashed", link=name)
        del self.running[name]
        del self.site.links[name]
        self._touch(link)
        self._standbys.links_changed()
        self._exchange.wants_changed = True
        link.close_socket()
        self._keep_networks(now)

    def _attend(self, link: RunningLink, now: float) -> None:
        if link.crashed and now >= link.look_at:
            link.crashed, self._exchange.wants_changed = False, True
        self._search.attend(link, now)
        if link.end.deadline <= now:
            self._exchange.after(link, link.end.tick(now), now)


def _allowed(plan: LinkPlan) -> MayGo | None:
    """What says how many datagrams may go; None: all."""
    return None if plan.rate is None else TokenBucket(plan.rate).take
