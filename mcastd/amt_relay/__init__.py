"""AMT relays (RFC 7450): groups of a network with multicast for gateways in networks without it."""
