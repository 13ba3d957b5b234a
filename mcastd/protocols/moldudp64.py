"""MoldUDP64, by which exchanges send numbered messages (Nasdaq, "MoldUDP64 Protocol Specification" 1.00).

```
  | session: 10 bytes | number of the first message: 8 | count of messages: 2 | messages . . .
```
A message is its length in 2 bytes, and as many bytes. A count of 0 is a heartbeat, one of END the end of the
session: the number is then that of the message that would come next.
"""

from __future__ import annotations

from mcastd.rows import RowBytes

HEADER_BYTES = 20
SESSION_BYTES = 10
NUMBER_AT, COUNT_AT = 10, 18
LENGTH_BYTES = 2
END = 0xFFFF


def is_end(packet: RowBytes) -> bool:
    """Return True if a packet says that its session has ended."""
    return packet[COUNT_AT:HEADER_BYTES] == END.to_bytes(2)


def messages(packet: RowBytes) -> int:
    """How many messages a packet has. Returns -1 if it is too short to have so many."""
    room = (len(packet) - HEADER_BYTES) // LENGTH_BYTES
    count = int.from_bytes(packet[COUNT_AT:HEADER_BYTES], "big")
    count = 0 if count == END else count
    return count if count <= room else -1
