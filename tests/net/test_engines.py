"""What is received, handed to real servers of NATS and Redis: each datagram once, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.daemon import RunningDaemon
from support.engines import SERVERS, THERE, EngineLab, Kept, NatsServer, RedisServer, require_client
from support.host import Host
from support.inside import sender
from support.meanwhile import meanwhile
from support.mounts import tmpfs
from support.switch import Switch
from support.wait import wait_for

GROUP, PORT = "239.255.9.7", 9190
# What datagrams are kept under, if nothing else is said.
OF = {"nats": "mcast.239_255_9_7.9190", "redis": "mcast:239_255_9_7:9190"}
MORE = {"nats": 'stream = "TV"\ncreate = true\n', "redis": ""}

pytestmark = pytest.mark.root


class Lab(EngineLab):
    def __init__(self, kind: str, directory: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(kind, directory, stack)
        self.sock = stack.enter_context(sender(self.net, "n0", THERE))

    def config(self, **keys: str) -> str:
        lines = {"servers": f'"{self.server.url}"', "spool": f'"{self.directory}/spool"', **keys}
        output = "\n".join(f"{key} = {value}" for key, value in lines.items() if value)
        return (
            f'[inbound.tv]\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "eth0"\nreceive_buffer = "64MiB"\n'
            f'[inbound.tv.output]\nkind = "{self.kind}"\n{MORE[self.kind]}{output}\n'
        )

    def daemon(self, config: str = "") -> RunningDaemon:
        return RunningDaemon(self.directory, config or self.config(), enter=self.host.enter([]))

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.sock.sendto(payload, (GROUP, PORT))

    def kept(self) -> list[Kept]:
        return self.server.kept(OF[self.kind])


@pytest.fixture(params=SERVERS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(request.param, tmp_path, stack)


def output_of(daemon: RunningDaemon) -> dict[str, Any]:
    (output,) = daemon.worker("inbound/tv")["status"]["outputs"]
    found: dict[str, Any] = output
    return found


def received(daemon: RunningDaemon) -> int:
    count: int = daemon.worker("inbound/tv")["status"]["counters"]["received"]
    return count


def wait_written(daemon: RunningDaemon, count: int) -> dict[str, Any]:
    """The output, once it has written so many datagrams, and holds none."""

    def written() -> bool:
        counters = output_of(daemon)["counters"]
        return bool(counters["written"] >= count and not counters["queued"])

    wait_for(written, f"{count} datagrams are acknowledged")
    return output_of(daemon)


def test_each_datagram_is_a_message_with_what_is_known_of_it_beside(lab: Lab) -> None:
    lab.server.start()
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["engine"]["server"] == lab.server.url, "the connection")
        payloads = [b"news", b"", bytes(range(256)) * 5, b"\r\nMSG x 1 5\r\n$-1\r\n"]
        before = time.time_ns()
        lab.send(*payloads)
        output = wait_written(daemon, 4)
        assert output["counters"]["dropped"] == {}
        assert output["error"] is None
        kept = lab.kept()
        assert [one.data for one in kept] == payloads
        facts = kept[0].facts
        prefix = "Mcast-" if lab.kind == "nats" else ""
        assert facts[f"{prefix}Group" if prefix else "group"] == GROUP
        assert facts[f"{prefix}Sender" if prefix else "sender"] == THERE
        assert facts[f"{prefix}Sender-Port" if prefix else "sender_port"] == str(lab.sock.getsockname()[1])
        assert facts[f"{prefix}TTL" if prefix else "ttl"] == "1"
        stamp = int(facts[f"{prefix}Time" if prefix else "time"])
        assert before <= stamp <= time.time_ns()
        assert len({tuple(one.facts.items()) for one in kept}) == 4


def test_the_longest_datagram_and_lines_of_json(lab: Lab) -> None:
    lab.server.start()
    lab.host.ip("link set eth0 mtu 65535")
    config = lab.config(format='"json"')
    with lab.daemon(config) as daemon:
        lab.send(b"x" * 8000)
        wait_written(daemon, 1)
        (kept,) = lab.kept()
        assert f'"source":"{THERE}"'.encode() in kept.data
        assert b"x" * 8000 in kept.data


@contextlib.contextmanager
def stream(lab: Lab, per_second: int) -> Iterator[list[int]]:
    """Numbers go, so many a second, until the end of the block; the list has how many went."""
    sent, began = [0], time.monotonic()

    def send() -> None:
        while sent[0] < (time.monotonic() - began) * per_second:
            lab.send(b"%d" % sent[0] + bytes(1300))
            sent[0] += 1

    with meanwhile(send, 0.002, "stream"):
        yield sent


def numbers_of(lab: Lab) -> list[int]:
    return [int(one.data.rstrip(b"\0")) for one in lab.kept()]


def test_a_server_that_is_killed_four_times_has_each_datagram_once(lab: Lab) -> None:
    lab.server.start()
    with lab.daemon() as daemon:
        with stream(lab, 2000) as sent:
            for _ in range(4):
                begin = sent[0]
                wait_for(lambda begin=begin: sent[0] > begin + 1000)
                lab.server.kill()
                begin = sent[0]
                wait_for(lambda begin=begin: sent[0] > begin + 1000)
                lab.server.start()
                wait_for(lambda: output_of(daemon)["engine"]["server"], "it is connected again")
        counters = daemon.worker("inbound/tv")["status"]["counters"]
        assert counters["overflow"] == 0
        output = wait_written(daemon, sent[0])
        assert output["counters"]["dropped"] == {}
        assert output["counters"]["written"] == sent[0]
        assert numbers_of(lab) == [*range(sent[0])]
        wait_for(lambda: output_of(daemon)["engine"]["spool_bytes"] == 0, "the spool is empty")


def test_a_daemon_that_is_killed_loses_nothing_that_it_had(lab: Lab) -> None:
    """Its server is away meanwhile, so all is in the spool; what is sent while there is no daemon is not."""
    lab.server.start()
    with lab.daemon() as daemon:
        lab.send(*(b"%d" % number for number in range(100)))
        wait_written(daemon, 100)
        lab.server.kill()
        lab.send(*(b"%d" % number for number in range(100, 1100)))
        wait_for(lambda: output_of(daemon)["counters"]["queued"] == 1000, "all are held")
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 1000, "all are in the spool")
        daemon.process.kill()
        daemon.process.wait()
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["engine"]["taken_up"] == 1000, "they are taken up")
        lab.send(*(b"%d" % number for number in range(1100, 1200)))
        lab.server.start()
        output = wait_written(daemon, 100)
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 0, "the others, too")
        assert output["counters"]["written"] == 100, "what it did not receive is not counted"
        assert numbers_of(lab) == [*range(1200)]


def pass_on(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until)


def bounce(lab: Lab, daemon: RunningDaemon, *, in_a_batch: bool = False) -> None:
    """Kill the server after some seconds, perhaps while it owes an answer, and start it again."""
    pass_on(4)
    if in_a_batch:
        lab.server.pause()
        wait_for(lambda: output_of(daemon)["engine"]["in_flight"], "something is on its way")
    lab.server.kill()
    pass_on(1)
    lab.server.start()
    wait_for(lambda: output_of(daemon)["engine"]["server"], "it is connected again")


def test_half_a_minute_with_four_deaths_of_the_server_and_one_of_the_daemon(lab: Lab) -> None:
    """At 5,000 a second: missing is only what came behind all that was safe, and before the next daemon."""
    lab.server.start()
    # As much room as receive_buffer, for what comes at once after the machine had no time for the daemon
    config = lab.config(queue='"64MiB"')
    with contextlib.ExitStack() as sending:
        with lab.daemon(config) as daemon:
            sent = sending.enter_context(stream(lab, 5000))
            bounce(lab, daemon)
            bounce(lab, daemon, in_a_batch=True)
            pass_on(3)
            worker = daemon.worker("inbound/tv")["status"]
            (output,) = worker["outputs"]
            assert (worker["counters"]["overflow"], output["counters"]["dropped"]) == (0, {})
            safe = output["counters"]["written"] + output["engine"]["waiting"]
            daemon.process.kill()
            daemon.process.wait()
        with lab.daemon(config) as daemon:
            daemon.wait_state("inbound/tv", "active")
            back = sent[0]
            bounce(lab, daemon)
            bounce(lab, daemon)
            pass_on(4)
            sending.close()
            wait_for(lambda: received(daemon) >= sent[0] - back, "all that was sent")
            wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 0, "all are acknowledged", 180)
            wait_for(lambda: max(numbers_of(lab)) == sent[0] - 1, "the last one is kept", 180)
            worker = daemon.worker("inbound/tv")["status"]
            (output,) = worker["outputs"]
            assert (worker["counters"]["overflow"], output["counters"]["dropped"]) == (0, {})
    kept = numbers_of(lab)
    assert len(set(kept)) == len(kept), "each once"
    missing = sorted({*range(sent[0])}.difference(kept))
    if missing:
        assert len(missing) == 1 + missing[-1] - missing[0], "in a row"
        assert safe <= missing[0]
        assert missing[-1] < back


def test_a_daemon_that_ends_while_its_server_is_away_goes_on_where_it_was(lab: Lab) -> None:
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
        output = output_of(daemon)
        assert output["reason"] == "unreachable"
        assert output["error"].startswith(f"cannot reach {lab.server.url}: connection refused; start the")
        lab.send(*(b"%d" % number for number in range(50)))
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 50, "they are held")
        daemon.write(lab.config(queue='"4MiB"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 50, "a reload keeps them")
        assert output_of(daemon)["counters"] == {
            "written": 0,
            "written_bytes": 0,
            "dropped": {},
            "queued": 50,
        }
        assert daemon.stop() == 0
        (kept,) = daemon.events("output.kept")[-1:]
        assert kept["datagrams"] == 50
    lab.server.start()
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["engine"]["server"], "the connection")
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 0, "all that was held")
        assert numbers_of(lab) == [*range(50)]


def test_what_waits_goes_where_it_was_meant_to_after_a_reload(lab: Lab) -> None:
    name = {"nats": "subject", "redis": "key"}[lab.kind]
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
        lab.send(b"1", b"2")
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 2, "they are held")
        daemon.write(lab.config(**{name: '"mcast.other"'}))
        assert daemon.ctl("reload").returncode == 0
        lab.send(b"3")
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 3, "the third, too")
        lab.server.start()
        if isinstance(lab.server, NatsServer):
            wait_for(
                lambda: OF["nats"] in (output_of(daemon)["error"] or ""), "its stream is for the new one"
            )
            plan = {"name": "TV", "storage": "file", "subjects": ["mcast.>"]}
            lab.server.api("STREAM.UPDATE.TV", plan)
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 0, "all are there")
        if isinstance(lab.server, NatsServer):
            kept = lab.server.kept("mcast.>")  # the third may have been taken while the others were not
            kept.sort(key=lambda one: one.data)
            assert [OF["nats"] in one.facts["Nats-Msg-Id"] for one in kept] == [True, True, False]
        else:
            kept = lab.kept()
            assert len(kept) == 2
            kept += lab.server.kept("mcast.other")
        assert [one.data for one in kept] == [b"1", b"2", b"3"]


def test_after_a_reload_to_another_group_messages_are_kept_under_its_name(lab: Lab) -> None:
    lab.server.start()
    if isinstance(lab.server, NatsServer):
        lab.server.api("STREAM.CREATE.TV", {"name": "TV", "storage": "file", "subjects": ["mcast.>"]})
    other = "239.255.9.8"
    config = lab.config(spool="")
    with lab.daemon(config) as daemon:
        lab.send(b"1")
        wait_written(daemon, 1)
        lab.server.kill()
        wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
        lab.send(b"2")
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 1, "one is held")
        daemon.write(config.replace(GROUP, other))
        assert daemon.ctl("reload").returncode == 0
        lab.sock.sendto(b"3", (other, PORT))
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 2, "two are held")
        lab.server.start()
        wait_written(daemon, 3)
        assert output_of(daemon)["counters"]["dropped"] == {}
        if lab.kind == "nats":
            kept = lab.server.kept("mcast.>")
            assert [OF["nats"] in one.facts["Nats-Msg-Id"] for one in kept] == [True, True, False]
        else:
            assert len(lab.kept()) == 2
            kept = [*lab.kept(), *lab.server.kept(OF["redis"].replace("9_7", "9_8"))]
        assert [one.data for one in kept] == [b"1", b"2", b"3"]
        assert other in kept[-1].facts.values()


def test_without_a_spool_memory_holds_what_fits_and_the_rest_is_counted(lab: Lab) -> None:
    config = lab.config(spool="", queue='"100KiB"', when_full='"drop-oldest"')
    with lab.daemon(config) as daemon:
        wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
        for number in range(200):
            lab.send(b"%03d" % number + bytes(997))
        wait_for(lambda: daemon.worker("inbound/tv")["status"]["counters"]["received"] == 200, "all came")
        wait_for(lambda: output_of(daemon)["counters"]["dropped"], "some are dropped")

        def accounted() -> bool:
            counters = output_of(daemon)["counters"]
            return bool(counters["queued"] + sum(counters["dropped"].values()) == 200)

        wait_for(accounted, "each is held or dropped")
        lab.server.start()
        wait_for(lambda: output_of(daemon)["counters"]["queued"] == 0, "what was held")
        counters = output_of(daemon)["counters"]
        assert counters["dropped"].keys() == {"full"}
        assert counters["written"] + counters["dropped"]["full"] == 200
        assert [int(one.data.rstrip(b"\0")) for one in lab.kept()] == [*range(200)][-counters["written"] :]


def test_a_spool_without_room_drops_and_says_so_until_there_is_some(lab: Lab) -> None:
    with tmpfs(lab.directory / "disk", "1m") as disk:
        config = lab.config(spool=f'"{disk}/spool"', queue='"100KiB"')
        with lab.daemon(config) as daemon:
            wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
            for number in range(2000):
                lab.send(b"%04d" % number + bytes(996))
                if number % 20 == 0:  # so that it is the disk that is full, not the queue
                    wait_for(lambda: received(daemon) > number, "they are taken")  # noqa: B023
            wait_for(lambda: "spool" in output_of(daemon)["counters"]["dropped"], "the disk is full")
            wait_for(lambda: output_of(daemon)["reason"] == "spool", "it says so")
            output = output_of(daemon)
            assert "no space left on device" in output["error"]
            lab.server.start()
            wait_for(lambda: output_of(daemon)["engine"]["server"], "the connection")
            wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 0, "what was held")
            wait_for(lambda: output_of(daemon)["error"] is None, "all is well again")
            lab.send(b"9999")
            counters = wait_written(daemon, 1)["counters"]

            def accounted() -> bool:
                counters = output_of(daemon)["counters"]
                return bool(counters["written"] + sum(counters["dropped"].values()) == 2001)

            wait_for(accounted, "each is with the server or dropped")
            numbers = [int(one.data.rstrip(b"\0")) for one in lab.kept()]
            assert numbers[-1] == 9999
            assert len(numbers) == len({*numbers}) == output_of(daemon)["counters"]["written"]
            assert counters["dropped"].keys() <= {"spool", "full"}


# -- servers that do not take it

LOGIN = {"nats": ("--user", "tv", "--pass", "s3cret"), "redis": ("--requirepass", "s3cret")}


def test_who_is_not_let_in_is_told_and_holds_all_until_the_password_is_right(lab: Lab) -> None:
    server = type(lab.server)(lab.host, lab.directory, *LOGIN[lab.kind], port=4334)
    lab.server = server
    server.start()
    password = lab.directory / "password"
    password.write_text("wrong\n")
    password.chmod(0o600)
    user = {"nats": '"tv"', "redis": ""}[lab.kind]
    with lab.daemon(lab.config(user=user, password=f'"{password}"')) as daemon:
        wait_for(lambda: output_of(daemon)["reason"] == "refused", "it is told")
        output = output_of(daemon)
        assert {"nats": "Authorization Violation", "redis": "WRONGPASS"}[lab.kind] in output["error"]
        assert "wrong" not in str(output)
        lab.send(b"1", b"2")
        wait_for(lambda: output_of(daemon)["counters"]["queued"] == 2, "they are held")
        password.chmod(0o644)
        wait_for(lambda: "chmod 600" in (output_of(daemon)["error"] or ""), "the password is open to others")
        password.write_text("s3cret\n")
        password.chmod(0o600)
        counters = wait_written(daemon, 2)["counters"]
        assert counters["dropped"] == {}
        assert "s3cret" not in daemon.log.read_text() + str(daemon.worker("inbound/tv"))


@pytest.mark.parametrize("lab", ["nats"], indirect=True)
def test_a_stream_that_is_missing_or_full_or_takes_another_subject(lab: Lab) -> None:
    server = lab.server
    assert isinstance(server, NatsServer)
    server.start()
    with lab.daemon(lab.config().replace("create = true\n", "")) as daemon:
        wait_for(lambda: "it has no stream TV" in (output_of(daemon)["error"] or ""), "it is told")
        assert 'nats stream add TV --subjects "mcast.239_255_9_7.9190"' in output_of(daemon)["error"]
        lab.send(b"first")
        plan = {"name": "TV", "storage": "file", "subjects": ["mcast.other"]}
        server.api("STREAM.CREATE.TV", plan)
        wait_for(
            lambda: "its stream TV takes mcast.other" in (output_of(daemon)["error"] or ""), "its subject"
        )
        edit = 'nats stream edit TV --subjects "mcast.other,mcast.239_255_9_7.9190"'
        assert output_of(daemon)["way_out"] == edit
        plan |= {"subjects": ["mcast.>"], "max_msgs": 3, "discard": "new"}
        server.api("STREAM.UPDATE.TV", plan)
        wait_written(daemon, 1)
        lab.send(b"second", b"third", b"fourth")
        wait_for(lambda: "maximum messages" in (output_of(daemon)["error"] or ""), "it is full")
        server.api("STREAM.UPDATE.TV", plan | {"max_msgs": 100})
        output = wait_written(daemon, 4)
        assert output["counters"]["dropped"] == {}
        server.api("STREAM.UPDATE.TV", plan | {"max_msgs": 100, "max_msg_size": 1000})
        lab.send(bytes(1100), b"fifth")
        wait_for(lambda: output_of(daemon)["counters"]["dropped"] == {"too-big": 1}, "it is too big")
        wait_written(daemon, 5)
        assert [one.data for one in lab.kept()] == [b"first", b"second", b"third", b"fourth", b"fifth"]


@pytest.mark.parametrize("lab", ["redis"], indirect=True)
def test_a_key_that_another_program_writes_is_told(lab: Lab) -> None:
    lab.server.start()
    with lab.daemon() as daemon:
        lab.send(b"first")
        wait_written(daemon, 1)
        ahead = f"redis.Redis(port={lab.server.port}).xadd({OF['redis']!r}, {{'x': 1}}, id='{1 << 62}-1')"
        lab.host.python("-c", f"import redis; {ahead}").wait()
        lab.send(b"second")
        wait_for(lambda: output_of(daemon)["counters"]["dropped"] == {"overtaken": 1}, "it is counted")
        told = "another program writes mcast:239_255_9_7:9190, too, or deletes what is there"
        wait_for(lambda: told in daemon.log.read_text(), "it is told")


@pytest.mark.parametrize("lab", ["redis"], indirect=True)
def test_the_server_that_becomes_the_primary_gets_what_comes_then(lab: Lab) -> None:
    """The one before answers as well, as a replica, and is the first that is named."""
    first = lab.server
    second = RedisServer(
        lab.host, lab.directory, "--replicaof", first.address, str(first.port), port=first.port + 1
    )
    assert isinstance(first, RedisServer)
    first.start()
    first.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    second.start()
    with lab.daemon(lab.config(servers=f'["{first.url}", "{second.url}"]')) as daemon:
        lab.send(b"before")
        wait_written(daemon, 1)
        wait_for(lambda: len(second.kept(OF["redis"])) == 1, "the replica has it, too")
        second.ask("REPLICAOF", "NO", "ONE")
        first.ask("REPLICAOF", second.address, str(second.port))
        lab.send(b"after")
        output = wait_written(daemon, 2)
        assert output["engine"]["server"] == second.url
        assert output["counters"]["dropped"] == {}
        assert [one.data for one in second.kept(OF["redis"])] == [b"before", b"after"]


@pytest.mark.parametrize("trusted", [True, False])
def test_by_tls_the_server_shows_who_it_is(lab: Lab, trusted: bool) -> None:
    made = certificates(lab.directory)
    options = {
        "nats": ("--tls", "--tlscert", str(made.certificate), "--tlskey", str(made.key)),
        "redis": (
            *("--tls-port", "4335", "--port", "0", "--tls-cert-file", str(made.certificate)),
            *("--tls-key-file", str(made.key), "--tls-auth-clients", "no"),
            *("--tls-ca-cert-file", str(made.authority)),
        ),
    }
    server = type(lab.server)(lab.host, lab.directory, *options[lab.kind], port=4335)
    server.start()
    scheme = {"nats": "tls", "redis": "rediss"}[lab.kind]
    ca = f'"{made.authority}"' if trusted else ""
    with lab.daemon(lab.config(servers=f'"{scheme}://127.0.0.1:4335"', ca=ca)) as daemon:
        lab.send(b"news")
        if trusted:
            wait_written(daemon, 1)
        else:
            wait_for(lambda: "its certificate is not trusted" in (output_of(daemon)["error"] or ""))
            wait_for(lambda: output_of(daemon)["counters"]["queued"] == 1, "it is held")


class Certificates(NamedTuple):
    authority: Path
    certificate: Path  # of 127.0.0.1
    key: Path


def certificates(directory: Path) -> Certificates:
    """An authority, and a server's certificate of it."""
    found = Certificates(*(directory / name for name in ("ca.pem", "cert.pem", "cert.key")))
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
    authority = directory / "ca.key"
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for command in (
        (*new, "-keyout", authority, "-out", found.authority, "-subj", "/CN=test", "-days", "2"),
        (*new[:2], *new[3:], "-keyout", found.key, "-out", directory / "csr", "-subj", "/CN=server"),
        (
            *("openssl", "x509", "-req", "-in", directory / "csr", "-CA", found.authority),
            *("-CAkey", authority, "-CAcreateserial", "-out", found.certificate, "-days", "2"),
            *("-extfile", directory / "names"),
        ),
    ):
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    return found


def test_three_hosts_record_groups_of_their_own_into_one_stream_and_two_consumers_have_all(
    tmp_path: Path,
) -> None:
    """As in the cookbook: "More than one machine can take"."""
    require_client("nats")
    count = 200
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(Switch())
        hosts = [stack.enter_context(Host()) for _ in range(5)]
        *recorders, talker, keeper = hosts
        for number, host in enumerate(hosts, 1):
            switch.plug(host, "eth0", f"10.73.0.{number}/24")
        server = NatsServer(keeper, tmp_path, address="10.73.0.5")
        server.start()
        server.api("STREAM.CREATE.MCAST", {"name": "MCAST", "storage": "file", "subjects": ["mcast.>"]})
        daemons = []
        for number, host in enumerate(recorders, 1):
            directory = tmp_path / f"host{number}"
            directory.mkdir()
            output = f'kind = "nats", servers = "{server.url}", stream = "MCAST", spool = "{directory}/spool"'
            config = (
                f'[inbound.a]\ngroup = "239.255.9.{number}"\nport = {PORT}\ninterface = "eth0"\n'
                f"output = {{ {output} }}\n"
            )
            running = RunningDaemon(directory, config, enter=host.enter([]))
            daemons.append(stack.enter_context(running))
        all_of_them = 3 * count
        consumers = [
            server.consumer(talker, "archive", "mcast.>", all_of_them),
            server.consumer(recorders[0], "watch", "mcast.>", all_of_them),
            server.consumer(keeper, "one", "mcast.239_255_9_2.>", count),
        ]
        sock = stack.enter_context(sender(talker, "eth0", "10.73.0.4"))
        for number in range(count):
            for group in (1, 2, 3):
                sock.sendto(b"%d" % number, (f"239.255.9.{group}", PORT))
            if number % 20 == 0:
                time.sleep(0.01)
        expected = {
            f"mcast.239_255_9_{group}.{PORT}": [str(number) for number in range(count)] for group in (1, 2, 3)
        }
        for consumer, subjects in zip(consumers, (expected, expected, [[*expected][1]]), strict=True):
            text, _ = consumer.communicate(timeout=120)
            found: dict[str, list[str]] = {}
            for line in text.splitlines():
                subject, data = json.loads(line)
                found.setdefault(subject, []).append(data)
            assert found == {subject: expected[subject] for subject in subjects}
        for daemon in daemons:
            (output,) = daemon.worker("inbound/a")["status"]["outputs"]
            assert output["counters"]["dropped"] == {}
