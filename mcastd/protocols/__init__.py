"""What stands on the wire: bytes in, values out, and back. No socket, no file, no clock."""
