"""Files: every problem at once, where it is, in plain words; drop-ins; and the way back to TOML."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from mcastd.config import Config, dump, examine, load
from mcastd.errors import ConfigError

Write = Callable[..., Path]
Loaded = Callable[..., Config]
Refused = Callable[..., list[str]]

CHANNEL = '[outbound.news]\nsource = "/srv/news.txt"\ngroup = "239.255.1.2"\nport = 9190\n'
GOLDEN = Path(__file__).parent / "golden"


def test_every_problem_is_said_at_once(refused: Refused) -> None:
    text = (GOLDEN / "wrong.toml").read_text()
    assert "\n".join(refused(text)) + "\n" == (GOLDEN / "wrong.txt").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outbound = 3", "mcastd.toml:1: outbound: must be a table, not 3; each has a name: [outbound.NAME]"),
        ("\ndaemon = []", "mcastd.toml:2: daemon: must be a table, not an array"),
        (
            "[inbound]\nport = 9",
            "mcastd.toml:2: inbound.port: must be a table, not 9; each has a name: [inbound.NAME]",
        ),
        (
            "[[outbound]]\n",
            "mcastd.toml:1: outbound: must be a table, not an array; each has a name: [outbound.NAME]",
        ),
        (
            "[outbound]\nnews = true",
            "mcastd.toml:2: outbound.news: must be a table, not true; each has a name: [outbound.NAME]",
        ),
        ("[outbound]\n'[key]' = 1", 'mcastd.toml:2: outbound."[key]": a name is up to 64'),
        (
            "zebra = 1",
            "mcastd.toml:1: zebra: unknown key; known are daemon, amt, outbound, inbound, discover, bridge,"
            " amt_relay, gateway, link",
        ),
        (
            "[daemon]\nLog_Level = 1",
            'mcastd.toml:2: daemon.Log_Level: unknown key; did you mean "log_level"?',
        ),
        (
            "[daemon]\nlog_level = 1",
            'mcastd.toml:2: daemon.log_level: must be "debug", "info", "warning" or "error"',
        ),
        (CHANNEL + "'a\\b' = 1", r'mcastd.toml:5: outbound.news."a\b": unknown key; known are enabled'),
        (CHANNEL + "'[key]' = 1", 'mcastd.toml:5: outbound.news."[key]": unknown key'),
        (CHANNEL + "source.path = 1", "mcastd.toml:5: not valid TOML"),
        (
            '[inbound.n]\noutput.kind = "x"',
            'mcastd.toml:2: inbound.n.output.kind: must be "file", "fifo", "directory", "group", "udp",'
            ' "unix", "tcp", "tcp-server", "nats", "redis" or "kafka", not "x"',
        ),
        ("[inbound.n]\noutput.kind = []", "mcastd.toml:2: inbound.n.output.kind: must be"),
        ('[inbound.n]\noutput = [{kind="fifo"}]', "mcastd.toml:2: inbound.n.output[0].path: missing"),
        ('[inbound.n]\noutput = ["x"]', "mcastd.toml:2: inbound.n.output[0]: must be an absolute path"),
        ('[inbound.n]\noutput = "x"', "mcastd.toml:2: inbound.n.output: must be an absolute path"),
    ],
)
def test_a_wrong_shape(refused: Refused, text: str, said: str) -> None:
    assert any(line.startswith(said) for line in refused(text)), refused(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mcastd.toml: declares nothing; add an [outbound.NAME] or [inbound.NAME] table"),
        ("# later\n", "mcastd.toml: declares nothing; add an [outbound.NAME] or [inbound.NAME] table"),
        (b"\xef\xbb\xbf", "mcastd.toml: declares nothing; add an [outbound.NAME] or [inbound.NAME] table"),
        (b"[daemon]\n# caf\xe9\n", "mcastd.toml:2: is not UTF-8 text: byte 0xe9"),
        (b"\xff\xfe[\0", "mcastd.toml:1: is not UTF-8 text: byte 0xff"),
        (
            "\n[daemon",
            "mcastd.toml:2: not valid TOML: expected ']' at the end of a table declaration (at the end)",
        ),
        (
            "a = [\n1,\n\n",
            "mcastd.toml:2: not valid TOML: a value is missing or unfinished, or lacks quotes (at the end)",
        ),
        (
            "x = /a",
            'mcastd.toml:1: not valid TOML: a value that is no plain number needs quotes: "/a" (column 5)',
        ),
        (
            CHANNEL + CHANNEL,
            "mcastd.toml:5: not valid TOML: the table outbound.news is declared twice (column 15)",
        ),
        (CHANNEL + "port = 1", "mcastd.toml:5: not valid TOML: this key is set twice (at the end)"),
        ("x = " + "9" * 5000, "mcastd.toml: has a number of too many digits"),
        ("x = " + "[" * 5000, "mcastd.toml: arrays or inline tables are nested too deeply"),
        ("x = " + "{a = " * 5000, "mcastd.toml: arrays or inline tables are nested too deeply"),
    ],
)
def test_a_text_that_is_no_configuration(refused: Refused, text: str | bytes, said: str) -> None:
    assert refused(text) == [said]


def test_a_byte_order_mark_and_crlf_are_taken(loaded: Loaded, refused: Refused) -> None:
    assert loaded(b"\xef\xbb\xbf" + CHANNEL.replace("\n", "\r\n").encode()) == loaded(CHANNEL)
    assert refused((CHANNEL + "ttl = 300").replace("\n", "\r\n"))[0].startswith(
        "mcastd.toml:5: outbound.news.ttl"
    )


def test_only_a_daemon_is_a_configuration(loaded: Loaded) -> None:
    assert loaded("[daemon]\n") == Config()


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "loop").symlink_to("loop")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(17 << 20)
    for path, reason in {
        tmp_path: "is a directory, not a file",
        fifo: "is not a regular file",
        Path("/dev/null"): "is not a regular file",
        Path("/"): "is a directory, not a file",
        tmp_path / "missing": "cannot be read: no such file or directory",
        tmp_path / "loop": "cannot be read: too many levels of symbolic links",
        fifo / "below": "cannot be read: not a directory",
        sparse: "is larger than 16 MiB: not a configuration",
        Path("/proc/self/pagemap"): "is larger than 16 MiB: not a configuration",  # its size is 0
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).splitlines()[-1] == f"{path}: {reason}"


@pytest.mark.root
def test_what_may_not_be_read(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path.parent):
        directory.chmod(0o755)
    (tmp_path / "c.toml").write_text(CHANNEL)
    (tmp_path / "c.toml").chmod(0o600)
    (tmp_path / "c.toml.d").mkdir(mode=0o700)
    program = """if True:
        import os, sys
        from pathlib import Path
        from mcastd.config import load
        os.chdir(sys.argv[1])  # the directories above it are root's own
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            load(Path("c.toml"))
        except Exception as error:
            print(type(error).__name__, error, sep="\\n")
    """
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "ConfigError",
        "c.toml.d: cannot be read: permission denied",
        "c.toml: cannot be read: permission denied",
    ]


# -- drop-ins


def test_drop_ins_merge_in_name_order(loaded: Loaded) -> None:
    config = loaded(
        CHANNEL,
        b='[outbound.news]\nttl = 3\n[outbound.b]\nsource = "/b"\ngroup = "239.1.1.1"\nport = 1\n',
        a='[outbound.news]\nttl = 2\nport = 7\n[daemon]\nlog_level = "debug"\n',
    )
    assert config.daemon.log_level == "debug"
    news = config.outbound["news"]
    assert (news.ttl, news.port, news.source.label) == (3, 7, "/srv/news.txt")
    assert list(config.workers()) == ["outbound/news", "outbound/b"]


def test_an_overridden_worker_is_said_at_debug_level(loaded: Loaded, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as events:
        loaded(CHANNEL, a="[outbound.news]\nttl = 2\n")
    assert events == [
        {
            "event": "worker.overridden",
            "log_level": "debug",
            "worker": "outbound/news",
            "file": f"{tmp_path}/mcastd.toml.d/a.toml",
        }
    ]


def test_an_output_is_merged_with_its_own_kind_and_replaced_by_another(loaded: Loaded) -> None:
    head = '[inbound.n]\ngroup = "239.1.1.1"\nport = 1\n'
    base = head + 'output = {kind = "file", path = "/x", keep = 3}\n'
    (merged,) = loaded(base, a="[inbound.n.output]\nmode = 0o600").inbound["n"].output
    assert (merged.kind, merged.keep, merged.mode) == ("file", 3, 0o600)
    (replaced,) = loaded(base, a='[inbound.n.output]\nkind = "fifo"\npath = "/y"').inbound["n"].output
    assert (replaced.kind, str(replaced.path)) == ("fifo", "/y")
    (replaced,) = loaded(base, a='[inbound.n]\noutput = "/z"').inbound["n"].output
    assert (replaced.keep, str(replaced.path)) == (7, "/z")


def test_a_worker_may_be_named_kind(loaded: Loaded, refused: Refused) -> None:
    config = loaded(CHANNEL + CHANNEL.replace("news", "kind"), a="[outbound.kind]\nttl = 2\n")
    assert {name: channel.ttl for name, channel in config.outbound.items()} == {"news": 1, "kind": 2}
    assert refused("inbound.kind = []", a="[inbound]") == [
        "mcastd.toml:1: inbound.kind: must be a table, not an array; each has a name: [inbound.NAME]"
    ]


def test_the_file_that_has_the_last_word_is_named(refused: Refused) -> None:
    assert refused(
        CHANNEL + "ttl = 300\nrepeat = 0\n[outbound.old]\n",
        a="\n[outbound.news]\nttl = 400\n\n[outbound.new]\nport = 1\n",
        b='[outbound.news]\ngroup = "192.0.2.1"\n[outbound.new]\n source = "/x"\n',
    ) == [
        'mcastd.toml:6: outbound.news.repeat: must be "once", "forever" or a count from 1, not 0',
        "mcastd.toml:7: outbound.old.group: missing; it is required",
        "mcastd.toml:7: outbound.old.port: missing; it is required",
        "mcastd.toml:7: outbound.old.source: missing; it is required",
        "mcastd.toml.d/a.toml:3: outbound.news.ttl: must be a whole number from 0 to 255, not 400",
        "mcastd.toml.d/b.toml:2: outbound.news.group: 192.0.2.1 is not a multicast address "
        "(IPv4: 224.0.0.0/4, IPv6: ff00::/8)",
        "mcastd.toml.d/b.toml:3: outbound.new.group: missing; it is required",
    ]


def test_conflicts_across_files_are_located(refused: Refused) -> None:
    worker = 'group = "239.1.1.1"\nport = 1\noutput = "/x"\n'
    assert refused(f"[inbound.a]\n{worker}", a=f"[inbound.b]\n{worker}") == [
        'mcastd.toml.d/a.toml:4: inbound.b.output: "/x" is already an output of inbound/a'
    ]


def test_syntax_errors_of_all_files_are_said(refused: Refused, write: Write, tmp_path: Path) -> None:
    path = write("[x", a="", b="y", c=b"\xff")
    (tmp_path / "mcastd.toml.d" / "d.toml").mkdir()
    (tmp_path / "mcastd.toml.d" / ".#c.toml").symlink_to("an.editor@host.lock")
    (tmp_path / "mcastd.toml.d" / "README").write_text("not TOML")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [(Path(p.file).name, p.line) for p in caught.value.problems] == [
        ("mcastd.toml", 1),
        ("b.toml", 1),
        ("c.toml", 1),
        ("d.toml", 0),
    ]


def test_a_drop_in_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CHANNEL)
    (tmp_path / "c.toml.d").write_text("")
    with pytest.raises(ConfigError, match=r"c\.toml\.d: cannot be read: not a directory"):
        load(tmp_path / "c.toml")


# -- much


def test_two_thousand_workers_with_one_error(refused: Refused) -> None:
    block = '[inbound.n{0}]\ngroup = "239.1.1.1"\nport = 9190\noutput = "/log/{0}"\n\n'
    text = "".join(block.format(number) for number in range(2000)).replace('"/log/1999"', '"/log/7"')
    assert refused(text) == [
        'mcastd.toml:9999: inbound.n1999.output: "/log/7" is already an output of inbound/n7'
    ]


def test_a_long_array_and_a_long_string_with_one_error(refused: Refused) -> None:
    array = "".join(f'  "10.0.{n // 250}.{n % 250 + 1}",  # "[{{\n' for n in range(20_000))
    text = f'[inbound.n]\nsources = [\n{array}]\nport = 0\ngroup = "239.1.1.1"\noutput = "/x"\n'
    assert refused(text) == [
        "mcastd.toml:20004: inbound.n.port: must be a whole number from 1 to 65535, not 0"
    ]
    text = "x = '''\n" + "[\n" * 100_000 + "'''\n"
    assert refused(text) == [
        "mcastd.toml:1: x: unknown key; known are daemon, amt, outbound, inbound, discover, bridge,"
        " amt_relay, gateway, link"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("group = 239.1.1.1", 'not valid TOML: a value that is no plain number needs quotes: "239.1.1.1"'),
        ("group = ff15::1", 'not valid TOML: a value that is no plain number needs quotes: "ff15::1"'),
        ("interface = eth0", 'not valid TOML: a value that is no plain number needs quotes: "eth0"'),
        ("interval = 10s # often", 'not valid TOML: a value that is no plain number needs quotes: "10s"'),
        ('group = ["239.1.1.1", "239.1.1.2"]', "one group each: make a table for every one"),
        ('group = "239.1.1.0/24"', "a prefix cannot be joined: name one group"),
        ('group = "239.1.1.1:9190"', 'the address alone, "239.1.1.1": the port has a key of its own'),
        ('group = "udp://239.1.1.1"', 'the address alone, "239.1.1.1"'),
        ('port = "9190"', 'must be a whole number from 1 to 65535, not "9190"; take its quotes away'),
        ("port = [9190, 9191]", "one number: make a table for every one"),
        ('rotate_size = "1MB"', 'unknown key; it belongs into the table of an output of kind = "file"'),
        ('log_level = "debug"', "unknown key; it belongs into [daemon]"),
        ("ttl = 3", "unknown key; it belongs into [outbound.NAME]"),
        ('source = "10.0.0.1"', 'unknown key; did you mean "sources"? "source" belongs into [outbound.NAME]'),
        (
            'verify_keys = "/x.pub"',
            'belongs into protocol = { kind = "flute", verify_keys = ... } of [inbound.NAME]',
        ),
        ('protocol = { kind = "flute", sign_key = "/x" }', "sign_key = ... } of [outbound.NAME]"),
        (
            'protocol = { kind = "flute", key = "/x" }',
            'did you mean "keys"? "key" belongs into [link.NAME] or source = { kind = "redis", key',
        ),
        (
            'via = { relay = "192.0.2.7" }',
            'into via = { kind = "amt" or "amt-fallback", relay = ... } of [inbou',
        ),
        (
            'output = { to = "192.0.2.7:5000" }',
            'it belongs into the table of an output of kind = "udp" or "tcp"',
        ),
        (
            "protocol = { ssrc = 7 }",
            'it belongs into protocol = { kind = "rtp", ssrc = ... } of [inbound.NAME]',
        ),
        ("[gateway.x]\ngroups = []", 'did you mean "allow_groups"? "groups" belongs into [discover.NAME]'),
        (
            '[outbound.x]\nsource = { listen = "192.0.2.7:5000" }',
            'it belongs into source = { kind = "udp" or "tcp-server", listen = ... } of [outbound.NAME]',
        ),
        (
            'output = { kind = "nats", port = 4222 }',
            'the port stands behind its host: servers = "nats://host.example.net:9000"',
        ),
        (
            'output = { kind = "udp", to = "192.0.2.7", port = 5000 }',
            'the port stands behind its host: to = "host.example.net:9000"',
        ),
        ('output = { path = "/x", when_full = "block" }', 'of an output of kind = "fifo"'),
    ],
)
def test_what_others_write_gets_a_clear_word(refused: Refused, line: str, said: str) -> None:
    assert any(said in problem for problem in refused(f"[inbound.feed]\n{line}\n")), refused(
        f"[inbound.feed]\n{line}\n"
    )


def test_an_output_is_a_file_unless_it_says_otherwise(loaded: Loaded) -> None:
    base = '[inbound.a]\ngroup = "239.1.1.1"\nport = 7\n[inbound.a.output]\npath = "/x"\nkeep = 3\n'
    (output,) = loaded(base).inbound["a"].output
    assert (output.kind, str(output.path)) == ("file", "/x")
    other = '[inbound.a.output]\nkind = "fifo"\npath = "/y"\n'
    (output,) = loaded(base, other=other).inbound["a"].output
    assert (output.kind, str(output.path)) == ("fifo", "/y")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [".".join("a" * 400_000) + " = 1", "[" + " . ".join(['"a b"'] * 33) + "]", "x = {b" + ".b" * 40 + "=1}"],
)
def test_a_key_of_very_many_parts_is_refused_before_it_is_parsed(refused: Refused, text: str) -> None:
    (said,) = refused(f"\n{text}\n")
    assert said == "mcastd.toml:2: has a key of more than 32 parts: not a configuration"


def test_a_key_of_many_parts_is_just_unknown(refused: Refused) -> None:
    (said,) = refused(".".join(["a"] * 32) + " = 1")
    assert said.startswith("mcastd.toml:1: a: unknown key")


# -- and back


def test_nothing_in_a_configuration_steers_the_terminal_that_shows_it(tmp_path: Path) -> None:
    name = "/a\x1b[31m\x9b\u202e\U000e0041"
    settings = {"group": "239.255.1.2", "port": 9, "source": name}
    text = dump(Config.model_validate({"outbound": {"a": settings}}))
    assert all(map(str.isprintable, text.split("\n")))
    assert tomllib.loads(text)["outbound"]["a"]["source"] == name
    file = tmp_path / "a\x1b[31m.toml"
    file.write_text('[outbound.a]\n"k\x9b" = "\u202e"\n')
    for arguments in ([], ["--dump"], ["--json"]):
        command = [sys.executable, "-m", "mcastd", "check", str(file), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert answer.returncode == 78
        assert all(map(str.isprintable, (answer.stdout + answer.stderr).split("\n")))
    file.write_text('[outbound.a]\ngroup = "239.255.1.2"\nport = 9\nsource = "/x"\nttl = 255\n')
    answer = subprocess.run(command[:-1], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0
    assert "warning" in answer.stderr
    assert all(map(str.isprintable, (answer.stdout + answer.stderr).split("\n")))


def test_dump_is_made_for_people(loaded: Loaded) -> None:
    text = dump(
        loaded(CHANNEL + 'dscp = "CS5"\nrate = 64000\n[inbound."a.b"]\ngroup="ff15::1"\nport=1\noutput="/x"')
    )
    assert (
        text
        == """\
[daemon]
log_level = "info"
log_format = "auto"
control_socket = "/run/mcastd/control"
stop_timeout = "10s"

[amt]
relay = "auto"
local_port = 2268
refresh = "25s"

[outbound.news]
enabled = true
source = "/srv/news.txt"
group = "239.255.1.2"
port = 9190
ttl = 1
rate = "64kbit"
framing = "line"
max_datagram = 1472
repeat = "once"
follow = false
protocol = "raw"
copies = []
loop = true
dscp = "CS5"

[inbound."a.b"]
enabled = true
legs = []
merge = "sequence"
group = "ff15::1"
port = 1
via = "native"
sources = []
exclude_sources = []
receive_buffer = "4MiB"
coalesce = true
protocol = "raw"
reorder = "0s"
fec = false
output = [
    { kind = "file", path = "/x", format = "raw", keep = 7, mode = "0640", fsync = false },
]
"""
    )


@pytest.mark.parametrize(
    ("modes", "warned"),
    [
        ((0o755, 0o644, 0o755, 0o644), []),
        ((0o755, 0o666, 0o755, 0o644), ["c.toml"]),
        ((0o755, 0o644, 0o777, 0o646), ["c.toml.d/one.toml", "c.toml.d"]),
        ((0o777, 0o644, 0o755, 0o644), ["c.toml"]),
        ((0o1777, 0o644, 0o755, 0o644), []),
        ((0o1777, 0o644, None, None), ["c.toml"]),  # everybody can make c.toml.d
    ],
)
def test_what_everybody_may_write_is_warned_of(
    tmp_path: Path, modes: tuple[int, ...], warned: list[str]
) -> None:
    directory = tmp_path / "etc"
    paths = [directory, directory / "c.toml", directory / "c.toml.d", directory / "c.toml.d" / "one.toml"]
    made = [(path, mode) for path, mode in zip(paths, modes, strict=True) if mode is not None]
    for path, _ in made:
        if path.suffix == ".toml":
            path.write_text(CHANNEL)
        else:
            path.mkdir()
    for path, mode in made:
        path.chmod(mode)
    _, warnings = examine(directory / "c.toml")
    assert [(warning.file, warning.line, warning.warning) for warning in warnings] == [
        (str(directory / name), 0, True) for name in warned
    ]
