"""Outbound channels: a source is framed into datagrams, paced, and handed to a link."""
