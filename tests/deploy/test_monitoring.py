"""The rules and the dashboard of deploy/monitoring are valid and use existing metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kubeproxy_py.metrics.definitions import METRICS
from lab import prometheus
from lab.job import REPOSITORY
from tests.deploy.manifests import DEPLOY, Object, objects_of

RULES = DEPLOY / "monitoring/rules.yaml"
UNIT_TESTS = Path(__file__).parent / "rules/alerts.test.yaml"
DASHBOARD = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
HOME = "https://github.com/example/kubeproxy-py"
_NAME = re.compile(r"\b(?:kubeproxy|process|rest_client|kubernetes)_\w+")
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def rules() -> list[Object]:
    [document] = objects_of(RULES)
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts() -> list[Object]:
    return [rule for rule in rules() if "alert" in rule]


def records() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def metrics_of(expression: str) -> set[str]:
    """Return the metrics in *expression*, without those that the rules themselves record."""
    for record in records():
        expression = expression.replace(record, "")
    return {_without_suffix(name) for name in _NAME.findall(expression)}


def _without_suffix(name: str) -> str:
    bare = _SUFFIX.sub("", name)
    return bare if METRICS.get(bare) and METRICS[bare].type == "histogram" else name


def test_rules_for_the_prometheus_operator_are_the_same() -> None:
    [prometheus_rule] = objects_of(DEPLOY / "daemonset/components/monitoring/rules.yaml")
    assert [prometheus_rule["spec"]] == objects_of(RULES)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_metrics_of_a_rule_exist(rule: Object) -> None:
    assert metrics_of(rule["expr"]) <= set(METRICS)


@pytest.mark.parametrize("query", list(queries()))
def test_metrics_of_a_panel_exist(query: str) -> None:
    assert metrics_of(query) <= set(METRICS)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_has_a_runbook_section(alert: Object) -> None:
    address, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert address == f"{HOME}/blob/main/docs/troubleshooting.md", "a relative URL leads nowhere from Alertmanager"
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings


def test_each_alert_has_a_unit_test_that_fires_and_one_that_does_not() -> None:
    tests = [
        test for case in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for test in case.get("alert_rule_test", ())
    ]
    names = {alert["alert"] for alert in alerts()}
    assert {test["alertname"] for test in tests if test.get("exp_alerts")} == names
    assert {test["alertname"] for test in tests if not test.get("exp_alerts")} == names


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in rules()), *queries()])
def test_nodes_of_two_clusters_are_not_added_up(expression: str) -> None:
    """They may have one name, and the alerts of a Prometheus for many clusters must say which."""
    kept = re.findall(r" by \(([^)]*)\)", expression)
    by_node = [labels for labels in kept if re.search(r"\b(?:job|instance)\b", labels)]
    assert [labels for labels in by_node if not labels.startswith("cluster, ")] == []


def test_alerts_do_not_collide_with_kubernetes_mixin() -> None:
    """Its rules for kube-proxy work beside ours.  Source: kubernetes-mixin, alerts and dashboards/proxy."""
    mixin = {"KubeProxyDown", "KubeClientErrors", "KubeVersionMismatch"}
    assert not mixin & {alert["alert"] for alert in alerts()}
    for metric in (
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "kubeproxy_network_programming_duration_seconds",
        "rest_client_requests_total",
        "rest_client_request_duration_seconds",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ):
        assert metric in METRICS


def test_panels_do_not_overlap_and_have_unique_ids() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_panels_work_without_the_recording_rules_and_in_each_cluster() -> None:
    for query in queries():
        assert not [record for record in records() if record in query], query
        selectors = re.findall(r"\{([^}]*)\}", query)
        assert selectors
        assert all(text.startswith('cluster=~"$cluster", job="$job", instance=~"$instance"') for text in selectors), (
            query
        )
    [cluster] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "cluster"]
    assert (cluster["includeAll"], cluster["allValue"]) == (True, ".*"), "also where there is no label cluster"


def test_each_single_figure_is_coloured_by_thresholds() -> None:
    stats = [panel for panel in DASHBOARD["panels"] if panel["type"] == "stat"]
    assert len(stats) >= 8
    for panel in stats:
        defaults = panel["fieldConfig"]["defaults"]
        values = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])
        assert len(values) > 1, panel["title"]
        assert defaults["color"] == {"mode": "thresholds"}


@pytest.mark.parametrize(
    "metric",
    [
        "kubeproxy_ipvs_event_to_kernel_duration_seconds",
        "kubeproxy_ipvs_dropped_log_lines_total",
        "kubeproxy_ipvs_failed_steps_total",
        "kubeproxy_proxy_healthz_total",
        "kubeproxy_ipvs_conntrack_entries",
        "kubeproxy_ipvs_unserved_service_ports",
    ],
)
def test_dashboard_shows_what_an_operator_asks_for(metric: str) -> None:
    assert any(metric in metrics_of(query) for query in queries())


# By promtool, which `make lab` unpacks


def promtool(*words: str | Path) -> str:
    done = subprocess.run([prometheus.program("promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.lab
def test_promtool_accepts_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


@pytest.mark.lab
def test_promtool_unit_tests_of_the_alerts_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", UNIT_TESTS)


@pytest.mark.lab
def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [query.replace("$__rate_interval", "5m") for query in queries()]
    rules_of_panels = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(expressions)]
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules_of_panels}]}))
    promtool("check", "rules", path)
