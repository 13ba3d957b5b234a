"""``mcastctl listen``, ``send``, ``replay``, ``groups``: to find out in minutes whether a network works.

Without configuration or daemon, on the daemon's own workers: a subscription whose output is this terminal,
a channel whose source may be this keyboard. With ``--flute``, whole files from here to there.
"""


class Refused(Exception):
    """The command line is wrong: a line for each reason."""
