"""The control socket: how ``mcastctl``, ``varlinkctl`` and other programs see and steer a running mcastd.

``protocol`` is the wire, ``listener`` the socket file, ``server`` the conversations, ``commands`` what can be
asked, ``monitor`` what is told over time, ``client`` the other end, ``definition`` what that may rely on.
Nothing is imported here: ``mcastctl`` starts without the daemon's libraries.
"""
