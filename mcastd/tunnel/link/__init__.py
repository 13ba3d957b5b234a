"""Links: authenticated tunnels to other mcastd, as they work between the network here and the wire there.

```
  links.py       the thread: links that begin and end, and which of them have a turn
  peer_search.py where a peer is, and a socket for it
  running.py     a link at work, and what is told of it
  exchange.py    what goes from where to where
  local.py       the network here, as links see it
  networks.py    all of these, by whichever name of an interface links have them
  interface_network.py   an interface as such a network; members.py: who wants what there
  site.py        what all links of a host share: numbers of streams, what has come already, what goes where
  standby.py     which of two links to one site is in use
  end.py         one end of one link: messages in and out; datagrams.py: datagrams in and out
  sessions.py    handshakes, and which keys are in use
  session.py     records under the keys of one handshake; window.py: each is taken once
  reception.py   records in order, and what is missing of them; sent.py: records that may be asked for again
  streams.py     which streams numbers stand for, on both ways; parts.py: large datagrams
  wants.py       what each end wants
  heartbeat.py   reports: losses, round trips, whether somebody is there
  path_mtu.py    how large a datagram may be
```

But for the network here, there is no socket below peer_search.py, and no clock below links.py: ``now`` is
monotonic seconds.
"""
