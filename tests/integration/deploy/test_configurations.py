"""Each third party's own checker accepts our files: Compose, HAProxy, Prometheus (Grafana's queries too)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.runner import DEFAULT_FILE
from deploy.runner.interpolate import read_env_file

pytestmark = pytest.mark.integration

COMPOSE = DEFAULT_FILE.parent
OBSERVABILITY = COMPOSE.parent / "observability"
SECRETS = list(read_env_file((COMPOSE / "secrets.env.example").read_text(), {}))
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])

# Every metric that the deployment guide names.
GUIDE_METRICS = {
    "orbit_storage_hot_tier_size_bytes", "orbit_storage_warm_tier_size_bytes", "orbit_storage_cold_tier_size_bytes",
    "orbit_storage_tier_migration_total", "orbit_storage_operations_total", "orbit_storage_operation_duration_seconds",
    "orbit_transactions_active", "orbit_transactions_total", "orbit_transaction_duration_seconds",
    "orbit_transaction_conflicts_total", "orbit_deadlocks_detected_total", "orbit_cluster_nodes_total",
    "orbit_cluster_leader_changes_total", "orbit_cluster_replication_lag_ms", "orbit_raft_heartbeat_failures_total",
    "orbit_query_execution_duration_seconds", "orbit_query_rows_scanned_total", "orbit_query_cache_hits_total",
    "orbit_simd_operations_total",
}  # fmt: skip


def checked(*argv: str, environment: dict[str, str] | None = None) -> str:
    """Run a checker; return what it said. Fails the test with it when it is not content."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": PATH, "HOME": os.environ.get("HOME", "/")} | (environment or {}),
    )
    assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout}"
    return done.stdout


def compose_plugin() -> bool:
    if shutil.which("docker", path=PATH) is None:
        return False
    return subprocess.run(("docker", "compose", "version"), capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not compose_plugin(),
    reason="docker compose is not installed (deploy/compose/install-plugin.sh); test_compose.py still loads the files",
)
@pytest.mark.parametrize("further", [[], ["compose.regions.yaml"], ["compose.tls.yaml"]])
def test_docker_compose_accepts_the_files(further: list[str]) -> None:
    files = [argument for name in ["compose.yaml", *further] for argument in ("-f", str(COMPOSE / name))]
    said = checked("docker", "compose", *files, "config", "-q", environment=dict.fromkeys(SECRETS, "x"))
    assert said == "", "clean means: not even a warning"


def test_haproxy_accepts_its_file(tmp_path: Path) -> None:
    # Outside the containers' network the name `gateway` means nothing: looking it up 48 times only takes time.
    text = (COMPOSE / "haproxy.cfg").read_text()
    path = tmp_path / "haproxy.cfg"
    path.write_text(text.replace("init-addr libc,none", "init-addr none"))
    assert path.read_text() != text
    said = checked("haproxy", "-c", "-f", str(path))
    assert "WARNING" not in said
    assert "Configuration file is valid" in said


def test_prometheus_accepts_its_file_and_rules() -> None:
    checked("promtool", "check", "config", "--syntax-only", str(OBSERVABILITY / "prometheus.yml"))
    for rules in sorted((OBSERVABILITY / "rules").glob("*.yml")):
        assert "SUCCESS" in checked("promtool", "check", "rules", str(rules))


ALERTS: dict[str, tuple[dict[str, str], str]] = {
    "OrbitProcessDown": (
        {'up{job="orbit-engine",service="cdc",instance="cdc:9090"}': "0x20"},
        'service="cdc",instance="cdc:9090",job="orbit-engine"',
    ),
    "OrbitReplicationLagHigh": (
        {'orbit_cluster_replication_lag_ms{instance="node-2:9090"}': "6000x20"},
        'instance="node-2:9090"',
    ),
    "OrbitNodesMissing": (
        {
            'orbit_cluster_nodes_total{instance="node-1:9090"}': "2x20",
            'up{job="orbit-engine",service="storage",instance="node-1:9090"}': "1x20",
            'up{job="orbit-engine",service="storage",instance="node-2:9090"}': "1x20",
            'up{job="orbit-engine",service="storage",instance="node-3:9090"}': "1x20",
        },
        "",
    ),
    "OrbitLeadershipUnstable": ({"orbit_cluster_leader_changes_total": "0+1x20"}, ""),
    "OrbitAbortRateHigh": (
        {
            'orbit_transactions_total{status="committed"}': "0+600x40",
            'orbit_transactions_total{status="aborted"}': "0+600x40",
        },
        "",
    ),
    "OrbitGatewaysGone": ({'up{job="orbit-engine",service="gateway",instance="g:9090"}': "0x20"}, ""),
}


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_fires_on_what_it_is_for_and_not_before(alert: str, tmp_path: Path) -> None:
    series, labels = ALERTS[alert]
    document = yaml.safe_load((OBSERVABILITY / "rules" / "orbit.yml").read_text())
    rule = next(rule for group in document["groups"] for rule in group["rules"] if rule.get("alert") == alert)
    expected_labels = dict(re.findall(r'(\w+)="([^"]*)"', labels)) | rule["labels"]
    # What it says is not compared: only that it fires, for whom, and how loudly.
    rule["annotations"] = {}
    only = tmp_path / "only.yml"
    only.write_text(yaml.safe_dump({"groups": [{"name": "only", "rules": [rule]}]}))
    test = {
        "rule_files": [str(only)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "0m", "alertname": alert, "exp_alerts": []},
                    {"eval_time": "20m", "alertname": alert, "exp_alerts": [{"exp_labels": expected_labels}]},
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test))
    assert "SUCCESS" in checked("promtool", "test", "rules", str(path))


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads((OBSERVABILITY / "dashboard.json").read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def test_every_query_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert len(queries) > 20
    rules = [
        {"record": f"panel:query{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(queries)} rules found" in checked("promtool", "check", "rules", str(path))


def test_dashboard_has_the_guides_panels_and_metrics() -> None:
    titles = {panel["title"] for panel in panels()}
    assert {"Storage tier distribution", "Transaction throughput", "Query latency", "Replication lag"} <= titles
    rows = {one["title"] for one in json.loads((OBSERVABILITY / "dashboard.json").read_text())["panels"]}
    assert "Cluster health" in rows
    text = (OBSERVABILITY / "dashboard.json").read_text()
    assert {metric for metric in GUIDE_METRICS if metric not in text} == set()


def test_dashboard_and_alerts_name_no_metric_that_the_guide_does_not() -> None:
    text = (OBSERVABILITY / "dashboard.json").read_text() + (OBSERVABILITY / "rules" / "orbit.yml").read_text()
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\borbit_\w+", text)}
    assert named - GUIDE_METRICS == set()


def test_dashboard_panels_do_not_overlap_and_use_the_provisioned_source() -> None:
    source = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    known = {one["uid"] for one in source["datasources"]}
    cells: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["datasource"]["uid"] in known
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert cells.setdefault((x, y), panel["title"]) == panel["title"]
