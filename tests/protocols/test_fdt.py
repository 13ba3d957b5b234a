"""FDT instances: as RFC 6726 has them and as others send them; what is wrong has a reason."""

from __future__ import annotations

import gzip
import time
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols.fdt import (
    DECODED_MIN_BYTES,
    DEPTH_MAX,
    FILES_MAX,
    INSTANCE_MAX_BYTES,
    LEFT_OUT_MAX,
    LENGTH_MAX,
    TOI_MAX,
    FdtInstance,
    FileEntry,
    build,
    parse,
)
from mcastd.protocols.fec import NO_CODE, REED_SOLOMON, SMALL_BLOCK, Oti, raptorq
from mcastd.protocols.lct import Malformed

NOW = 1_800_000_000.0
EXPIRES = 1_800_003_600
ENTRIES = (
    FileEntry(1, "images/a b%ä&\"<'.img", 1_000_000, 1_000_000, raptorq(1_000_000, 1448, 300)),
    FileEntry(2, "empty", 0, 0, Oti(NO_CODE, 1400, 64), md5=bytes(range(16))),
    FileEntry(3, "b.gz", 5000, 700, Oti(REED_SOLOMON, 1300, 60, max_symbols=66), "gzip"),
    FileEntry(1 << 31, "odd \udcff name", 9, 9, Oti(SMALL_BLOCK, 1200, 50, max_symbols=55, instance=7)),
    FileEntry(5, "told by EXT_FTI", None, None),
)
ONE = '<File TOI="1" Content-Location="a"/>'


def instance(files: str = ONE, attributes: str = 'Expires="3000000000"', name: str = "FDT-Instance") -> bytes:
    return f"<{name} {attributes}>{files}</{name}>".encode()


def entry(attributes: str, of_instance: str = "") -> FileEntry:
    """The one file of an instance, which has these attributes beside TOI and Content-Location."""
    file = f'<File TOI="1" Content-Location="a" {attributes}/>'
    (found,) = parse(instance(file, f'Expires="3000000000" {of_instance}'), NOW).files
    return found


def refusal(data: bytes, encoding: str = "") -> str:
    with pytest.raises(Malformed) as refused:
        parse(data, NOW, encoding)
    return refused.value.reason


def left_out(files: str) -> list[str]:
    found = parse(instance(files), NOW)
    assert found.files == ()
    return [error.reason for error in found.left_out]


# -- what is sent


def test_what_is_built_is_what_is_understood() -> None:
    sent = FdtInstance(EXPIRES, ENTRIES)
    assert parse(build(sent), NOW) == sent


def test_what_is_built_is_as_the_rfc_has_it() -> None:
    entry = FileEntry(7, "d/mb 1", 2900, 2900, raptorq(2900, 1448, 1), md5=b"0123456789abcdef")
    assert build(FdtInstance(EXPIRES, (entry,))).decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<FDT-Instance xmlns="urn:ietf:params:xml:ns:fdt" Expires="4008992400">\n'
        '<File TOI="7" Content-Location="file:///d/mb%201" Content-Length="2900"'
        ' Content-MD5="MDEyMzQ1Njc4OWFiY2RlZg==" FEC-OTI-FEC-Encoding-ID="6"'
        ' FEC-OTI-Encoding-Symbol-Length="1448" FEC-OTI-Maximum-Source-Block-Length="1"'
        ' FEC-OTI-Scheme-Specific-Info="AwABCA=="/>\n'
        "</FDT-Instance>\n"
    )


def test_a_checksum_is_an_attribute_of_our_own() -> None:
    entry = FileEntry(7, "d/mb 1", 29, 29, None, md5=b"0123456789abcdef", checksum=b"fedcba9876543210")
    data = build(FdtInstance(EXPIRES, (entry,)))
    assert data.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<FDT-Instance xmlns="urn:ietf:params:xml:ns:fdt" Expires="4008992400" xmlns:own="urn:mcastd:fdt">\n'
        '<File TOI="7" Content-Location="file:///d/mb%201" Content-Length="29"'
        ' Content-MD5="MDEyMzQ1Njc4OWFiY2RlZg==" own:GMAC="ZmVkY2JhOTg3NjU0MzIxMA=="/>\n'
        "</FDT-Instance>\n"
    )
    others = data.replace(b"urn:mcastd:fdt", b"urn:others:fdt")
    assert parse(others, NOW).files == (replace(entry, checksum=b""),)
    for wrong in (b"ZmVk", b"", b"no base64", b"ZmVkY2JhOTg3NjU0MzIxMDEy"):
        instance = parse(data.replace(b"ZmVkY2JhOTg3NjU0MzIxMA==", wrong), NOW)
        assert instance.files == ()
        assert [error.reason for error in instance.left_out] == ["number"]


def test_the_transfer_length_is_told_where_it_is_another() -> None:
    sent = [build(FdtInstance(EXPIRES, (entry,))) for entry in ENTRIES]
    assert [b"Transfer-Length" in each for each in sent] == [False, False, True, False, False]


def test_what_nobody_would_take_is_not_built() -> None:
    few = FileEntry(1, "a" * 4000, 1, 1)
    for files in ((few,) * 300, (replace(few, location="a"),) * (FILES_MAX + 1)):
        with pytest.raises(ValueError, match="too large"):
            build(FdtInstance(EXPIRES, files))


# -- what others send


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ('xmlns="urn:ietf:params:xml:ns:fdt"', "FDT-Instance"),
        ('xmlns="urn:IETF:metadata:2005:FLUTE:FDT"', "FDT-Instance"),
        ('xmlns:fl="http://www.example.com/flute"', "fl:FDT-Instance"),
        ("", "FDT-Instance"),
    ],
)
def test_elements_are_known_by_their_names(root: str, name: str) -> None:
    file = ONE.replace("File", name.replace("FDT-Instance", "File"))
    found = parse(instance(file, f'{root} Expires="3000000000"', name), NOW)
    assert [(each.toi, each.location) for each in found.files] == [(1, "a")]


def test_what_is_not_known_is_skipped() -> None:
    files = (
        '<x:other xmlns:x="urn:x"><File TOI="2" Content-Location="no file of this table"/></x:other>'
        '<File xmlns:m="urn:m" TOI="1" Content-Location="a" m:Content-Length="7" F="b"><m:T>x</m:T></File>'
    )
    assert parse(instance(files), NOW).files == (FileEntry(1, "a", None, None),)


def test_files_have_what_their_instance_says_of_all() -> None:
    common = (
        'FEC-OTI-FEC-Encoding-ID="5" FEC-OTI-Encoding-Symbol-Length="1400" Content-Type="text/css"'
        ' FEC-OTI-Maximum-Source-Block-Length="60" FEC-OTI-Max-Number-of-Encoding-Symbols="66"'
        ' Content-Encoding="gzip" Content-Length="5" TOI="9" Content-MD5="AAAAAAAAAAAAAAAAAAAAAA=="'
    )
    found = entry('Transfer-Length="900"', common)
    assert found == FileEntry(1, "a", None, 900, Oti(REED_SOLOMON, 1400, 60, max_symbols=66), "gzip")
    for none in ("null", "identity", "Identity", " "):
        own = entry(f'Content-Length="900" FEC-OTI-FEC-Encoding-ID="0" Content-Encoding="{none}"', common)
        assert (own.oti, own.encoding) == (Oti(NO_CODE, 1400, 60), "")


def test_raptorq_by_the_number_of_blocks() -> None:
    """9 symbols in 4 blocks: the largest block that is told, of another measure, does not count."""
    oti = (
        'FEC-OTI-FEC-Encoding-ID="6" FEC-OTI-Encoding-Symbol-Length="8"'
        ' FEC-OTI-Scheme-Specific-Info="BAABBA=="'
        ' FEC-OTI-Maximum-Source-Block-Length="56403"'
    )
    found = entry(f'Content-Length="65" {oti}').oti
    assert found is not None
    assert (found.blocks, found.sub_blocks, found.alignment, found.block_symbols) == (4, 1, 4, 3)


def test_an_oti_takes_a_length() -> None:
    """A receiver has both from EXT_FTI then."""
    oti = 'FEC-OTI-FEC-Encoding-ID="0" FEC-OTI-Encoding-Symbol-Length="8"'
    oti += ' FEC-OTI-Maximum-Source-Block-Length="3"'
    assert entry(oti).oti is None
    assert entry(f'Content-Encoding="gzip" Content-Length="65" {oti}').oti is None
    assert entry(f'Content-Length="65" {oti}').oti == Oti(NO_CODE, 8, 3)


@pytest.mark.parametrize(
    ("told", "lengths"),
    [
        ('Content-Length="5"', (5, 5)),
        ('Transfer-Length="5"', (5, 5)),
        ('Content-Length=" 5 " Transfer-Length="+5"', (5, 5)),
        ('Content-Length="5" Content-Encoding="GZIP"', (5, None)),
        ('Content-Length="5" Transfer-Length="7" Content-Encoding="zlib"', (5, 7)),
        ('Transfer-Length="7" Content-Encoding="deflate"', (None, 7)),
        (f'Content-Length="{LENGTH_MAX}"', (LENGTH_MAX, LENGTH_MAX)),
        ("", (None, None)),
    ],
)
def test_lengths_of_content_and_transfer(told: str, lengths: tuple[int | None, int | None]) -> None:
    found = entry(told)
    assert (found.content_length, found.transfer_length) == lengths


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("file:///d/mb", "d/mb"),
        ("/d/mb", "d/mb"),
        ("d/mb", "d/mb"),
        ("http://host:80/d/mb#part", "d/mb"),
        ("http://host/get?file=1", "get?file=1"),
        ("//host/d", "d"),
        ("urn:uuid:1-2", "uuid:1-2"),
        ("a%20b%2fc", "a b/c"),
        ("%E4%80%ff", "\udce4\udc80\udcff"),
        ("../%2e%2E/etc/passwd%00", "../../etc/passwd\0"),
        ("a%zz%", "a%zz%"),
        ("ä", "ä"),
    ],
)
def test_a_location_is_the_path_of_a_uri(uri: str, location: str) -> None:
    file = f'<File TOI="1" Content-Location="{uri}"/>'
    assert [each.location for each in parse(instance(file), NOW).files] == [location]


@pytest.mark.parametrize(
    ("now", "ntp", "expected"),
    [
        (1_800_000_000, 4_008_992_400, 1_800_003_600),
        # The example of RFC 6726 section 3.3: two days in 2036, over the end of an era
        (2_085_955_200, 149_504, 2_086_128_000),
        (2_086_041_600, 149_504, 2_086_128_000),
        (2_086_041_600, 4_294_944_000, 2_085_955_200),  # a day ago, in the era before
        (1_800_000_000, 0, 2_085_978_496),
        (-2_000_000_000, 0, -2_208_988_800),
        (-62_000_000_000, 5, -62_338_530_939),
    ],
)
def test_an_instance_expires_in_the_closest_era(now: int, ntp: int, expected: int) -> None:
    assert parse(instance(attributes=f'Expires="{ntp}"'), now).expires == expected
    assert f'Expires="{ntp}"'.encode() in build(FdtInstance(expected, ()))


def test_an_instance_may_be_encoded() -> None:
    data = build(FdtInstance(EXPIRES, ENTRIES))
    raw = zlib.compressobj(wbits=-15)
    encoded = {
        "zlib": zlib.compress(data),
        "deflate": raw.compress(data) + raw.flush(),
        "gzip": gzip.compress(data),
    }
    for encoding, sent in encoded.items():
        assert parse(sent, NOW, encoding).files == ENTRIES
        assert refusal(sent[:-9], encoding) == "fdt-encoding"
        assert refusal(data, encoding) == "fdt-encoding"
        assert refusal(sent) == "xml"


# -- what is not taken


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "xml"),
        (b"<", "xml"),
        (instance()[:-1], "xml"),
        (instance() + b"<a/>", "xml"),
        (instance() + b"\0", "xml"),
        (instance(name="FDT"), "xml"),
        (instance(attributes=""), "number"),
        (instance(attributes='Expires=""'), "number"),
        (instance(attributes='Expires="-1"'), "number"),
        (instance(attributes='Expires="4294967296"'), "number"),
        (instance(attributes='Expires="1e9"'), "number"),
        (instance(attributes='Expires="١٢"'), "number"),
        (instance(attributes='Expires="1" Expires="2"'), "xml"),
        (instance('<File TOI="1" Content-Location="&lol;"/>'), "xml"),
        (b"<!DOCTYPE FDT-Instance>" + instance(), "doctype"),
        (
            b'<!DOCTYPE a [<!ENTITY lol "' + b"lol" * 9 + b'"><!ENTITY b "&lol;&lol;">]>' + instance(),
            "doctype",
        ),
        (b'<!DOCTYPE a SYSTEM "http://192.0.2.1/a.dtd">' + instance(), "doctype"),
        (('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a>' + ONE).encode("utf-16"), "doctype"),
        (instance(ONE + " " * INSTANCE_MAX_BYTES), "fdt-size"),
        (instance("<File/>" * (LEFT_OUT_MAX + 1)), "fdt-files"),
        (instance("".join(ONE.replace("1", str(toi)) for toi in range(1, FILES_MAX + 2))), "fdt-files"),
        (instance("<a>" * 300_000), "xml"),
        (instance("<a>" * DEPTH_MAX + "</a>" * DEPTH_MAX), "xml"),
    ],
)
def test_what_is_no_instance_is_refused_by_a_reason(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


def test_as_many_files_are_left_out_and_elements_as_deep_as_that() -> None:
    found = parse(
        instance("<File/>" * LEFT_OUT_MAX + "<a>" * (DEPTH_MAX - 1) + "</a>" * (DEPTH_MAX - 1) + ONE), NOW
    )
    assert (len(found.files), len(found.left_out)) == (1, LEFT_OUT_MAX)


def test_what_is_sent_as_little_and_is_much_is_not_decoded() -> None:
    text = instance(ONE + " " * DECODED_MIN_BYTES)
    assert refusal(zlib.compress(text), "zlib") == "fdt-encoding"
    assert parse(zlib.compress(instance(ONE + " " * (DECODED_MIN_BYTES // 2))), NOW, "zlib").files


def test_what_would_be_too_long_is_not_decoded() -> None:
    assert refusal(zlib.compress(bytes(9 * INSTANCE_MAX_BYTES)), "zlib") == "fdt-encoding"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("<File/>", "number"),
        ('<File Content-Location="a"/>', "number"),
        ('<File TOI="0" Content-Location="a"/>', "number"),
        ('<File TOI="-1" Content-Location="a"/>', "number"),
        (f'<File TOI="{TOI_MAX + 1}" Content-Location="a"/>', "number"),
        (f'<File TOI="{"9" * 5000}" Content-Location="a"/>', "number"),
        ('<File TOI="1"/>', "location"),
        ('<File TOI="1" Content-Location=""/>', "location"),
        ('<File TOI="1" Content-Location="http://host"/>', "location"),
        ('<File TOI="1" Content-Location="http://host/#part"/>', "location"),
        (f'<File TOI="1" Content-Location="{"a" * 4097}"/>', "location"),
        (f'<File TOI="1" Content-Location="{"ä" * 2049}"/>', "location"),
        (f'<File TOI="1" Content-Location="http://{"h" * 17000}/a"/>', "location"),
        ('<File TOI="1" Content-Location="a" Content-Length="281474976710656"/>', "number"),
        ('<File TOI="1" Content-Location="a" Content-Length="x"/>', "number"),
        ('<File TOI="1" Content-Location="a" Content-Length="5" Transfer-Length="6"/>', "length"),
        ('<File TOI="1" Content-Location="a" Content-Encoding="br"/>', "encoding"),
        ('<File TOI="1" Content-Location="a" Content-MD5="AAAA"/>', "number"),
        ('<File TOI="1" Content-Location="a" Content-MD5="ä"/>', "number"),
    ],
)
def test_a_file_that_is_not_taken_leaves_the_others(file: str, reason: str) -> None:
    assert left_out(file) == [reason]
    found = parse(instance(file + ONE.replace("1", "7") + file), NOW)
    assert [each.toi for each in found.files] == [7]
    assert [error.reason for error in found.left_out] == [reason, reason]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"FEC-Encoding-ID": "1"}, "fec-scheme"),
        ({"FEC-Encoding-ID": "256"}, "number"),
        ({"FEC-Encoding-ID": "5", "Maximum-Source-Block-Length": "256"}, "oti"),
        ({"FEC-Encoding-ID": "6"}, "number"),
        ({"FEC-Encoding-ID": "6", "Scheme-Specific-Info": "AAABBA=="}, "oti"),
        ({"FEC-Encoding-ID": "6", "Scheme-Specific-Info": "BAABBAAA"}, "number"),
        ({"Encoding-Symbol-Length": "0"}, "oti"),
        ({"Encoding-Symbol-Length": "65536"}, "oti"),
        ({"Encoding-Symbol-Length": "18446744073709551616"}, "number"),
        ({"Maximum-Source-Block-Length": "0"}, "oti"),
        ({"Maximum-Source-Block-Length": ""}, "number"),
        ({"FEC-Instance-ID": "65536"}, "oti"),
        ({"Max-Number-of-Encoding-Symbols": "4294967296"}, "oti"),
    ],
)
def test_a_file_that_cannot_be_cut_so_is_not_taken(told: dict[str, str], reason: str) -> None:
    fine = {"FEC-Encoding-ID": "129", "Encoding-Symbol-Length": "8", "Maximum-Source-Block-Length": "30"}
    both = {**fine, **told}.items()
    attributes = " ".join(f'FEC-OTI-{name}="{value}"' for name, value in both)
    assert left_out(f'<File TOI="1" Content-Location="a" Content-Length="2048" {attributes}/>') == [reason]


def test_symbols_and_blocks_have_sizes() -> None:
    for name in ("Encoding-Symbol-Length", "Maximum-Source-Block-Length"):
        told = f'FEC-OTI-FEC-Encoding-ID="0" FEC-OTI-{name}="5"'
        assert left_out(f'<File TOI="1" Content-Location="a" Content-Length="5" {told}/>') == ["oti"]


def test_a_toi_has_one_description() -> None:
    found = parse(instance(ONE + ONE.replace('"a"', '"b"')), NOW)
    assert [each.location for each in found.files] == ["a"]
    assert [error.reason for error in found.left_out] == ["toi"]


def test_the_same_description_again_says_nothing() -> None:
    """Some senders describe a file once more each time that they send it."""
    found = parse(instance(ONE * 2 * LEFT_OUT_MAX), NOW)
    assert (len(found.files), found.left_out) == (1, ())


def test_what_an_instance_says_of_all_is_not_read_at_length_for_each() -> None:
    """Half a MiB that each of 8000 files has from its instance costs what text and files cost alone."""
    said = 'Expires="3000000000" FEC-OTI-Scheme-Specific-Info="%s" Content-Encoding="%s"'
    long = said % ("A" * 100_000, " " * (INSTANCE_MAX_BYTES // 2))
    files = [f'<File TOI="{toi}" Content-Location="a"/>' for toi in range(1, 8001)]

    def seconds(of: list[str], attributes: str) -> float:
        """The least of some times: others on the machine only make it dearer."""

        def once() -> float:
            before = time.process_time()
            assert len(parse(instance("".join(of), attributes), NOW).files) == len(of)
            return time.process_time() - before

        return min(once() for _ in range(5))

    both = seconds(files, long)
    assert both < 5 * (seconds(files, said % ("A", " ")) + seconds(files[:1], long))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
PIECES = st.sampled_from(
    [
        *(
            "<File",
            "/>",
            ">",
            "</File>",
            "<FDT-Instance",
            "</FDT-Instance>",
            'Expires="5"',
            "<!DOCTYPE a>",
            "&#0;",
        ),
        *(
            ' TOI="2"',
            ' Content-Location="a"',
            ' FEC-OTI-FEC-Encoding-ID="6"',
            "<![CDATA[",
            "]]>",
            "<?xml ?>",
        ),
        *(' Content-Length="99999"', ' FEC-OTI-Encoding-Symbol-Length="1"', "<!--", "-->", "&lt;", "\n"),
    ]
)


@settings(max_examples=150)
@given(st.lists(st.one_of(PIECES, TEXT), max_size=30), st.binary(max_size=30), st.integers(0, 3))
def test_any_bytes_are_an_instance_or_refused(pieces: list[str], junk: bytes, encoding: int) -> None:
    text = "".join(pieces).encode()
    whole = instance("".join(f"<File {piece}/>" for piece in pieces if not set(piece) & set('<>&"')))
    for data in (text, junk, instance() + text, whole, zlib.compress(text)[: len(junk) + 40]):
        try:
            found = parse(data, NOW, ("", "zlib", "deflate", "gzip")[encoding])
        except Malformed:
            continue
        assert abs(found.expires - NOW) <= 1 << 31


@settings(max_examples=80)
@given(
    toi=st.integers(1, TOI_MAX),
    location=TEXT.map(lambda text: text.strip("/")).filter(bool),
    length=st.integers(0, LENGTH_MAX),
    encoded=st.integers(0, LENGTH_MAX),
    encoding=st.sampled_from(["", "zlib", "deflate", "gzip"]),
    md5=st.sampled_from([b"", bytes(range(100, 116))]),
    checksum=st.sampled_from([b"", bytes(range(200, 216))]),
)
def test_every_entry_is_understood_as_it_was_meant(
    *, toi: int, location: str, length: int, encoded: int, encoding: str, md5: bytes, checksum: bytes
) -> None:
    sent = FileEntry(toi, location, length, encoded if encoding else length, None, encoding, md5, checksum)
    if encoding and encoded == length:
        return
    assert parse(build(FdtInstance(EXPIRES, (sent,))), NOW).files == (sent,)
