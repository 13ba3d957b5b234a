"""Numbered datagrams: gaps, order, and what may be repaired of them. No socket, no clock."""
