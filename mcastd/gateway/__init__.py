"""Streams for players and browsers, over HTTP."""
