"""What is in datagrams, looked at while it passes. No socket, no clock: bytes and times in, counts out."""
