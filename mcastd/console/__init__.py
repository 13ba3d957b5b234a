"""What ``mcastctl`` shows: pure functions from data to lines, and live displays made of them.

``text`` is what all share; ``status`` is a picture of now. Whatever comes from the network or from the
daemon goes through :func:`text.printable` before it reaches a terminal. Nothing is imported here:
``mcastctl`` starts without the libraries of its displays.
"""
