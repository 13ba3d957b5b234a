"""A real Prometheus scrapes a real daemon: what it answers, and that dashboard and alerts find theirs."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.ports import free_port
from support.wait import wait_for

from mcastd.delivery.keys import make_group_key
from mcastd.metrics.families import families

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "mcastd.rules.yml"
DASHBOARD = json.loads((PACKAGING / "grafana" / "mcastd.json").read_text())
SENT = 50


class Prometheus:
    """On loopback of the tests' namespace, with a storage of its own."""

    def __init__(self, directory: Path, target: str) -> None:
        config = directory / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\n"
            f"rule_files: [{RULES}]\n"
            f"scrape_configs: [{{job_name: mcastd, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self._address = f"127.0.0.1:{free_port()}"
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an API call."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        try:
            result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return result

    def wait_ready(self) -> None:
        def answers() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            try:
                return self.get("query", query="up == 1")["result"] != []
            except OSError:  # HTTPError is one: it is not ready yet
                return False

        wait_for(answers, "a scrape")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped a daemon in which everything that metrics tell of is there."""
    directory = tmp_path_factory.mktemp("prometheus")
    target = f"127.0.0.1:{free_port()}"
    source = directory / "news"
    source.write_text("".join(f"{number}\n" for number in range(SENT)))
    pytest.importorskip("cryptography")
    make_group_key(directory / "key")
    files = directory / "files"
    files.mkdir()
    (files / "whole").write_bytes(bytes(50_000))
    (files / "elsewhere").symlink_to(source)
    whole = f'atomic = "tree", notify = "{directory}/landed"'
    images = 'group = "239.255.9.8"\nport = 9198\n'
    group = 'group = "239.255.9.7"\nport = 9197\n'
    leg = 'group = "239.255.9.7", port = 9197'
    engine = '{ kind = "redis", servers = "redis://127.0.0.1:9" }'
    config = f"""
        [daemon]
        control_socket = "{directory}/control"
        metrics = "{target}"
        [outbound.news]
        {group} source = "{source}"
        interface = "lo"
        interval = "1ms"
        copies = [{{ group = "239.255.1.9", interface = "lo" }}]
        [inbound.news]
        {group} output = ["{directory}/news.log", {{ kind = "fifo", path = "{directory}/pipe" }}, {engine}]
        interface = "lo"
        [inbound.waiting]
        {group} output = "{directory}/waiting.log"
        interface = "eth7"
        [inbound.rtp]
        {group} output = "{directory}/rtp.log"
        interface = "lo"
        protocol = "rtp"
        fec = true
        payload = "ts"
        keep_before = "10s"
        [inbound.both]
        legs = [{{ {leg}, interface = "lo" }}, {{ {leg}, interface = "127.0.0.1" }}]
        merge = "payload"
        output = "{directory}/both.log"
        [outbound.images]
        {images} source = "{files}"
        interface = "lo"
        protocol = {{ kind = "flute", protect = "0%", key = "{directory}/key" }}
        announce = true
        rate = "10Mbit"
        repeat = "forever"
        [inbound.images]
        {images} output = {{ kind = "directory", path = "{directory}/received", {whole} }}
        interface = "lo"
        protocol = {{ kind = "flute", keys = "{directory}/key" }}
        [discover.lo]
        interface = "lo"
        [bridge.waiting]
        from = "eth7"
        to = "eth8"
        groups = ["239.255.0.0/16"]
        [link.waiting]
        connect = "192.0.2.98"
        key = "{directory}/key"
        send = ["239.255.0.0/16"]
        transit = true
        [amt_relay.waiting]
        listen = "192.0.2.99"
        [gateway.tv]
        listen = "127.0.0.1:{free_port()}"
        allow_groups = ["239.255.0.0/16"]
        interface = "lo"
    """
    state = str(directory / "state")
    with RunningDaemon(directory, config.replace("        ", ""), STATE_DIRECTORY=state):
        server = Prometheus(directory, target)
        try:
            server.wait_ready()
            wait_for(lambda: server.query("mcastd_manifest_files{worker='inbound/images'} > 0"), "a manifest")
            yield server
        finally:
            server.close()


def test_it_answers_what_the_daemon_has_counted(prometheus: Prometheus) -> None:
    def value(expression: str) -> float | None:
        result = prometheus.query(expression)
        return float(result[0]["value"][1]) if result else None

    received = 'mcastd_received_datagrams_total{worker="inbound/news",group="239.255.9.7",interface="lo"}'
    wait_for(lambda: value(received) == SENT)
    wait_for(lambda: value('mcastd_sent_datagrams_total{worker="outbound/news"}') == SENT)
    finished = 'mcastd_worker_state{worker="outbound/news",state="finished"}'
    wait_for(lambda: value(finished) == 1)
    # received = written + dropped + queued, of each output
    books = (
        "mcastd_written_datagrams_total + on (worker, output) mcastd_queued_datagrams"
        " + on (worker, output) sum by (worker, output)"
        ' (mcastd_dropped_datagrams_total{worker="inbound/news"})'
    )
    wait_for(lambda: [float(row["value"][1]) for row in prometheus.query(books)] == [SENT] * 3)
    assert value('mcastd_dropped_datagrams_total{reason="no-reader"}') == SENT
    assert value("mcastd_build_info * 3") == 3
    wait_for(lambda: value('mcastd_files{worker="inbound/images",state="landed"}') == 1)
    wait_for(lambda: value("mcastd_switched_trees_total") == 1)
    wait_for(lambda: value("mcastd_tree_missing_files") == 0)
    wait_for(lambda: value('mcastd_dropped_notices_total{reason="no-reader"}') == 1)  # that of the tree
    assert value("mcastd_source_bytes") == 50_000
    assert value('mcastd_unsent_files{reason="link"}') == 1


def test_each_alert_is_evaluated_and_the_one_that_is_true_is_pending(prometheus: Prometheus) -> None:
    def alerts() -> dict[str, str] | None:
        (group,) = prometheus.get("rules")["groups"]
        assert not [rule for rule in group["rules"] if rule.get("lastError")]
        healths = {rule["health"] for rule in group["rules"]}
        states = {rule["name"]: rule["state"] for rule in group["rules"]}
        expected = {states["McastdWorkerNotActive"], states["McastdFilesUnsent"]}
        expected |= {states["McastdLegsUnprotected"], states["McastdLinkDown"], states["McastdEngineAway"]}
        return states if healths == {"ok"} and "inactive" not in expected else None

    states = wait_for(alerts)
    assert states is not None
    assert states.pop("McastdWorkerNotActive") == "pending"
    assert states.pop("McastdFilesUnsent") == "pending"
    assert states.pop("McastdLinkDown") == "pending"  # its peer is not there
    assert states.pop("McastdEngineAway") == "pending"  # nothing listens at its port
    assert states.pop("McastdLegsUnprotected") == "pending"  # both are by lo
    assert states.pop("McastdReceiveBufferSmall") in ("inactive", "pending")  # by the host's rmem_max
    states.pop("McastdSenderLate")  # by how busy the host is
    assert {name for name, state in states.items() if state != "inactive"} == set()


def expressions() -> dict[str, str]:
    """Each query of the dashboard, by its panel, as Grafana would send it if all is selected."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$\w+", ".*", text)
    return found


@pytest.mark.parametrize("name", expressions())
def test_each_query_of_the_dashboard_is_answered(prometheus: Prometheus, name: str) -> None:
    expression = expressions()[name]
    may_be_empty = " > 0" in expression
    wait_for(lambda: prometheus.query(expression) or may_be_empty, expression)


def test_each_variable_of_the_dashboard_has_values(prometheus: Prometheus) -> None:
    queries = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    for query in queries:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        selector = re.sub(r"\$\w+", ".*", match[1])
        path = f"label/{match[2]}/values"
        wait_for(lambda p=path, s=selector: prometheus.get(p, **{"match[]": s}), query)  # type: ignore[misc]
    assert [query.rpartition(" ")[2] for query in queries] == [
        "job)",
        "instance)",
        "worker)",
        "group)",
        "interface)",
    ]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:mcastd|process)_[a-z_]+\b", text))


def test_all_that_is_asked_for_is_there_and_all_that_is_there_is_shown(prometheus: Prometheus) -> None:
    shown = names_in(" ".join(expressions().values()))
    alerting = {
        name for line in RULES.read_text().splitlines() if "summary" not in line for name in names_in(line)
    }
    wait_for(lambda: shown | alerting <= set(prometheus.get("label/__name__/values")), "all of them")
    assert families().keys() <= shown


def test_the_dashboard_is_whole() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [(x, y) for panel in DASHBOARD["panels"] for x, y in _cells(panel["gridPos"])]
    assert len(set(places)) == len(places), "panels overlap"
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            table = target.get("format") == "table"
            assert table or panel["type"] == "stat" or "{{" in target["legendFormat"], panel["title"]


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    for command in (["check", "rules", RULES], ["test", "rules", RULES.with_name("mcastd.test.yml")]):
        result = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    tested = (RULES.with_name("mcastd.test.yml")).read_text()
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert re.search(rf"alertname: {alert}\n +exp_alerts:", tested), f"{alert} is never seen to fire"
        assert f"eval_time: 15m, alertname: {alert}}}" in tested, (
            f"{alert} is not seen to be silent when all is well"
        )


def test_the_queries_of_the_cookbook_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    cookbook = (PACKAGING.parent / "docs" / "COOKBOOK.md").read_text()
    queries = [
        line
        for block in re.findall(r"```promql\n(.*?)```", cookbook, re.DOTALL)
        for line in block.split("\n")
    ]
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(filter(None, queries))]
    assert len(rules) == 2
    path = tmp_path / "rules.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "cookbook", "rules": rules}]}))
    result = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert names_in(" ".join(queries)) <= set(families())
