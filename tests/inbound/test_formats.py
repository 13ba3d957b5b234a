"""What a datagram becomes on an output."""

from __future__ import annotations

import base64
import json
import sysconfig

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcastd.inbound.sinks import json_lines
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.net.link import Batch, ListBatch, Origin

ORIGIN = Origin("192.0.2.1", 5000, 2, 64)
TIME = 1_700_000_000_000_000_001
origins = st.builds(
    Origin,
    source=st.ip_addresses().map(str),
    port=st.integers(1, 65535),
    ifindex=st.integers(0, 5),
    ttl=st.integers(-1, 255),
)
datagrams = st.lists(
    st.tuples(st.binary(max_size=50) | st.text().map(str.encode), origins, st.integers(0, 2**62)), max_size=10
)


@pytest.fixture(params=["orjson", "standard library"], autouse=True)
def escaper(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings are escaped by orjson where it is installed: every test runs with it and without."""
    if request.param == "orjson":
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            pytest.skip("orjson has no wheel for a Python without the interpreter lock")
        assert json_lines.orjson is not None, "the tests need it: pip install orjson"
    else:
        monkeypatch.setattr(json_lines, "quoted", json_lines._in_quotes)


def as_json(batch: Batch, interface_name=lambda ifindex: f"eth{ifindex}") -> list[bytes]:
    return list(FORMATS["json"](StreamFacts(lambda: "239.255.1.2", interface_name)).records(batch).payloads)


def test_raw_hands_on_the_buffers_themselves() -> None:
    payloads = [b"", memoryview(b"abc"), b"\0\n"]
    records = FORMATS["raw"](StreamFacts(str, str)).records(ListBatch(payloads))
    assert records.payloads is payloads
    assert (len(records), records.size) == (3, 5)


def test_payload_takes_rtp_off() -> None:
    head = bytes([0x80, 33]) + bytes(10)
    with_all = bytes([0xB1, 33]) + bytes(10) + b"csrc" + b"\xbe\xde\0\1exte" + b"film\0\2"
    payloads = [head + b"one", memoryview(head + b"two"), with_all, head]
    records = FORMATS["payload"](StreamFacts(str, str)).records(ListBatch(payloads))
    assert [*map(bytes, records.payloads)] == [b"one", b"two", b"film", b""]
    assert (len(records), records.size) == (4, 10)


def test_lines_ends_each_payload_with_one_newline() -> None:
    payloads = [b"", b"a", b"b\n", b"\n", memoryview(b"c"), memoryview(b"d\n"), b"e\r"]
    assert [
        bytes(r) for r in FORMATS["lines"](StreamFacts(str, str)).records(ListBatch(payloads)).payloads
    ] == [
        b"\n",
        b"a\n",
        b"b\n",
        b"\n",
        b"c\n",
        b"d\n",
        b"e\r\n",
    ]


def test_json_is_one_object_a_line() -> None:
    batch = ListBatch(
        [memoryview('Grüße "\n'.encode()), b"\xff\0"], [ORIGIN, ORIGIN._replace(port=5001)], [TIME] * 2
    )
    assert as_json(batch) == [
        b'{"time":"2023-11-14T22:13:20.000000001Z","source":"192.0.2.1","source_port":5000,"port":5000,'
        b'"group":"239.255.1.2",'
        b'"interface":"eth2","ttl":64,"length":10,"payload":"Gr\xc3\xbc\xc3\x9fe \\"\\n"}\n',
        b'{"time":"2023-11-14T22:13:20.000000001Z","source":"192.0.2.1","source_port":5001,"port":5001,'
        b'"group":"239.255.1.2",'
        b'"interface":"eth2","ttl":64,"length":2,"payload":"/wA=","encoding":"base64"}\n',
    ]


def test_json_says_null_for_what_the_kernel_did_not_tell() -> None:
    [record] = as_json(ListBatch([b"x"], [Origin("2001:db8::1", 5000, 0, -1)], [0]))
    told = json.loads(record)
    assert (told["time"], told["interface"], told["ttl"]) == (None, None, None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(datagrams)
def test_json_is_valid_and_gives_the_payload_back(received: list[tuple[bytes, Origin, int]]) -> None:
    records = as_json(ListBatch(*map(list, zip(*received, strict=True)))) if received else []
    assert len(records) == len(received)
    for record, (payload, origin, _) in zip(records, received, strict=True):
        assert record.count(b"\n") == 1
        assert record.endswith(b"}\n")
        told = json.loads(record)
        coded = told["payload"]
        assert (base64.b64decode(coded) if told.get("encoding") == "base64" else coded.encode()) == payload
        assert told["length"] == len(payload)
        assert (told["source"], told["source_port"]) == (origin.source, origin.port)


@settings(deadline=None)
@given(
    st.lists(
        st.text() | st.sampled_from(["", "\0", "\\u0000", "\\\\u0000\0", "%d%%", '"', "x" * 70_000]),
        min_size=1,
    )
)
@example(["a", "\0"])
@example(["\\u0000"])
def test_json_of_one_sender_gives_each_text_back(texts: list[str]) -> None:
    payloads = [text.encode() for text in texts]
    origin = ORIGIN._replace(source="%s")
    batch = ListBatch(payloads, [origin] * len(texts), [TIME + number for number in range(len(texts))])
    records = as_json(batch)
    assert [json.loads(record)["payload"] for record in records] == texts
    assert [json.loads(record)["length"] for record in records] == [len(payload) for payload in payloads]
    assert all(f".{number + 1:09d}Z" in json.loads(r)["time"] for number, r in enumerate(records))
    assert {json.loads(record)["source"] for record in records} == {"%s"}


def test_json_asks_for_an_interface_once_a_batch_whatever_its_name() -> None:
    asked: list[int] = []

    def name(ifindex: int) -> str:
        asked.append(ifindex)
        return 'odd"\udcff'  # as the kernel's bytes b'odd"\xff' are decoded

    records = as_json(ListBatch([b"a", b"b", b"c"], [ORIGIN] * 3, [TIME] * 3), name)
    assert asked == [2]
    assert {json.loads(record)["interface"] for record in records} == {'odd"?'}


@pytest.mark.parametrize("addresses", [("192.0.2.1", "192.0.2.1", "192.0.2.9"), ()])
def test_what_came_before_metadata_was_asked_for_has_its_sender(addresses: tuple[str, ...]) -> None:
    received = [json.loads(line) for line in as_json(ListBatch([b"a", b"b", b"c"], addresses=addresses))]
    assert [one["payload"] for one in received] == ["a", "b", "c"]
    assert [one["source"] for one in received] == [*(addresses or [""] * 3)]
    unknown = {"time": None, "source_port": 0, "interface": None, "ttl": None}
    assert all(unknown.items() <= one.items() for one in received)
    (late,) = map(json.loads, as_json(ListBatch([b"d"], [ORIGIN])))
    assert (late["source_port"], late["time"]) == (5000, None), "origins are asked for apart from times"
