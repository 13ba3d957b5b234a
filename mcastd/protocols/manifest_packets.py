"""The packets of a manifest: an object of its own, which no FDT describes.

```
  sealed   LCT header with EXT_FTI, payload id | announcement (seal.py)
  plain    LCT header with EXT_FTI, payload id | "mcm\\1"  serial 8 | symbol
```

Other receivers of FLUTE take no notice of it. The serial before each symbol keeps those of two manifests
apart, and says at once which are of one that was replaced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mcastd.protocols import fec, lct, raptorq
from mcastd.protocols.lct import Malformed
from mcastd.protocols.seal import (
    ANNOUNCEMENT_OVERHEAD_BYTES,
    Announced,
    AnnouncementSealer,
    Buffer,
    MakeRepair,
)

# The TOI of manifests. No file has it.
MANIFEST_TOI = (1 << 32) - 1
# Before the payload of its packets: LCT header, EXT_FTI, and payload ID.
MANIFEST_HEADER_BYTES = lct.BUILT_BYTES + fec.EXT_FTI_BYTES + fec.SHORT_ID_BYTES

_MAGIC = b"mcm\1"
_PLAIN = struct.Struct(">4sQ")


def manifest_packets(
    tsi: int,
    data: bytes,
    serial: int,
    max_datagram: int,
    sealer: Callable[[bytes], AnnouncementSealer] | None = None,
    *,
    protect: Callable[[int, int], int] | None = None,
    make_repair: MakeRepair = raptorq.repair,
) -> list[bytes]:
    """The packets of a manifest, at most ``max_datagram`` bytes each, those of several blocks in turns.

    ``sealer`` makes what seals them from their LCT header; without it all can read them. ``protect`` says how
    many repair symbols a block gets, by its source symbols and the number of blocks; without it, or if one
    packet is enough, there is no code. Raises what ``make_repair`` raises.
    """
    overhead = _PLAIN.size if sealer is None else ANNOUNCEMENT_OVERHEAD_BYTES
    size = max_datagram - MANIFEST_HEADER_BYTES - overhead
    if protect is None or len(data) <= size:
        protect, oti = None, fec.Oti(fec.NO_CODE, size, fec.BLOCK_SYMBOLS)
    else:
        size -= size % fec.RAPTORQ_ALIGNMENT_BYTES
        oti = fec.raptorq(len(data), size, fec.BLOCK_SYMBOLS)
    header = lct.build(tsi, MANIFEST_TOI, oti.scheme, fec.build_fti(oti, len(data)))
    seal = None if sealer is None else sealer(header).seal
    blocks, identify = fec.Blocks(oti, len(data)), fec.scheme_of(oti.scheme).identify
    symbols = []
    for sbn in range(blocks.count):
        block = data[blocks.offset(sbn) :][: blocks.size(sbn)]
        symbols.append(fec.source_symbols(oti, block))
        if protect is not None:
            symbols[sbn] += make_repair(block, size, protect(blocks.largest, blocks.count), 0)
    plain, packets = _PLAIN.pack(_MAGIC, serial), []
    for esi in range(max(map(len, symbols))):
        for sbn in range(blocks.count):
            if esi < len(symbols[sbn]):
                payload_id, symbol = identify(sbn, esi), symbols[sbn][esi]
                payload = plain + symbol if seal is None else seal(int.from_bytes(payload_id), symbol)
                packets.append(header + payload_id + payload)
    return packets


def is_plain(payload: Buffer) -> bool:
    """Return True if a payload begins as that of a manifest which all can read."""
    return len(payload) >= _PLAIN.size and payload[: len(_MAGIC)] == _MAGIC


def read_plain(payload: Buffer) -> Announced:
    """The symbol of a packet that is not sealed. Raises Malformed."""
    if not is_plain(payload):
        raise Malformed("manifest", "it does not begin as a packet of a manifest")
    _, serial = _PLAIN.unpack_from(payload)
    return Announced(bytes(payload[_PLAIN.size :]), b"", serial)
