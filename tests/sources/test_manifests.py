"""A folder of manifests: reading, changes, incomplete and invalid files, and bounds."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    PeerDeleted,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.manifests import folder as folder_module
from kubeproxy_py.sources.manifests import yaml_documents
from kubeproxy_py.sources.manifests.folder import Folder
from kubeproxy_py.sources.manifests.parse import parse_manifest
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.sources.manifest_objects import Json, endpoint_slice, node, service

LABELS = {"pool": "large", "a.b/gpu": "", "other": "x"}


def text_of(*documents: Json) -> str:
    return yaml.safe_dump_all(documents)


def summary(events: list[Event]) -> list[str]:
    """Return each event in a few words."""
    words = []
    for event in events:
        match event:
            case ServiceUpserted(service):
                words.append(f"+ {service.name} {','.join(str(port.port) for port in service.ports)}")
            case SliceUpserted(slice_):
                words.append(f"+ {slice_.name}")
            case ServiceDeleted(name) | SliceDeleted(name):
                words.append(f"- {name}")
            case NodeUpserted(node):
                words.append(f"+ node {node.name}")
            case PeerUpserted(name):
                words.append(f"+ peer {name}")
            case Synced(feed):
                words.append(f"synced {feed}")
            case Problem():
                words.append(f"! {event}")
            case _:
                raise AssertionError(event)
    return words


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


def folder(directory: Path) -> ManifestSource:
    return ManifestSource(str(directory), "node-a")


def poll_new_source(directory: Path) -> list[str]:
    """Return the events of a new source for *directory*, without Synced."""
    return [words for words in summary(folder(directory).poll()) if not words.startswith("synced")]


# Contents of files


def test_yaml_documents_and_json_objects_are_read(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service("web"), endpoint_slice("web-1")))
    (directory / "b.json").write_text(json.dumps(service("api")))
    (directory / "c.yml").write_text(text_of(service("db")))
    assert poll_new_source(directory) == ["+ shop/web 80", "+ shop/web-1", "+ shop/api 80", "+ shop/db 80"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize(
    "kind",
    [{"apiVersion": "v1", "kind": "List"}, {"apiVersion": "v1", "kind": "ServiceList"}],
    ids=lambda kind: kind["kind"],
)
def test_items_of_lists_are_read(directory: Path, suffix: str, kind: Json) -> None:
    items = [service("web"), service("api")]
    (directory / f"a.{suffix}").write_text(json.dumps({**kind, "items": items}))
    assert poll_new_source(directory) == ["+ shop/web 80", "+ shop/api 80"]


def test_items_of_a_typed_list_need_no_kind(directory: Path) -> None:
    bare = {key: part for key, part in endpoint_slice().items() if key not in ("apiVersion", "kind")}
    of_slices = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [bare]}
    (directory / "a.json").write_text(json.dumps(of_slices))
    assert poll_new_source(directory) == ["+ shop/web-1"]


def test_hidden_files_other_files_and_folders_are_ignored(directory: Path) -> None:
    (directory / ".a.yaml").write_text(text_of(service()))
    (directory / "README.md").write_text("{")
    (directory / "sub.yaml").mkdir()
    (directory / "b.yaml").write_text(text_of(service()))
    assert poll_new_source(directory) == ["+ shop/web 80"]


def test_other_kinds_are_ignored_even_of_the_same_name(directory: Path) -> None:
    knative = {**service("web"), "apiVersion": "serving.knative.dev/v1"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    (directory / "a.yaml").write_text(text_of(knative, deployment, service("api")))
    assert poll_new_source(directory) == ["+ shop/api 80"]


def test_nodes_other_than_that_of_this_host_are_peers_only(directory: Path) -> None:
    mistyped = node("node-b", labels={"topology.kubernetes.io/zone": 5})
    (directory / "a.yaml").write_text(text_of(mistyped, node("node-a"), node("node-c")))
    read = [words for words in poll_new_source(directory) if not words.startswith("!")]
    assert read == ["+ node node-a", "+ peer node-a", "+ peer node-c"]


def peers(source: ManifestSource) -> list[Event]:
    return [event for event in source.poll() if not isinstance(event, NodeUpserted)]


def test_labels_of_nodes_are_read_again_when_others_are_needed(directory: Path) -> None:
    (directory / "nodes.yaml").write_text(text_of(*(node(name, labels=LABELS) for name in ("node-a", "node-b"))))
    (directory / "web.yaml").write_text(text_of(service()))
    source = folder(directory)
    assert {event.labels for event in source.poll() if isinstance(event, PeerUpserted)} == {()}
    for keys, labels in (({"pool", "none"}, ("pool=large",)), ({"a.b/gpu", "pool"}, ("a.b/gpu=", "pool=large"))):
        source.watch_peers(PeerNeeds(labels=frozenset(keys)))
        assert peers(source) == [PeerUpserted(name, (), labels) for name in ("node-a", "node-b")]
        assert source.poll() == []
    (directory / "nodes.yaml").write_text(text_of(node("node-a", labels={**LABELS, "other": "changed"})))
    assert source.poll() == [PeerDeleted("node-b")]
    source.watch_peers(NO_NEEDS)
    assert peers(source) == [PeerUpserted("node-a", (), ())]


def test_label_of_a_node_that_is_no_text_is_named_and_the_others_are_used(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(node("node-b", labels={"pool": 5, "disk": "ssd"})))
    source = folder(directory)
    source.poll()
    source.watch_peers(PeerNeeds(labels=frozenset({"pool", "disk"})))
    problem, upserted = source.poll()
    assert upserted == PeerUpserted("node-b", (), ("disk=ssd",))
    where = "a.yaml, document 1: Node node-b: metadata.labels[pool]"
    assert str(problem) == f"{where}: is not text (put the value in quotes)"


def test_read_once_reads_the_labels_that_the_weights_of_its_services_name(directory: Path) -> None:
    weighted = service()
    weighted["metadata"]["annotations"] = {"kubeproxy-py.io/weights": "pool=large:3"}
    (directory / "a.yaml").write_text(text_of(node("node-b", labels=LABELS), weighted))
    events = folder(directory).read_once(0.0, lambda _problem: None)
    assert PeerUpserted("node-b", (), ("pool=large",)) in events
    assert events[-1] == Synced("peers"), "nobody waits for more"


def test_missing_namespace_is_default(directory: Path) -> None:
    bare = {**service(), "metadata": {"name": "web"}}
    (directory / "a.yaml").write_text(text_of(bare))
    assert poll_new_source(directory) == ["+ default/web 80"]


def test_synced_is_returned_by_the_first_poll_only(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    assert summary(source.poll()) == ["+ shop/web 80", "synced services", "synced slices", "synced node"]
    assert source.poll() == []


def test_endpoints_become_slices(directory: Path) -> None:
    subsets = [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 8091}]}]
    body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "games"}, "subsets": subsets}
    (directory / "a.yaml").write_text(text_of(body))
    assert poll_new_source(directory) == ["+ default/endpoints/games/0/IPv4"]


# Changes


def test_poll_returns_only_changes(directory: Path) -> None:
    source = folder(directory)
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source.poll()
    path.write_text(text_of(service("web", 81), service("api")))
    assert summary(source.poll()) == ["+ shop/web 81"]


def test_objects_removed_from_a_file_or_with_a_file_are_deleted(directory: Path) -> None:
    source = folder(directory)
    (directory / "a.yaml").write_text(text_of(service("web"), endpoint_slice()))
    (directory / "b.yaml").write_text(text_of(service("api")))
    source.poll()
    (directory / "a.yaml").write_text(text_of(endpoint_slice()))
    (directory / "b.yaml").unlink()
    assert sorted(summary(source.poll())) == ["- shop/api", "- shop/web"]


def test_object_moved_between_files_is_never_deleted(directory: Path) -> None:
    source = folder(directory)
    (directory / "a.yaml").write_text(text_of(service("web"), service("api")))
    source.poll()
    (directory / "a.yaml").write_text(text_of(service("api")))
    (directory / "b.yaml").write_text(text_of(service("web")))
    assert source.poll() == []


def test_configmap_volume_is_read_again_when_its_data_link_is_renamed(directory: Path) -> None:
    for version, port in (("..v1", 80), ("..v2", 81)):
        (directory / version).mkdir()
        (directory / version / "a.yaml").write_text(text_of(service("web", port)))
    (directory / "..data").symlink_to("..v1")
    (directory / "a.yaml").symlink_to("..data/a.yaml")
    source = folder(directory)
    assert "+ shop/web 80" in summary(source.poll())
    (directory / "..data_tmp").symlink_to("..v2")
    (directory / "..data_tmp").rename(directory / "..data")
    assert summary(source.poll()) == ["+ shop/web 81"]


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0.0, ["+ shop/web 81"]), (0.02, ["+ shop/web 81"]), (1.5, []), (-3600.0, [])]
)
def test_file_is_read_again_if_it_was_too_new_to_show_a_change(
    directory: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, expected: list[str]
) -> None:
    now_s = time.time()
    changed_ns = int((now_s - age_s) * 1e9) | 1
    monkeypatch.setattr(folder_module, "time", SimpleNamespace(time=lambda: now_s))
    monkeypatch.setattr(Folder, "_list", lambda self: {"a.yaml": (1, 1, 1, 1, changed_ns)})
    (directory / "a.yaml").write_text(text_of(service("web", 80)))
    polled = Folder(str(directory), "node-a")
    polled.poll()
    (directory / "a.yaml").write_text(text_of(service("web", 81)))  # as long, and within the same tick
    assert summary(polled.poll(complete=()).events) == expected


def test_problem_is_reported_once_although_the_file_is_read_again(directory: Path) -> None:
    (directory / "web.yaml").write_text(text_of(service(port=70000)))
    seen = Folder(str(directory), "node-a")
    first = [event for event in seen.poll().events if isinstance(event, Problem)]
    again = [event for event in seen.poll().events if isinstance(event, Problem)]
    assert (len(first), again) == (1, [])


def test_unchanged_file_is_not_read_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    time.sleep(0.06)
    source.poll()

    def refuse(path: Path, _limit_bytes: int) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(folder_module, "read_bounded", refuse)
    assert source.poll() == []


def test_object_in_two_files_is_read_from_the_first_by_name(directory: Path) -> None:
    (directory / "b.yaml").write_text(text_of(service("web", 81)))
    (directory / "a.yaml").write_text(text_of(service("web", 80)))
    source = folder(directory)
    expected = "! b.yaml: Service shop/web: metadata.name: is also in a.yaml (the one in a.yaml is used)"
    assert summary(source.poll())[:2] == ["+ shop/web 80", expected]
    (directory / "a.yaml").unlink()
    assert summary(source.poll()) == ["+ shop/web 81"]


def test_object_that_occurs_twice_in_a_file_is_a_problem(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service("web", 80), service("web", 81)))
    assert poll_new_source(directory) == [
        "! a.yaml, document 2: Service shop/web: metadata.name: occurs more than once in this file "
        "(the first one is used)",
        "+ shop/web 80",
    ]


# Incomplete files


def test_file_that_may_be_incomplete_is_read_once_two_polls_found_it_unchanged(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    polled = Folder(str(directory), "node-a")
    polled.poll()
    path.write_text("")  # a writer has truncated it
    first = polled.poll(complete=())
    path.write_text(text_of(service("web"), service("api", 81)))
    second, third, fourth = polled.poll(complete=()), polled.poll(complete=()), polled.poll(complete=())
    assert [summary(look.events) for look in (first, second, third, fourth)] == [[], [], ["+ shop/api 81"], []]
    assert [look.settled for look in (first, second, third, fourth)] == [False, False, True, True]


def test_file_known_to_be_complete_is_read_at_once(directory: Path) -> None:
    polled = Folder(str(directory), "node-a")
    polled.poll()
    (directory / "a.yaml").write_text(text_of(service()))
    assert summary(polled.poll(complete=("a.yaml",)).events) == ["+ shop/web 80"]


def test_file_is_removed_only_when_two_polls_did_not_find_it(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service()))
    (directory / "b.yaml").write_text(text_of(service("api")))
    polled = Folder(str(directory), "node-a")
    polled.poll()
    path.rename(directory / "a.yaml~")  # as an editor does before it writes the new file
    assert polled.poll(complete=("a.yaml~",)).events == []
    assert summary(polled.poll(complete=()).events) == ["- shop/web"]


# Invalid files


def test_invalid_object_is_named_and_does_not_affect_others(directory: Path) -> None:
    (directory / "games.yaml").write_text(text_of(service("a"), service("b"), service("c", 70000)))
    where = "games.yaml, document 3: Service shop/c"
    assert poll_new_source(directory) == [
        f"! {where}: spec.ports[0].port: 70000 is not a port (1 to 65535)",
        "+ shop/a 80",
        "+ shop/b 80",
    ]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("kind", ["List", "ServiceList"])
@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"items": "oops"}, "items: expected array, got string"),
        ({"items": {}}, "items: expected array, got"),
        ({"items": None}, "items: is null (write items: [] for an empty list)"),
        ({"item": []}, "items: is missing (write items: [] for an empty list)"),
    ],
)
def test_list_without_valid_items_deletes_nothing(
    directory: Path, suffix: str, kind: str, broken: Json, problem: str
) -> None:
    path = directory / f"a.{suffix}"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": kind, "items": [service()]}))
    source = folder(directory)
    assert "+ shop/web 80" in summary(source.poll())
    path.write_text(json.dumps({"apiVersion": "v1", "kind": kind, **broken}))
    (line,) = summary(source.poll())
    assert line.startswith(f"! a.{suffix}") and problem in line


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_empty_list_deletes_what_it_contained(directory: Path, suffix: str) -> None:
    path = directory / f"a.{suffix}"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service()]}))
    source = folder(directory)
    source.poll()
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": []}))
    assert summary(source.poll()) == ["- shop/web"]


def test_invalid_item_of_a_list_is_named_and_does_not_affect_others(directory: Path) -> None:
    items = [service("a"), service("b", "80"), 5]
    (directory / "a.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    where = "a.json, item 2: Service shop/b"
    assert poll_new_source(directory) == [
        f"! {where}: spec.ports[0].port: expected integer, got string (write an integer, without quotes)",
        "! a.json, item 3: expected object, got integer (write fields, each with a name)",
        "+ shop/a 80",
    ]


def test_invalid_yaml_is_reported_with_its_line_and_does_not_affect_other_documents(directory: Path) -> None:
    text = text_of(service("a")) + "---\na: b\nc: [1,\n---\n" + text_of(service("b"))
    (directory / "a.yaml").write_text(text)
    line = text[: text.index("c: [1")].count("\n") + 1
    problem, *others = poll_new_source(directory)
    assert problem.startswith("! a.yaml, document 2: line ")
    assert int(problem.split("line ")[1].split(":")[0]) in (line, line + 1)
    assert others == ["+ shop/a 80", "+ shop/b 80"]


@pytest.mark.parametrize("broken", [service("web", 70000), service("web", "80"), service("web", clusterIP="x")])
def test_invalid_object_keeps_its_last_valid_version(directory: Path, broken: Json) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source = folder(directory)
    source.poll()
    path.write_text(text_of(broken, service("api", 81)))
    problem, *others = summary(source.poll())
    assert problem.startswith("! a.yaml, document 1: Service shop/web: ")
    assert [f"! {rejected}" for rejected in source.rejected()] == [problem]
    assert others == ["+ shop/api 81"]
    path.write_text(text_of(service("web", 82), service("api", 81)))
    assert summary(source.poll()) == ["+ shop/web 82"]
    assert source.rejected() == ()


@pytest.mark.parametrize("text", ["{", "a: [", "\x00", "- 1", "kind: Service", "a: !!python/object:os.system {}"])
def test_unreadable_document_deletes_no_object(directory: Path, text: str) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source = folder(directory)
    source.poll()
    path.write_text(text_of(service("api", 81)) + "---\n" + text)
    problem, *others = summary(source.poll())
    assert problem.startswith("! a.yaml, document 2: ")
    assert others == ["+ shop/api 81"]


def test_truncated_json_file_deletes_no_object(directory: Path) -> None:
    path = directory / "a.json"
    text = json.dumps(service("web"))
    path.write_text(text)
    source = folder(directory)
    source.poll()
    path.write_text(text[:-10])
    assert summary(source.poll()) == ["! a.json: is not JSON: Input data was truncated"]


@pytest.mark.parametrize("text", ["", "# empty\n---\n", " \n\t\n"])
def test_emptied_file_keeps_its_objects_until_it_is_deleted(directory: Path, text: str) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web")))
    source = folder(directory)
    source.poll()
    path.write_text(text)
    (line,) = summary(source.poll())
    assert line.startswith("! a.yaml: contains nothing any more") and "delete the file" in line
    path.unlink()
    assert summary(source.poll())[-1] == "- shop/web"


@pytest.mark.parametrize(
    "mistake",
    [
        {"kind": "Svc"},
        {"kind": "service"},
        {"kind": "Servcie"},
        {"kind": "Unheard"},
        {"kind": None},
        {"apiVersion": "v2"},
        {"apiVersion": "apps/v1"},
        {"apiVersion": None},
        {"spec": {"clusterIP": "10.96.0.10"}},
        {"spec": {"clusterIP": "10.96.0.10", "ports": None}},
        {"spec": {"clusterIp": "10.96.0.10", "ports": [{"port": 80}]}},
    ],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_mistaken_service_keeps_its_last_valid_version(directory: Path, suffix: str, mistake: Json) -> None:
    path = directory / f"a.{suffix}"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service("web"), service("api")]}))
    source = folder(directory)
    source.poll()
    items = [{**service("web"), **mistake}, service("api", 81)]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    problem, *others = summary(source.poll())
    assert problem.startswith(f"! a.{suffix}, ") and "item 1" in problem
    assert others == ["+ shop/api 81"]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service("api", 81)]}))
    assert summary(source.poll()) == ["- shop/web"]


@pytest.mark.parametrize("version", ["discovery.k8s.io/v1beta1", "discovery.k8s.io/v2", "v1"])
def test_slice_of_an_unknown_version_keeps_its_last_valid_version(directory: Path, version: str) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(endpoint_slice()))
    source = folder(directory)
    source.poll()
    path.write_text(text_of({**endpoint_slice(), "apiVersion": version}))
    (line,) = summary(source.poll())
    assert "apiVersion: is not supported for an EndpointSlice (use discovery.k8s.io/v1)" in line


@pytest.mark.parametrize("replacement", ["link", "fifo", "folder"])
def test_name_that_leads_to_no_file_any_more_keeps_its_objects(directory: Path, replacement: str) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web")))
    source = folder(directory)
    source.poll()
    path.unlink()
    if replacement == "link":
        path.symlink_to("nowhere")
    elif replacement == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    (line,) = summary(source.poll())
    assert line.startswith("! a.yaml: cannot be read: ") and "last valid version stays in use" in line
    assert summary(source.poll()) == []


@pytest.mark.parametrize(
    ("misspelt", "hint"),
    [
        (service(sesionAffinity="ClientIP"), "spec.sesionAffinity: unknown field (did you mean sessionAffinity?)"),
        ({**endpoint_slice(), "Endpoints": []}, "Endpoints: unknown field (did you mean endpoints?)"),
    ],
)
def test_misspelt_field_is_a_warning_with_a_hint(directory: Path, misspelt: Json, hint: str) -> None:
    (directory / "a.yaml").write_text(text_of(misspelt))
    problem, added = poll_new_source(directory)
    assert hint in problem
    assert added.startswith("+ shop/web")


def _endpoints(**subset: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 8080}], **subset}],
    }


def _slice_with(**endpoint: Any) -> Json:
    return {**endpoint_slice(), "endpoints": [{"addresses": ["10.1.0.5"]}, {"addresses": ["10.1.0.6"], **endpoint}]}


def _service_with_status(**status: Any) -> Json:
    return {**service(type="LoadBalancer"), "status": status}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize(
    ("misspelt", "field", "near"),
    [
        (service(sesionAffinity="ClientIP"), "spec.sesionAffinity", "sessionAffinity"),
        (
            service(ports=[{"port": 80}, {"name": "b", "port": 81, "nodeport": 30080}]),
            "spec.ports[1].nodeport",
            "nodePort",
        ),
        (
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSecond": 5}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSecond",
            "timeoutSeconds",
        ),
        (
            _service_with_status(loadbalancer={"ingress": [{"ip": "203.0.113.7"}]}),
            "status.loadbalancer",
            "loadBalancer",
        ),
        (
            _service_with_status(loadBalancer={"ingress": [{"ip": "203.0.113.7", "ipmode": "Proxy"}]}),
            "status.loadBalancer.ingress[0].ipmode",
            "ipMode",
        ),
        (_slice_with(condition={"ready": False}), "endpoints[1].condition", "conditions"),
        (_slice_with(conditions={"Ready": False}), "endpoints[1].conditions.Ready", "ready"),
        (_slice_with(nodename="node-a"), "endpoints[1].nodename", "nodeName"),
        (_slice_with(hints={"forZone": [{"name": "a"}]}), "endpoints[1].hints.forZone", "forZones"),
        (_endpoints(notReadyAdresses=[]), "subsets[0].notReadyAdresses", "notReadyAddresses"),
        (
            {**node("node-a"), "status": {"adresses": [{"type": "InternalIP", "address": "192.168.3.10"}]}},
            "status.adresses",
            "addresses",
        ),
    ],
)
def test_misspelt_field_at_any_depth_is_a_warning_and_the_object_is_used(
    suffix: str, misspelt: Json, field: str, near: str
) -> None:
    body = json.dumps(misspelt).encode()  # which is YAML, too
    manifest = parse_manifest(f"a.{suffix}", body, "node-a")
    (problem,) = manifest.problems
    assert (problem.field, problem.message, problem.hint) == (field, "unknown field", f"did you mean {near}?")
    assert problem.is_warning
    assert len(manifest.objects) == 1


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("key", ["loadBalancerSourceRange", "loadbalancerSourceRanges", "loadBalancersourceranges"])
def test_service_whose_source_ranges_are_misspelt_is_not_served_to_everyone(suffix: str, key: str) -> None:
    misspelt = _service_with_status(loadBalancer={"ingress": [{"ip": "203.0.113.7"}]})
    misspelt["spec"][key] = ["10.0.0.0/8"]
    manifest = parse_manifest(f"a.{suffix}", json.dumps(misspelt).encode(), "node-a")
    (problem,) = manifest.problems
    assert (problem.field, problem.hint) == (f"spec.{key}", "did you mean loadBalancerSourceRanges?")
    assert not problem.is_warning
    assert manifest.objects == {}
    assert [str(name) for _, name in manifest.broken] == ["shop/web"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_fields_of_kubernetes_that_are_not_read_and_those_of_other_projects_are_no_mistakes(suffix: str) -> None:
    ports = [{"port": 80, "targetPort": "http", "appProtocol": "h2c"}]
    complete = service(ports=ports, selector={"clusterip": "x"}, ipFamilyPolicy="SingleStack", somethingNew=1)
    body = json.dumps(complete).encode()
    manifest = parse_manifest(f"a.{suffix}", body, "node-a")
    assert manifest.problems == ()
    assert len(manifest.objects) == 1


def test_misspelt_field_of_which_the_right_spelling_is_there_too_is_a_warning() -> None:
    both = _service_with_status()
    both["spec"] |= {"loadBalancerSourceRanges": ["10.0.0.0/8"], "loadBalancerSourceRange": ["0.0.0.0/0"]}
    manifest = parse_manifest("a.json", json.dumps(both).encode(), "node-a")
    assert [problem.is_warning for problem in manifest.problems] == [True]
    assert len(manifest.objects) == 1


def test_misspelt_field_in_json_that_is_not_utf_8_elsewhere_is_an_error() -> None:
    body = json.dumps(service(nodeport=1, selector={"app": "?"})).encode().replace(b"?", b"\xff")
    manifest = parse_manifest("a.json", body, "node-a")
    assert [problem.message for problem in manifest.problems] == ["is not UTF-8 text"]
    assert manifest.objects == {}


def test_slice_whose_endpoints_are_misspelt_keeps_its_last_valid_version(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(endpoint_slice()))
    source = folder(directory)
    source.poll()
    misspelt = endpoint_slice()
    misspelt["endpoint"] = misspelt.pop("endpoints")
    path.write_text(text_of(misspelt))
    (line,) = summary(source.poll())
    assert "endpoint: unknown field (did you mean endpoints?)" in line


def test_file_that_is_too_large_keeps_its_last_valid_version(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web")))
    source = folder(directory)
    source.poll()
    monkeypatch.setitem(folder_module.SIZE_MAX_BYTES, ".yaml", 1 << 20)
    path.write_text("#" * (1 << 20) + "\n" + text_of(service("api")))
    assert summary(source.poll()) == [
        "! a.yaml: cannot be read: it is larger than 1 MiB (its last valid version stays in use)"
    ]


def test_too_many_files_are_a_problem(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "FILES_MAX", 2)
    for name in "abc":
        (directory / f"{name}.yaml").write_text(text_of(service(name)))
    assert poll_new_source(directory) == [
        f"! manifest directory {directory}: contains 2 files or more (the first ones by name are used)",
        "+ shop/a 80",
        "+ shop/b 80",
    ]


def test_dangling_link_is_ignored(directory: Path) -> None:
    (directory / "a.yaml").symlink_to("nowhere")
    (directory / "b.yaml").write_text(text_of(service()))
    assert poll_new_source(directory) == ["+ shop/web 80"]


def test_missing_folder_is_reported_once_and_not_synced(tmp_path: Path) -> None:
    source = folder(tmp_path / "none")
    where = f"manifest directory {tmp_path / 'none'}"
    assert summary(source.poll()) == [
        f"! {where}: cannot be read: No such file or directory (mount it, or set --manifests to another directory)"
    ]
    assert source.poll() == []
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.yaml").write_text(text_of(service()))
    assert summary(source.poll()) == ["+ shop/web 80", "synced services", "synced slices", "synced node"]


def test_empty_folder_in_place_of_the_one_that_was_read_deletes_no_object(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    source.poll()
    directory.rename(directory.parent / "away")  # as an unmounted volume leaves its mount point
    directory.mkdir()
    for _ in range(3):
        events = summary(source.poll())
        assert not any(line.startswith("-") for line in events)
    (directory / "b.yaml").write_text(text_of(service("api", 90)))
    assert any(line.startswith("-") for line in [*summary(source.poll()), *summary(source.poll())])


def test_unreadable_folder_deletes_no_object(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    source.poll()
    directory.rename(directory.parent / "away")
    assert [words[:1] for words in summary(source.poll())] == ["!"]
    (directory.parent / "away").rename(directory)
    assert source.poll() == []


def test_empty_folder_is_a_problem_and_synced(directory: Path) -> None:
    problem, *others = summary(folder(directory).poll())
    assert problem.endswith("contains no manifests (files named *.yaml, *.yml, *.json)")
    assert others == ["synced services", "synced slices", "synced node"]


# Bounds


def bomb() -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(rows)


def merge_bomb() -> str:
    rows = ["a0: &a0 {x: y}"]
    rows += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 200000 values once its aliases are expanded"),
        (merge_bomb(), "more than 200000 values once its aliases are expanded"),
        ("a: &a [*a]", "the alias *a is inside the value that it names"),
        ("[" * 50_000, "nested deeper than 100 levels"),
        ("- " * 50_000, "nested deeper than 100 levels"),
        ("a: " + "{a: " * 50_000, "nested deeper than 100 levels"),
    ],
)
def test_yaml_beyond_the_bounds_is_rejected(directory: Path, text: str, message: str) -> None:
    (directory / "a.yaml").write_text(text)
    (problem,) = poll_new_source(directory)
    assert problem.startswith("! a.yaml, document 1: line ")
    assert problem.endswith(message)


def test_ordinary_anchors_and_merge_keys_are_read(directory: Path) -> None:
    text = (
        text_of(service("web")).replace("metadata:", "x: &x {port: 80}\nmetadata:").replace("- port: 80", "- {<<: *x}")
    )
    assert "*x" in text
    (directory / "a.yaml").write_text(text)
    assert poll_new_source(directory) == ["+ shop/web 80"]


def test_list_within_a_list_is_rejected(directory: Path) -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [service()]}
    (directory / "a.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [inner]}))
    assert poll_new_source(directory) == [
        "! a.json, item 1: kind: is a list within a list (put the items into the outer list)"
    ]


def test_slice_of_an_older_api_version_is_a_problem_with_a_hint(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of({**endpoint_slice(), "apiVersion": "discovery.k8s.io/v1beta1"}))
    assert poll_new_source(directory) == [
        "! a.yaml, document 1: apiVersion: is not supported for an EndpointSlice (use discovery.k8s.io/v1)"
    ]


def test_renamed_object_is_another_object(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    source.poll()
    (directory / "a.yaml").write_text(text_of(service("api")))
    assert ServiceDeleted(ObjectName("shop", "web")) in source.poll()


texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab-#:'\" \n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(texts, max_size=5))
def test_documents_are_split_where_yaml_ends_them(values: list[Any]) -> None:
    text = yaml.safe_dump_all(values, explicit_start=True)
    read = [yaml_documents.load_document(document)[0] for document in yaml_documents.split_documents(text)]
    assert read == values


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a: 1", [(1, 1)]),
        ("---\na: 1\n---\nb: 2\n", [(1, 1), (2, 3)]),
        ("# about\n---\na: 1\n---\n# nothing\n---\nb: 2\n", [(1, 2), (3, 6)]),
        ("a: 1\r\n---\r\nb: 2\r\n", [(1, 1), (2, 2)]),
        ("a: |\n  ---\n  x\n--- {b: 2}", [(1, 1), (2, 4)]),
        ("", []),
        ("---\n---\n", []),
    ],
)
def test_documents_have_their_number_and_line(text: str, places: list[tuple[int, int]]) -> None:
    assert [(document.number, document.line) for document in yaml_documents.split_documents(text)] == places


# Reading once, for commands


def test_read_once_returns_all_events_without_a_thread(directory: Path) -> None:
    (directory / "a.json").write_text(json.dumps(service()))
    (directory / "b.json").write_text("{")
    source, problems = folder(directory), list[str]()
    events = source.read_once(0.0, lambda problem: problems.append(str(problem)))
    assert "+ shop/web 80" in summary(events)
    assert problems == ["b.json: is not JSON: Input data was truncated"]
    source.stop()


def test_read_once_of_a_missing_folder_fails_at_once_and_names_it(directory: Path) -> None:
    problems: list[str] = []
    with pytest.raises(SourceError, match="no objects could be read from the manifest directory"):
        ManifestSource(str(directory / "nope"), "node-a").read_once(60.0, lambda problem: problems.append(str(problem)))
    assert len(problems) == 1 and "nope: cannot be read" in problems[0]


def test_unreadable_file_that_was_never_valid_is_reported_as_not_served(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(folder_module.SIZE_MAX_BYTES, ".yaml", 10)
    (directory / "a.yaml").write_bytes(b"#" * 11)
    assert "its objects are not served until it can be read" in poll_new_source(directory)[0]


@pytest.mark.parametrize(
    ("version", "kind", "problems"),
    [
        ("v1", "Servcie", ["! a.yaml, document 1: kind: unknown kind 'Servcie' (did you mean Service?)"]),
        ("v1", "ServiceAccount", []),
        ("apps/v1", "Deployment", []),
        ("v1", "ConfigMap", []),
    ],
)
def test_misspelt_kind_is_reported_and_other_kinds_are_ignored(
    directory: Path, version: str, kind: str, problems: list[str]
) -> None:
    (directory / "a.yaml").write_text(json.dumps({**service(), "apiVersion": version, "kind": kind}))
    assert poll_new_source(directory) == problems


def test_key_that_occurs_twice_is_reported_and_its_last_value_is_used(directory: Path) -> None:
    text = yaml.safe_dump(service()).replace("spec:\n", "spec:\n  clusterIP: 10.96.0.99\n")
    (directory / "a.yaml").write_text(f"# first\n{text}")
    problem, added = poll_new_source(directory)
    assert added == "+ shop/web 80"
    assert problem.startswith("! a.yaml, document 1: line ") and "the key 'clusterIP' occurs twice" in problem


def test_file_that_brings_out_a_bug_keeps_its_objects_and_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = parse_manifest

    def fail_for_one(name: str, body: bytes, *others: Any) -> Any:
        if name == "a.json" and b"81" in body:
            raise RuntimeError("a bug")
        return parse(name, body, *others)

    monkeypatch.setattr(folder_module, "parse_manifest", fail_for_one)
    folder = Folder(str(tmp_path), "node-a")
    (tmp_path / "a.json").write_text(json.dumps(service()))
    folder.poll()
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    (tmp_path / "b.json").write_text(json.dumps(service("api", 90)))
    events = folder.poll().events
    assert [str(event) for event in events if isinstance(event, Problem)] == [
        "a.json: internal error RuntimeError (please report it, with the log)"
    ]
    assert [event.service.name.name for event in events if isinstance(event, ServiceUpserted)] == ["api"]
    assert not any(isinstance(event, ServiceDeleted) for event in events)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"kind": "Service"}, "apiVersion: is missing (each object begins with both, such as apiVersion: v1"),
        (
            service(ports=[{"name": "a", "port": 80}, {"name": "a", "port": 81}]),
            "spec.ports[1].name: 'a' is the same as another port's (write another one, or remove the port)",
        ),
        (
            service(ports=[{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]),
            "spec.ports[1].nodePort: 30080 is the same as another port's (write another one, or remove the port)",
        ),
        (
            service(clusterIPs=["10.96.0.10", "10.96.0.11"]),
            "spec.clusterIPs: has two addresses of one family (write one IPv4 and one IPv6 address at most)",
        ),
        (
            {**endpoint_slice(), "endpoints": [{"addresses": []}]},
            "endpoints[0].addresses: is empty (write the address of a pod or a host, or remove the endpoint)",
        ),
        (
            service(ports="80"),
            "spec.ports: expected array, got string (write a list: each item on a line of its own, after a dash)",
        ),
        (service(type="N" * 100), f"spec.type: unknown value '{'N' * 61}...' (one of"),
    ],
)
def test_message_has_the_value_and_a_remedy(content: Json, text: str) -> None:
    (problem,) = parse_manifest("a.json", json.dumps(content).encode(), "node-a").problems
    assert text in str(problem)


def test_node_that_is_in_a_file_twice_is_named_without_a_slash() -> None:
    (problem,) = parse_manifest("n.yaml", text_of(node("node-a"), node("node-a")).encode(), "node-a").problems
    assert problem.where == "n.yaml, document 2: Node node-a"
