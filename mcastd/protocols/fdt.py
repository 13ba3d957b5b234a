"""FDT instances, which describe the files of a FLUTE session (RFC 6726 section 3.4.2): built, and parsed.

What is parsed comes from anybody: it is bounded in bytes and in files, has no document type, and so no
entities. Elements are known by their names alone, since senders use the namespaces of RFC 6726, of RFC 3926,
and others.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote
from xml.parsers import expat

from mcastd.protocols.checksum import CHECKSUM_BYTES
from mcastd.protocols.fec import RAPTORQ, SMALL_BLOCK, Oti, oti_of
from mcastd.protocols.lct import Malformed

NAMESPACE = "urn:ietf:params:xml:ns:fdt"
# Of an attribute of our own, which others leave out (RFC 6726 section 3.4.2: anyAttribute).
OWN_NAMESPACE = "urn:mcastd:fdt"
# Bytes of an instance, as XML and as it is sent; files that it describes; bytes of a file's name (PATH_MAX).
INSTANCE_MAX_BYTES = 1 << 20
FILES_MAX = 10_000
LOCATION_MAX_BYTES = 4096
# Bounds of the work that one datagram can make. Entries that are not taken, and the depth of elements in each
# other: with more of them the instance is refused.
LEFT_OUT_MAX = 256
DEPTH_MAX = 32
# Decoded, an instance has at most this many times the bytes that were sent, or DECODED_MIN_BYTES if that is
# more.
DECODED_MAX_RATIO = 64
DECODED_MIN_BYTES = 1 << 16
# The largest numbers: a TOI has 112 bits (RFC 5651 section 5.1), a length 48 (RFC 5052 section 6.2.4).
TOI_MAX = (1 << 112) - 1
LENGTH_MAX = (1 << 48) - 1
# Seconds from the epoch of NTP to that of Unix (RFC 5905 section 6), and of an era of NTP.
NTP_EPOCH_SECONDS = 2_208_988_800
NTP_ERA_SECONDS = 1 << 32
# How a file may be encoded, and an instance by the number in EXT_CENC (RFC 6726 section 3.4.3): not at all,
# zlib (RFC 1950), deflate (RFC 1951), gzip (RFC 1952).
ENCODINGS = ("", "zlib", "deflate", "gzip")
# What zlib calls these formats: see zlib.decompressobj().
WINDOW_BITS = {"zlib": 15, "deflate": -15, "gzip": 31}

# What cannot stand for itself in an attribute's value (XML 1.0, sections 2.4 and 3.3.3). xml.sax has this as
# well, and half of the modules for HTTP with it.
_ESCAPED = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_NO_ENCODING = {"", "null", "identity"}
_MD5_BYTES = 16
_CHECKSUM = "GMAC"
_OWN_CHECKSUM = f"{OWN_NAMESPACE} {_CHECKSUM}"  # as expat has it
_NUMBER = re.compile(r"\+?([0-9]{1,40})", re.ASCII)
# RFC 3986 appendix B: scheme and authority, and what identifies a file within them. A fragment does not.
_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://[^/?#]*)?([^#]*)", re.ASCII)
# What an Oti has of attributes that are numbers.
_OTI_FIELDS = {
    "FEC-OTI-Encoding-Symbol-Length": "symbol_size",
    "FEC-OTI-Maximum-Source-Block-Length": "block_symbols",
    "FEC-OTI-Max-Number-of-Encoding-Symbols": "max_symbols",
    "FEC-OTI-FEC-Instance-ID": "instance",
}
# Attributes that an instance may have for all of its files. They are read for each file: so of each value
# only the first _COMMON_CHARACTERS are kept.
_COMMON = (
    *("Content-Encoding", "FEC-OTI-FEC-Encoding-ID", "FEC-OTI-Scheme-Specific-Info"),
    *_OTI_FIELDS,
)
_COMMON_CHARACTERS = 200

Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What an instance says of a file.

    ``location`` is the path of its URI, percent-decoded, without leading slashes. It is anybody's text, and
    no safe name. Bytes that are no UTF-8 are in it as os.fsdecode() has them.
    """

    toi: int
    location: str
    content_length: int | None  # bytes of the file; None: not told
    transfer_length: int | None  # bytes of the object that is sent; None: EXT_FTI tells it
    oti: Oti | None = None  # None: EXT_FTI tells it
    encoding: str = ""  # one of ENCODINGS
    md5: bytes = b""  # of the file; empty: not told
    checksum: bytes = b""  # of the file (protocols/checksum.py); empty: not told


@dataclass(frozen=True, slots=True)
class FdtInstance:
    """File description entries, and when they end."""

    expires: int  # seconds since the epoch
    files: tuple[FileEntry, ...]
    left_out: tuple[Malformed, ...] = ()  # for each entry that is not taken, why


def build(instance: FdtInstance) -> bytes:
    """An instance as XML. Raises ValueError if it is longer than what is taken."""
    root = {"xmlns": NAMESPACE, "Expires": str((instance.expires + NTP_EPOCH_SECONDS) % NTP_ERA_SECONDS)}
    if any(entry.checksum for entry in instance.files):
        root["xmlns:own"] = OWN_NAMESPACE
    files = "\n".join(f"<File{_text(_attributes(entry))}/>" for entry in instance.files)
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<FDT-Instance{_text(root)}>\n{files}\n</FDT-Instance>\n'
    data = text.encode()
    if len(data) > INSTANCE_MAX_BYTES or len(instance.files) > FILES_MAX:
        raise ValueError(f"an FDT instance of {len(instance.files)} files and {len(data)} bytes is too large")
    return data


def _text(attributes: Attributes) -> str:
    return "".join(f' {name}="{value.translate(_ESCAPED)}"' for name, value in attributes.items())


def _attributes(entry: FileEntry) -> dict[str, str]:
    path = entry.location.encode("utf-8", "surrogateescape")
    attributes = {"TOI": str(entry.toi), "Content-Location": f"file:///{quote(path)}"}
    if entry.content_length is not None:
        attributes["Content-Length"] = str(entry.content_length)
    if entry.transfer_length not in (None, entry.content_length):
        attributes["Transfer-Length"] = str(entry.transfer_length)
    if entry.encoding:
        attributes["Content-Encoding"] = entry.encoding
    if entry.md5:
        attributes["Content-MD5"] = base64.b64encode(entry.md5).decode()
    if entry.checksum:
        attributes[f"own:{_CHECKSUM}"] = base64.b64encode(entry.checksum).decode()
    if (oti := entry.oti) is not None:
        attributes["FEC-OTI-FEC-Encoding-ID"] = str(oti.scheme)
        attributes["FEC-OTI-Encoding-Symbol-Length"] = str(oti.symbol_size)
        attributes["FEC-OTI-Maximum-Source-Block-Length"] = str(oti.block_symbols)
        if oti.max_symbols:
            attributes["FEC-OTI-Max-Number-of-Encoding-Symbols"] = str(oti.max_symbols)
        if oti.scheme == SMALL_BLOCK:
            attributes["FEC-OTI-FEC-Instance-ID"] = str(oti.instance)
        if oti.scheme == RAPTORQ:
            attributes["FEC-OTI-Scheme-Specific-Info"] = base64.b64encode(_raptorq_info(oti)).decode()
    return attributes


def _raptorq_info(oti: Oti) -> bytes:
    """RFC 6330 section 3.3.3."""
    return bytes((oti.blocks, *oti.sub_blocks.to_bytes(2, "big"), oti.alignment))


def parse(data: bytes, now: float, encoding: str = "") -> FdtInstance:
    """The instance in ``data``, which is encoded as ENCODINGS say. Raises Malformed.

    ``now``, in seconds since the epoch, decides in which era of NTP it expires: the closest one.
    """
    if len(data) > INSTANCE_MAX_BYTES:
        raise Malformed("fdt-size", f"an FDT instance of {len(data)} bytes is too long")
    reader = _Reader()
    try:
        reader.parser.Parse(_decoded(data, encoding) if encoding else data, True)
    except expat.ExpatError as error:
        raise Malformed("xml", f"an FDT instance is no XML: {error}") from None
    expires = _number(reader.root, "Expires", most=NTP_ERA_SECONDS - 1) - NTP_EPOCH_SECONDS
    eras = round((now - expires) / NTP_ERA_SECONDS)
    files = tuple(reader.files.values())
    return FdtInstance(expires + eras * NTP_ERA_SECONDS, files, tuple(reader.left_out))


def _decoded(data: bytes, encoding: str) -> bytes:
    """Raises Malformed, also for what would be too long."""
    decoder = zlib.decompressobj(WINDOW_BITS[encoding])
    most = min(INSTANCE_MAX_BYTES, max(DECODED_MIN_BYTES, DECODED_MAX_RATIO * len(data)))
    try:
        decoded = decoder.decompress(data, most)
    except zlib.error as error:
        raise Malformed("fdt-encoding", f"an FDT instance is no {encoding}: {error}") from None
    if not decoder.eof:
        raise Malformed("fdt-encoding", f"an FDT instance in {encoding} is cut, or too long")
    return decoded


class _Reader:
    """Collects the entries while expat reads."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate("utf-8", " ")  # whatever the text says: the schema has no other one
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.root: Attributes = {}
        self.files: dict[int, FileEntry] = {}  # by TOI
        self.left_out: list[Malformed] = []
        self._common: dict[str, str] = {}
        self._depth = 0

    def _doctype(self, *_: object) -> None:
        raise Malformed("doctype", "an FDT instance with a document type is not taken")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Malformed("xml", f"an FDT instance has elements more than {DEPTH_MAX} deep in each other")
        if self._depth == 1:
            if local != "FDT-Instance":
                raise Malformed("xml", f"the root is {local[:80]!r}, and no FDT-Instance")
            self.root = attributes
            self._common = {
                name: attributes[name][:_COMMON_CHARACTERS] for name in _COMMON if name in attributes
            }
        elif self._depth == 2 and local == "File":
            if len(self.files) + len(self.left_out) >= FILES_MAX:
                raise Malformed("fdt-files", f"an FDT instance has more than {FILES_MAX} files")
            try:
                self._take(_entry(attributes, self._common | attributes))
            except Malformed as error:
                self.left_out.append(error.with_traceback(None))  # which would keep what it was found in
                if len(self.left_out) > LEFT_OUT_MAX:
                    raise Malformed(
                        "fdt-files", f"more than {LEFT_OUT_MAX} files are not taken; the last one: {error}"
                    ) from None

    def _end(self, _: str) -> None:
        self._depth -= 1

    def _take(self, entry: FileEntry) -> None:
        if self.files.get(entry.toi, entry) != entry:  # the same again, as some senders have it, says nothing
            raise Malformed("toi", f"TOI {entry.toi} is described twice")
        self.files[entry.toi] = entry


def _entry(own: Attributes, said: Attributes) -> FileEntry:
    """A file's entry by its own attributes, and by those and its instance's. Raises Malformed."""
    encoding = said.get("Content-Encoding", "").strip().lower()
    if encoding in _NO_ENCODING:
        encoding = ""
    if encoding not in ENCODINGS:
        raise Malformed("encoding", f"Content-Encoding {encoding[:80]!r} is not known")
    content, transfer = (
        _number(own, name, most=LENGTH_MAX) if name in own else None
        for name in ("Content-Length", "Transfer-Length")
    )
    if not encoding:
        content, transfer = (
            (transfer if content is None else content),
            (content if transfer is None else transfer),
        )
        if content != transfer:
            raise Malformed("length", f"a file of {content} bytes is sent as {transfer}, but not encoded")
    return FileEntry(
        toi=_number(own, "TOI", least=1, most=TOI_MAX),
        location=_location(own.get("Content-Location", "")),
        content_length=content,
        transfer_length=transfer,
        oti=None if transfer is None or "FEC-OTI-FEC-Encoding-ID" not in said else _oti(said, transfer),
        encoding=encoding,
        md5=_base64(own, "Content-MD5", _MD5_BYTES) if "Content-MD5" in own else b"",
        checksum=_base64(own, _OWN_CHECKSUM, CHECKSUM_BYTES) if _OWN_CHECKSUM in own else b"",
    )


def _oti(said: Attributes, transfer_length: int) -> Oti:
    scheme = _number(said, "FEC-OTI-FEC-Encoding-ID", most=255)
    told = {field: _number(said, name) for name, field in _OTI_FIELDS.items() if name in said}
    if scheme == RAPTORQ:
        blocks, high, low, alignment = _base64(said, "FEC-OTI-Scheme-Specific-Info", 4)
        told |= {"blocks": blocks, "sub_blocks": high << 8 | low, "alignment": alignment}
    if not told.keys() >= {"symbol_size", "blocks" if scheme == RAPTORQ else "block_symbols"}:
        raise Malformed("oti", "the size of symbols or blocks is not told")
    return oti_of(scheme, transfer_length, told)


def _number(attributes: Attributes, name: str, *, least: int = 0, most: int = (1 << 64) - 1) -> int:
    text = attributes.get(name, "").strip()
    if (match := _NUMBER.fullmatch(text)) is None or not least <= (number := int(match[1])) <= most:
        raise Malformed("number", f"{name} is {text[:80]!r}, and must be a number from {least} to {most}")
    return number


def _base64(attributes: Attributes, name: str, size: int) -> bytes:
    text = attributes.get(name, "")
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        data = b""
    if len(data) != size:
        raise Malformed("number", f"{name} is {text[:80]!r}, and must be {size} bytes in base64")
    return data


def _location(uri: str) -> str:
    match = _URI.match(uri.strip()) if len(uri) <= 4 * LOCATION_MAX_BYTES else None
    path = unquote(match[1] if match else "", errors="surrogateescape").lstrip("/")
    if not 0 < len(path.encode("utf-8", "surrogateescape")) <= LOCATION_MAX_BYTES:
        raise Malformed("location", f"Content-Location {uri[:80]!r} names no file")
    return path
