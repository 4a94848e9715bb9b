"""Alerts, scrapes and dashboard, checked by Prometheus' own tool and against the gateway's own metrics."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from roost.artifact import Data, Input, Manifest
from roost_serving.metrics import Metrics

KEYWORDS = {
    "absent", "and", "avg_over_time", "by", "count", "for", "histogram_quantile", "increase", "max", "min", "on", "or",
    "rate", "sum", "unless", "without",
}  # fmt: skip
PROMETHEUS_ITSELF = {"up"}


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Label names by series name, of a gateway on which everything happened once."""
    metrics = Metrics()
    sizes = Input(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
    data = Data(fingerprint="f", images=1)
    metrics.serve_model(
        Manifest(name="digits", method="simclr", encoder="resnet18", input=sizes, dim=2, data=data),
    )
    metrics.stage("decode", 0.1, model="digits@1")
    metrics.embedded("digits@1", ok=1, failed=1)
    metrics.stored(1)
    metrics.ready.labels("store").set(1)
    labels = ("unary", "roost.v1.GatewayService", "EmbedItems")
    metrics.started.labels(*labels).inc()
    metrics.handled.labels(*labels, "OK").inc()
    metrics.handling.labels(*labels).observe(0.1)
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def rules(root) -> dict:
    return yaml.safe_load((root / "deploy/prometheus/alerts.yml").read_text())


@pytest.fixture(scope="module")
def dashboard(root) -> dict:
    return json.loads((root / "deploy/grafana/roost.json").read_text())


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_is_content(command, root):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in its package prometheus")
    folder = root / "deploy/prometheus"
    result = subprocess.run([promtool, *command.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_test(rules, root):
    tests = yaml.safe_load((root / "deploy/prometheus/alerts_test.yml").read_text())
    tested = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"]}
    fires = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert tested == fires == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_alerts_use_only_metrics_and_labels_that_the_gateway_has(rules, exposed):
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        _check_expression(rule["expr"], exposed)


def test_the_dashboard_uses_only_metrics_and_labels_that_the_gateway_has(dashboard, exposed):
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            _check_expression(target["expr"], exposed)


def test_the_dashboards_expressions_are_promql(dashboard, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in its package prometheus")
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    recorded = [
        {"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "1m")}
        for i, expression in enumerate(targets)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    command = [promtool, "check", "rules", tmp_path / "rules.yml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dashboards_panels_cover_no_other_and_explain_themselves(dashboard):
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(panel["description"].endswith(".") for panel in dashboard["panels"])


def test_the_chart_ships_the_same_alerts_and_dashboard(render, rules, dashboard):
    values = {"monitoring": {name: {"enabled": True} for name in ("prometheusRule", "dashboard")}}
    documents = {doc["kind"]: doc for doc in render(values) if doc["metadata"]["name"].endswith(("roost", "dashboard"))}
    assert documents["PrometheusRule"]["spec"] == rules
    assert json.loads(documents["ConfigMap"]["data"]["roost.json"]) == dashboard


def test_the_scraped_jobs_have_the_names_that_the_chart_gives(root, render):
    scraped = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    monitors = [
        doc["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
        for doc in render({"monitoring": {"serviceMonitor": {"enabled": True}}, "qdrant": {"existingSecret": "key"}})
        if doc["kind"] == "ServiceMonitor"
    ]
    assert {job["job_name"] for job in scraped} == set(monitors)


def _check_expression(expression: str, exposed: dict[str, set[str]]) -> None:
    plain = re.sub(r'"[^"]*"', '""', expression)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", plain))
    labels |= {name.strip() for group in re.findall(r"\bby \(([^)]*)\)", plain) for name in group.split(",")}
    outside = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", plain)
    metrics = set(re.findall(r"\b[a-z_]\w*\b", outside)) - KEYWORDS
    assert metrics, expression
    assert metrics <= set(exposed) | PROMETHEUS_ITSELF, expression
    known = set().union(*(exposed.get(name, {"job"}) for name in metrics))
    assert labels <= known | {"job"}, expression
