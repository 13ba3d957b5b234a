"""The network: links over sockets, memberships and interfaces. Nothing else opens an INET socket."""
