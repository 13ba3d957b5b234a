"""Sessions that others announce: heard, kept for a while, and listed."""
