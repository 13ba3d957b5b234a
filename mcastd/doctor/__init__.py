"""Why it does not work: one function a check, each along the path that a datagram takes.

A check reads what it says, and says where; it never guesses. ``examine`` runs them all, and puts the cause
that explains the others first. ``causes`` is the list of what can be found.
"""
