"""mcastd: the daemon for IP multicast on Linux."""

__version__ = "0.2.0"
