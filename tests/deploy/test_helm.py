"""The Helm chart, rendered by the real helm, means the same as the manifests where both can say it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.flags import AGENT_FLAGS
from kubeproxy_py.config.load import load
from kubeproxy_py.config.types import AgentSettings, fields_of
from tests.config.build import all_fields, from_file
from tests.deploy.chart_files import FILES, README, readme, schema
from tests.deploy.manifests import BASE, DEPLOY, find, objects_of, pod_of
from tests.deploy.rendering import CHART, VALUES_FOLDER, by_name, chart_objects, helm, kustomize_objects, template
from tests.kubernetes_schemas import validate

TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
[VALUES] = objects_of(CHART / "values.yaml")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUE_FILES = sorted(VALUES_FOLDER.glob("*.yaml"))
VERSIONS = tuple(f"1.{minor}" for minor in range(27, 37))


def file_settings(path: Path) -> str:
    return f"--values={path}"


def test_helm_renders_the_manifest() -> None:
    assert by_name(chart_objects()) == by_name(objects_of(BASE))


def test_there_are_twelve_examples_of_values() -> None:
    assert len(VALUE_FILES) >= 12


@pytest.mark.parametrize("path", VALUE_FILES, ids=lambda path: path.stem)
def test_lint_accepts_the_values(path: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--set=apiServer=https://10.0.0.1:6443", file_settings(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("path", VALUE_FILES, ids=lambda path: path.stem)
def test_objects_are_valid_in_each_kubernetes_version(path: Path) -> None:
    objects = chart_objects(file_settings(path))
    for document in objects:
        for version in VERSIONS if not document["apiVersion"].startswith("monitoring.coreos.com/") else ():
            validate(document, version)
    assert any(document["kind"] == "DaemonSet" for document in objects)


@pytest.mark.parametrize("path", VALUE_FILES, ids=lambda path: path.stem)
def test_selector_matches_the_pods(path: Path) -> None:
    spec = find(chart_objects(file_settings(path)), "DaemonSet")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


# Values and an overlay of kustomize that mean the same; each file of the folder names its twin in the first line.


def twins() -> list[Any]:
    pattern = re.compile(r"# The same as (deploy/daemonset/\S+)")
    found = ((path, pattern.match(path.read_text())) for path in VALUE_FILES)
    return [pytest.param(path, match[1], id=path.stem) for path, match in found if match]


@pytest.mark.parametrize(("path", "folder"), twins())
def test_values_render_what_the_overlay_renders(path: Path, folder: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"  # kustomize requires relative paths
    inside.symlink_to(DEPLOY / "daemonset")
    name = "inside/" + folder.removeprefix("deploy/daemonset/")
    part = {"resources": ["inside/base"], "components": [name]} if "/components/" in folder else {"resources": [name]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(part))
    from_helm, from_kustomize = by_name(chart_objects(file_settings(path))), by_name(kustomize_objects(tmp_path))
    assert from_helm.keys() == from_kustomize.keys()
    for key, document in from_helm.items():
        assert document == from_kustomize[key], key


# Values that cannot work are refused, with the remedy.

REFUSED = {
    "no API server": ([], "apiServer: the API server's address as a node reaches it"),
    "API server without a scheme": (["--set=apiServer=10.0.0.1:6443"], "apiServer"),
    "another mode": (["--set=apiServer=https://a:6443,config.mode=iptables"], "must be 'ipvs'"),
    "misspelt value": (["--set=apiServer=https://a:6443,inti.enabled=false"], "inti"),
    "misspelt setting of the agent": (["--set=apiServer=https://a:6443,agent.drainDeadlin=1m"], "drainDeadlin"),
    "digest that is none": (["--set=apiServer=https://a:6443,image.digest=sha256:12"], "/image/digest"),
    "socket in the root folder, which would be mounted": (
        ["--set=apiServer=https://a:6443,agent.debugSocket=/debug.sock"],
        "/agent/debugSocket",
    ),
    "socket that is a folder": (["--set=apiServer=https://a:6443,agent.debugSocket=/run/agent/"], "/agent/debugSocket"),
    "PodMonitor of metrics on loopback": (
        ["--set=apiServer=https://a:6443,podMonitor.enabled=true"],
        "set config.metricsBindAddress, such as 0.0.0.0:10249",
    ),
    "ServiceMonitor of metrics on loopback": (
        ["--set=apiServer=https://a:6443,serviceMonitor.enabled=true,config.metricsBindAddress=127.0.0.1:10300"],
        "Prometheus cannot reach metrics at 127.0.0.1:10300",
    ),
    "PodMonitor and ServiceMonitor": (
        [
            "--set=apiServer=https://a:6443,config.metricsBindAddress=0.0.0.0:10249",
            "--set=podMonitor.enabled=true,serviceMonitor.enabled=true",
        ],
        "every agent is scraped twice",
    ),
    "misspelt alert": (
        ["--set=apiServer=https://a:6443,prometheusRule.enabled=true,prometheusRule.alerts.KubeproxyPySlo.for=1h"],
        "prometheusRule.alerts: there is no alert KubeproxyPySlo",
    ),
    "misspelt field of an alert": (
        ["--set=apiServer=https://a:6443,prometheusRule.alerts.KubeproxyPySlow.expression=1"],
        "/prometheusRule/alerts/KubeproxyPySlow",
    ),
    "misspelt field of the configuration": (
        ["--set=apiServer=https://a:6443,config.ipvs.strictArp=true"],
        "strictArp",
    ),
    "duration without a unit in the configuration": (
        ["--set=apiServer=https://a:6443,config.ipvs.syncPeriod=30"],
        "/config/ipvs/syncPeriod",
    ),
    "unknown scheduler": (["--set=apiServer=https://a:6443,config.ipvs.scheduler=random"], "/config/ipvs/scheduler"),
    "page that other machines reach": (["--set=apiServer=https://a:6443,agent.ui=0.0.0.0:10247"], "/agent/ui"),
    "beside kube-proxy": (
        ["--set=existingConfigMap=kube-proxy"],
        "the agent would run beside kube-proxy on every node",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_values_that_cannot_work_are_refused(settings: list[str], message: str) -> None:
    done = template(*settings)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize("setting", ["kubeProxyIsRemoved=true", "nodeSelector.kubeproxy-py/proxy=yes"])
def test_config_map_of_kube_proxy_is_accepted_for_nodes_that_it_has_left(setting: str) -> None:
    done = template("--set=existingConfigMap=kube-proxy", f"--set={setting}")
    assert done.returncode == 0, done.stderr


def test_mode_of_the_configuration_is_written_once() -> None:
    text = find(chart_objects("--set=config.mode=ipvs"), "ConfigMap")["data"]["config.conf"]
    assert re.findall(r"^mode: .*", text, re.MULTILINE) == ["mode: ipvs"]


def test_connection_settings_are_kept_beside_the_kubeconfig() -> None:
    text = find(chart_objects("--set=config.clientConnection.qps=20"), "ConfigMap")["data"]["config.conf"]
    expected = {"kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "qps": 20}
    assert yaml.safe_load(text)["clientConnection"] == expected


def test_settings_of_the_agent_become_flags() -> None:
    settings = "agent.drainDeadline=10m,agent.iptablesBackend=restore,agent.iptablesFlavour=nft,agent.trafficSeries=0"
    lists = "agent.removalConfirmPercent=0,agent.keepForeignVirtualServers=true,agent.reserveNodePorts=false"
    others = "agent.stateMaxAge=24h,agent.trafficServicesMax=50000,agent.ui=127.0.0.1:10247"
    policies = "agent.policies=exact,agent.policyMarkMask=0x3ff,agent.nodePortRange=30000-30999,agent.watchNodes=true"
    network = "agent.serviceCIDR=10.96.0.0/12\\,fd00:10:96::/108"
    sets = [f"--set={values}" for values in (settings, lists, others, policies, network)]
    [container] = pod_of(find(chart_objects(*sets, "--set=extraArgs={--v=2}"), "DaemonSet"))["containers"]
    flags = (
        "--state-max-age=24h",
        "--drain-deadline=10m",
        "--policies=exact",
        "--policy-mark-mask=0x3ff",
        "--service-cidr=10.96.0.0/12,fd00:10:96::/108",
        "--node-port-range=30000-30999",
        "--watch-nodes",
        "--iptables-backend=restore",
        "--iptables-flavour=nft",
        "--traffic-series=0",
        "--traffic-services-max=50000",
        "--removal-confirm-percent=0",
        "--keep-foreign-virtual-servers",
        "--reserve-node-ports=false",
        "--ui=127.0.0.1:10247",
        "--v=2",
    )
    assert [argument for argument in container["args"] if argument in flags] == list(flags)


def test_each_setting_of_the_agent_is_a_value() -> None:
    """Without those that name another source, or make the agent do something else than serve."""
    others = {"master", "manifests", "cleanup", "initOnly", "writeConfigTo"}
    assert {field.key for field in fields_of(AgentSettings)} - others == set(VALUES["agent"])
    [container] = pod_of(find(chart_objects("--set=agent.ui=127.0.0.1:10247"), "DaemonSet"))["containers"]
    named = {word.removeprefix("--").partition("=")[0] for word in container["args"]}
    assert named <= {flag.name for flag in AGENT_FLAGS} | {"config", "hostname-override"}


def test_ports_follow_the_configuration() -> None:
    settings = "--set=config.metricsBindAddress=0.0.0.0:10300,config.healthzBindAddress=0.0.0.0:10301"
    [container] = pod_of(find(chart_objects(settings), "DaemonSet"))["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"healthz": 10301, "metrics": 10300}


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("0.0.0.0", 10249),
        ("fd00::1", 10249),
        ("::", 10249),
        ("[::]:9999", 9999),
        (":9999", 9999),
        ("node-a:9999", 9999),
    ],
)
def test_port_is_the_default_where_the_configuration_names_an_address_only(address: str, port: int) -> None:
    objects = chart_objects(f"--set-string=config.metricsBindAddress={address}")
    [container] = pod_of(find(objects, "DaemonSet"))["containers"]
    ports = {"healthz": 10256, "metrics": port}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports


def test_options_of_selinux_are_those_of_the_component(tmp_path: Path) -> None:
    (tmp_path / "inside").symlink_to(DEPLOY)  # kustomize requires relative paths
    part: dict[str, Any] = {"components": ["inside/daemonset/components/selinux"]}
    found = []
    for folder in ("daemonset/base", "preflight", "cleanup"):
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"inside/{folder}"], **part}))
        found += [pod_of(item) if item["kind"] == "DaemonSet" else item["spec"]
                  for item in kustomize_objects(tmp_path) if item["kind"] in ("DaemonSet", "Pod")]  # fmt: skip
    pods = [pod_of(find(chart_objects("--set=seLinuxOptions.type=spc_t"), "DaemonSet")), *found]
    options = [pod["containers"][0]["securityContext"]["seLinuxOptions"] for pod in pods]
    assert options == [{"type": "spc_t"}] * 4


def test_image_may_be_named_by_digest() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    pod = pod_of(find(chart_objects(f"--set=image.digest={digest},image.tag=ignored"), "DaemonSet"))
    images = {container["image"] for container in (*pod["containers"], *pod["initContainers"])}
    assert images == {f"{VALUES['image']['repository']}@{digest}"}


def test_notes_warn_of_the_placeholder_image() -> None:
    settings = ["--dry-run=client", "--namespace=kube-system", "--set=apiServer=https://a:6443"]
    assert "is the placeholder" in helm("install", "kubeproxy-py", str(CHART), *settings).stdout
    own = helm("install", "kubeproxy-py", str(CHART), *settings, "--set=image.repository=registry.example/proxy").stdout
    assert "placeholder" not in own
    assert "rollout status daemonset/kubeproxy-py" in own


# What Prometheus gets


def rule_groups(*settings: str) -> list[Any]:
    rule = find(chart_objects("--set=prometheusRule.enabled=true", *settings), "PrometheusRule")
    return list(rule["spec"]["groups"])


def alert(groups: list[Any], name: str) -> Any:
    return next((rule for group in groups for rule in group["rules"] if rule.get("alert") == name), None)


def test_rules_are_those_of_the_monitoring_folder() -> None:
    [shipped] = objects_of(DEPLOY / "monitoring/rules.yaml")
    assert rule_groups() == shipped["groups"]


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_rules_select_the_job_that_the_monitor_names(monitor: str) -> None:
    settings = f"config.metricsBindAddress=0.0.0.0:10249,{monitor}.enabled=true,{monitor}.jobName=service-proxy"
    expressions = [rule["expr"] for group in rule_groups(f"--set={settings}") for rule in group["rules"]]
    selected = {job for expression in expressions for job in re.findall(r'job="([^"]*)"', expression)}
    assert selected == {"service-proxy"}


def test_single_alerts_can_be_changed_and_left_out(tmp_path: Path) -> None:
    changes = {
        "KubeproxyPySlow": {"expr": "vector(1) > 30", "for": "1h", "labels": {"severity": "info", "team": "network"}},
        "KubeproxyPyRestarts": {"enabled": False},
    }
    own = [{"name": "ours", "rules": [{"alert": "Ours", "expr": "vector(1)"}]}]
    values = {"prometheusRule": {"alerts": changes, "extraGroups": own, "runbookUrl": "https://wiki.example/proxy"}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    groups, shipped = rule_groups(file_settings(tmp_path / "values.yaml")), rule_groups()
    slow = alert(groups, "KubeproxyPySlow")
    assert (slow["expr"], slow["for"]) == ("vector(1) > 30", "1h")
    assert slow["labels"] == {"severity": "info", "team": "network"}
    assert slow["annotations"]["runbook_url"] == "https://wiki.example/proxy#kubeproxypyslow"
    assert slow["annotations"]["summary"] == alert(shipped, "KubeproxyPySlow")["annotations"]["summary"]
    assert alert(shipped, "KubeproxyPyRestarts")
    assert alert(groups, "KubeproxyPyRestarts") is None
    assert groups[-1:] == own


def test_notes_warn_of_metrics_that_an_existing_config_map_may_keep_on_loopback() -> None:
    settings = ["--dry-run=client", "--namespace=kube-system", "--set=existingConfigMap=own"]
    assert "Prometheus gets no metrics" not in helm("install", "kubeproxy-py", str(CHART), *settings).stdout
    notes = helm("install", "kubeproxy-py", str(CHART), *settings, "--set=podMonitor.enabled=true").stdout
    assert "Prometheus gets no metrics unless metricsBindAddress in that ConfigMap" in notes


# The schema of the configuration is the agent's reading of it

_TEXTS = ("", "x", "30s", "rr", "text", "1.35", "10.0.0.0/8", "NodeCIDR")
_PROBES: tuple[Any, ...] = (True, 0, 1, 1.5, *_TEXTS, [], ["10.0.0.0/8"], {})


@pytest.mark.parametrize("path", [path for path, _ in all_fields()])
def test_schema_accepts_what_the_agent_accepts_and_no_other_type(path: str) -> None:
    for probe in _PROBES:
        try:
            from_file({path: probe})
            refusal = ""
        except ConfigError as error:
            refusal = str(error)
        accepted = jsonschema.Draft7Validator(SCHEMA["properties"]["config"]).is_valid(nested(path, probe))
        if not refusal:
            assert accepted, probe
        elif "expected" in refusal:  # another type
            assert not accepted, (probe, refusal)


def nested(path: str, value: Any) -> Any:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("number", [1048576, 2147483647])
def test_large_numbers_reach_the_configuration_as_integers(number: int, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"config": {"conntrack": {"min": number}}}))
    for setting in (file_settings(tmp_path / "values.yaml"), f"--set=config.conntrack.min={number}"):
        text = find(chart_objects(setting), "ConfigMap")["data"]["config.conf"]
        assert load({"config": "x"}, text.encode()).config.conntrack.min == number


# The files of the chart


def test_files_of_the_chart_are_those_of_the_monitoring_folder() -> None:
    for path, source in FILES.items():
        assert path.read_text() == source.read_text(), "hint: make chart"


def test_readme_of_the_chart_is_generated_from_its_values() -> None:
    assert README.read_text() == readme(), "hint: make chart, and read the diff"


def test_schema_of_the_configuration_is_generated_from_its_fields() -> None:
    assert schema() == SCHEMA, "hint: make chart"


def values_named() -> set[tuple[str, ...]]:
    return {tuple(path.split(".")) for text in TEMPLATES.values() for path in re.findall(r"\.Values\.([\w.]+)", text)}


def test_each_value_of_a_template_has_a_default() -> None:
    for path in values_named() - {
        ("config", name) for name in ("metricsBindAddress", "healthzBindAddress", "clientConnection")
    }:
        value: Any = VALUES
        for word in path:
            assert word in value, ".".join(path)
            value = value[word]


def test_each_value_is_used_by_a_template() -> None:
    assert {path[0] for path in values_named()} == set(VALUES)


def test_schema_knows_exactly_the_values_that_exist() -> None:
    jsonschema.validate(VALUES, SCHEMA)
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)
    for name, part in SCHEMA["properties"].items():
        if (
            part.get("additionalProperties") is False
            and VALUES[name]
            and not name.endswith("Probe")
            and name != "config"
        ):
            assert set(part["properties"]) == set(VALUES[name]), name


def test_chart_is_for_every_release_of_which_a_server_was_recorded() -> None:
    [chart] = objects_of(CHART / "Chart.yaml")
    recorded = (DEPLOY.parent / "tests/recorded_objects").glob("1.*.json.gz")
    oldest = min(int(path.name.split(".")[1]) for path in recorded)
    assert chart["kubeVersion"] == f">=1.{oldest}.0-0"


def test_icon_is_a_file_of_the_repository() -> None:
    [chart] = objects_of(CHART / "Chart.yaml")
    assert (DEPLOY.parent / "docs" / Path(chart["icon"]).name).exists()
