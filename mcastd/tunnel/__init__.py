"""Tunnels through networks that have no multicast."""
