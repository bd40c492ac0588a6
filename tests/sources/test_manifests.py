"""A folder of manifests: what its files say, how they change, and what becomes of broken ones."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    ObjectProblem,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.manifests import folder as folder_module
from kubeproxy_py.sources.manifests import yaml_documents as yaml_text
from kubeproxy_py.sources.manifests.folder import Folder
from kubeproxy_py.sources.manifests.source import ManifestFolder

Json = dict[str, Any]


def service(name: str = "web", port: object = 80, **spec: Any) -> Json:
    ports = [{"port": port}]
    spec = {"clusterIP": "10.96.0.10", "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def endpoint_slice(name: str = "web-1") -> Json:
    labels = {"kubernetes.io/service-name": "web"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.5"]}],
        "ports": [{"port": 8080}],
    }


def node(name: str, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, **metadata}}


def text_of(*documents: Json) -> str:
    return yaml.safe_dump_all(documents)


def brief(events: list[Event]) -> list[str]:
    """Each event in a few words."""
    words = []
    for event in events:
        match event:
            case ServiceUpserted(found):
                words.append(f"+ {found.name} {','.join(str(port.port) for port in found.ports)}")
            case SliceUpserted(found):
                words.append(f"+ {found.name}")
            case ServiceDeleted(name) | SliceDeleted(name):
                words.append(f"- {name}")
            case NodeUpserted(found):
                words.append(f"+ node {found.name}")
            case Synced(feed):
                words.append(f"synced {feed}")
            case ObjectProblem():
                words.append(f"! {event}")
            case _:
                raise AssertionError(event)
    return words


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


def folder(directory: Path) -> ManifestFolder:
    return ManifestFolder(str(directory), "node-a")


def loaded(directory: Path) -> list[str]:
    """What a fresh source says of *directory*, without what it says each time."""
    return [words for words in brief(folder(directory).load()) if not words.startswith("synced")]


# What files say --------------------------------------------------------------------------------------------------


def test_documents_of_yaml_files_and_objects_of_json_files_are_read(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service("web"), endpoint_slice("web-1")))
    (directory / "b.json").write_text(json.dumps(service("api")))
    (directory / "c.yml").write_text(text_of(service("db")))
    assert loaded(directory) == ["+ shop/web 80", "+ shop/web-1", "+ shop/api 80", "+ shop/db 80"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize(
    "kind",
    [{"apiVersion": "v1", "kind": "List"}, {"apiVersion": "v1", "kind": "ServiceList"}],
    ids=lambda kind: kind["kind"],
)
def test_lists_hold_objects(directory: Path, suffix: str, kind: Json) -> None:
    items = [service("web"), service("api")]
    (directory / f"a.{suffix}").write_text(json.dumps({**kind, "items": items}))
    assert loaded(directory) == ["+ shop/web 80", "+ shop/api 80"]


def test_items_of_a_typed_list_need_not_say_what_they_are(directory: Path) -> None:
    bare = {key: part for key, part in endpoint_slice().items() if key not in ("apiVersion", "kind")}
    of_slices = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [bare]}
    (directory / "a.json").write_text(json.dumps(of_slices))
    assert loaded(directory) == ["+ shop/web-1"]


def test_hidden_files_other_files_and_folders_are_passed_over(directory: Path) -> None:
    (directory / ".a.yaml").write_text(text_of(service()))
    (directory / "README.md").write_text("{")
    (directory / "sub.yaml").mkdir()
    (directory / "b.yaml").write_text(text_of(service()))
    assert loaded(directory) == ["+ shop/web 80"]


def test_other_kinds_are_passed_over_even_of_the_same_name(directory: Path) -> None:
    knative = {**service("web"), "apiVersion": "serving.knative.dev/v1"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    (directory / "a.yaml").write_text(text_of(knative, deployment, service("api")))
    assert loaded(directory) == ["+ shop/api 80"]


def test_of_nodes_only_the_one_we_run_on_is_read(directory: Path) -> None:
    (directory / "a.yaml").write_text(
        text_of(node("node-b", labels={"topology.kubernetes.io/zone": 5}), node("node-a"))
    )
    assert "+ node node-a" in loaded(directory)
    assert not any("node-b" in words for words in loaded(directory) if words.startswith("+"))


def test_the_namespace_is_default_where_none_is_named(directory: Path) -> None:
    bare = {**service(), "metadata": {"name": "web"}}
    (directory / "a.yaml").write_text(text_of(bare))
    assert loaded(directory) == ["+ default/web 80"]


def test_all_feeds_are_synced_after_the_first_load_only(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    assert brief(source.load()) == ["+ shop/web 80", "synced services", "synced slices", "synced node"]
    assert source.load() == []


def test_endpoints_become_slices(directory: Path) -> None:
    subsets = [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 8091}]}]
    body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "games"}, "subsets": subsets}
    (directory / "a.yaml").write_text(text_of(body))
    assert loaded(directory) == ["+ default/endpoints/games/0/IPv4"]


# How they change -------------------------------------------------------------------------------------------------


def test_only_what_changed_is_told(directory: Path) -> None:
    source = folder(directory)
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source.load()
    path.write_text(text_of(service("web", 81), service("api")))
    assert brief(source.load()) == ["+ shop/web 81"]


def test_objects_that_left_a_file_are_gone_and_so_are_those_of_a_file_that_went(directory: Path) -> None:
    source = folder(directory)
    (directory / "a.yaml").write_text(text_of(service("web"), endpoint_slice()))
    (directory / "b.yaml").write_text(text_of(service("api")))
    source.load()
    (directory / "a.yaml").write_text(text_of(endpoint_slice()))
    (directory / "b.yaml").unlink()
    assert sorted(brief(source.load())) == ["- shop/api", "- shop/web"]


def test_an_object_that_moves_between_files_is_never_gone(directory: Path) -> None:
    source = folder(directory)
    (directory / "a.yaml").write_text(text_of(service("web"), service("api")))
    source.load()
    (directory / "a.yaml").write_text(text_of(service("api")))
    (directory / "b.yaml").write_text(text_of(service("web")))
    assert source.load() == []


def test_a_configmap_volume_is_followed_when_its_data_link_is_swapped(directory: Path) -> None:
    for version, port in (("..v1", 80), ("..v2", 81)):
        (directory / version).mkdir()
        (directory / version / "a.yaml").write_text(text_of(service("web", port)))
    (directory / "..data").symlink_to("..v1")
    (directory / "a.yaml").symlink_to("..data/a.yaml")
    source = folder(directory)
    assert "+ shop/web 80" in brief(source.load())
    (directory / "..data_tmp").symlink_to("..v2")
    (directory / "..data_tmp").rename(directory / "..data")
    assert brief(source.load()) == ["+ shop/web 81"]


@pytest.mark.parametrize(
    ("age_s", "told"), [(0.0, ["+ shop/web 81"]), (0.02, ["+ shop/web 81"]), (1.5, []), (-3600.0, [])]
)
def test_a_file_is_read_again_if_it_was_too_fresh_to_show_a_change(
    directory: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, told: list[str]
) -> None:
    changed_ns = int((time.time() - age_s) * 1e9) | 1
    monkeypatch.setattr(Folder, "_list", lambda self: {"a.yaml": (1, 1, 1, 1, changed_ns)})
    (directory / "a.yaml").write_text(text_of(service("web", 80)))
    looker = Folder(str(directory), "node-a")
    looker.look()
    (directory / "a.yaml").write_text(text_of(service("web", 81)))  # as long, and within the same tick
    assert brief(looker.look(whole=()).events) == told


def test_what_is_wrong_with_a_file_is_told_once_though_it_is_read_again(directory: Path) -> None:
    (directory / "web.yaml").write_text(text_of(service(port=70000)))
    seen = Folder(str(directory), "node-a")
    first = [event for event in seen.look().events if isinstance(event, ObjectProblem)]
    again = [event for event in seen.look().events if isinstance(event, ObjectProblem)]
    assert (len(first), again) == (1, [])


def test_an_unchanged_file_is_not_read_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    time.sleep(0.06)
    source.load()

    def refuse(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(folder_module, "_bounded", refuse)
    assert source.load() == []


def test_of_an_object_in_two_files_the_first_by_name_has_it(directory: Path) -> None:
    (directory / "b.yaml").write_text(text_of(service("web", 81)))
    (directory / "a.yaml").write_text(text_of(service("web", 80)))
    source = folder(directory)
    told = "! b.yaml: Service shop/web: metadata.name: is in a.yaml too (the one in a.yaml is used)"
    assert brief(source.load())[:2] == ["+ shop/web 80", told]
    (directory / "a.yaml").unlink()
    assert brief(source.load()) == ["+ shop/web 81"]


def test_an_object_that_stands_twice_in_a_file_is_a_problem(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service("web", 80), service("web", 81)))
    assert loaded(directory) == [
        "! a.yaml, document 2: Service shop/web: metadata.name: stands twice in this file (the first is used)",
        "+ shop/web 80",
    ]


# Half-written files ----------------------------------------------------------------------------------------------


def test_a_file_that_may_be_half_written_is_read_once_it_looks_the_same_twice(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    looker = Folder(str(directory), "node-a")
    looker.look()
    path.write_text("")  # a writer has truncated it
    first = looker.look(whole=())
    path.write_text(text_of(service("web"), service("api", 81)))
    second, third, fourth = looker.look(whole=()), looker.look(whole=()), looker.look(whole=())
    assert [brief(look.events) for look in (first, second, third, fourth)] == [[], [], ["+ shop/api 81"], []]
    assert [look.settled for look in (first, second, third, fourth)] == [False, False, True, True]


def test_a_file_that_is_known_to_be_whole_is_read_at_once(directory: Path) -> None:
    looker = Folder(str(directory), "node-a")
    looker.look()
    (directory / "a.yaml").write_text(text_of(service()))
    assert brief(looker.look(whole=("a.yaml",)).events) == ["+ shop/web 80"]


def test_a_file_is_gone_only_when_it_was_missing_twice(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service()))
    (directory / "b.yaml").write_text(text_of(service("api")))
    looker = Folder(str(directory), "node-a")
    looker.look()
    path.rename(directory / "a.yaml~")  # as an editor does before it writes the file anew
    assert looker.look(whole=("a.yaml~",)).events == []
    assert brief(looker.look(whole=()).events) == ["- shop/web"]


# Broken files ----------------------------------------------------------------------------------------------------


def test_a_broken_object_is_named_and_spoils_no_other(directory: Path) -> None:
    (directory / "games.yaml").write_text(text_of(service("a"), service("b"), service("c", 70000)))
    where = "games.yaml, document 3: Service shop/c"
    assert loaded(directory) == [
        f"! {where}: spec.ports[0].port: 70000 is not a port (1 to 65535)",
        "+ shop/a 80",
        "+ shop/b 80",
    ]


def test_a_broken_item_of_a_list_is_named_and_spoils_no_other(directory: Path) -> None:
    items = [service("a"), service("b", "80"), 5]
    (directory / "a.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    where = "a.json, item 2: Service shop/b"
    assert loaded(directory) == [
        f"! {where}: spec.ports[0].port: expected int, got str (write a whole number, without quotes)",
        "! a.json, item 3: (all): expected object, got int",
        "+ shop/a 80",
    ]


def test_broken_yaml_is_told_with_its_line_and_spoils_no_other_document(directory: Path) -> None:
    text = text_of(service("a")) + "---\na: b\nc: [1,\n---\n" + text_of(service("b"))
    (directory / "a.yaml").write_text(text)
    line = text[: text.index("c: [1")].count("\n") + 1
    problem, *rest = loaded(directory)
    assert problem.startswith("! a.yaml, document 2: line ")
    assert int(problem.split("line ")[1].split(":")[0]) in (line, line + 1)
    assert rest == ["+ shop/a 80", "+ shop/b 80"]


@pytest.mark.parametrize("broken", [service("web", 70000), service("web", "80"), service("web", clusterIP="x")])
def test_a_broken_object_keeps_its_last_good_version(directory: Path, broken: Json) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source = folder(directory)
    source.load()
    path.write_text(text_of(broken, service("api", 81)))
    problem, *rest = brief(source.load())
    assert problem.startswith("! a.yaml, document 1: Service shop/web: ")
    assert rest == ["+ shop/api 81"]
    path.write_text(text_of(service("web", 82), service("api", 81)))
    assert brief(source.load()) == ["+ shop/web 82"]


@pytest.mark.parametrize("text", ["{", "a: [", "\x00", "- 1", "kind: Service", "a: !!python/object:os.system {}"])
def test_nothing_vanishes_with_a_document_that_cannot_be_read(directory: Path, text: str) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web"), service("api")))
    source = folder(directory)
    source.load()
    path.write_text(text_of(service("api", 81)) + "---\n" + text)
    problem, *rest = brief(source.load())
    assert problem.startswith("! a.yaml, document 2: ")
    assert rest == ["+ shop/api 81"]


def test_nothing_vanishes_with_a_json_file_that_is_cut_short(directory: Path) -> None:
    path = directory / "a.json"
    whole = json.dumps(service("web"))
    path.write_text(whole)
    source = folder(directory)
    source.load()
    path.write_text(whole[:-10])
    assert brief(source.load()) == ["! a.json: (all): is not JSON: Input data was truncated"]


def test_a_file_that_says_nothing_lets_its_objects_go(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web")))
    source = folder(directory)
    source.load()
    path.write_text("# nothing\n---\n")
    assert brief(source.load()) == ["- shop/web"]


def test_a_file_that_is_too_large_keeps_its_last_good_version(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "a.yaml"
    path.write_text(text_of(service("web")))
    source = folder(directory)
    source.load()
    monkeypatch.setitem(folder_module.SIZE_MAX_BYTES, ".yaml", 1 << 20)
    path.write_text("#" * (1 << 20) + "\n" + text_of(service("api")))
    assert brief(source.load()) == [
        "! a.yaml: (all): can't be read: it has more than 1 MiB (its last good version stays)"
    ]


def test_more_files_than_are_allowed_are_a_problem(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "FILES_MAX", 2)
    for name in "abc":
        (directory / f"{name}.yaml").write_text(text_of(service(name)))
    assert loaded(directory) == [
        f"! manifest folder {directory}: (all): has 2 files or more (the first by name are used)",
        "+ shop/a 80",
        "+ shop/b 80",
    ]


def test_a_dangling_link_is_no_file(directory: Path) -> None:
    (directory / "a.yaml").symlink_to("nowhere")
    (directory / "b.yaml").write_text(text_of(service()))
    assert loaded(directory) == ["+ shop/web 80"]


def test_a_missing_folder_is_told_once_and_is_not_synced(tmp_path: Path) -> None:
    source = folder(tmp_path / "none")
    where = f"manifest folder {tmp_path / 'none'}"
    assert brief(source.load()) == [
        f"! {where}: (all): can't be read: No such file or directory (mount it, or name another folder)"
    ]
    assert source.load() == []
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.yaml").write_text(text_of(service()))
    assert brief(source.load()) == ["+ shop/web 80", "synced services", "synced slices", "synced node"]


def test_nothing_vanishes_with_the_folder(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    source.load()
    directory.rename(directory.parent / "away")
    assert [words[:1] for words in brief(source.load())] == ["!"]
    (directory.parent / "away").rename(directory)
    assert source.load() == []


def test_an_empty_folder_is_a_problem_and_is_synced(directory: Path) -> None:
    problem, *rest = brief(folder(directory).load())
    assert problem.endswith("has no manifests (files that end in .yaml, .yml, .json)")
    assert rest == ["synced services", "synced slices", "synced node"]


# Bounds ----------------------------------------------------------------------------------------------------------


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
        (bomb(), "stands for too many values once its aliases are written out"),
        (merge_bomb(), "stands for too many values once its aliases are written out"),
        ("a: &a [*a]", "has a value that holds itself"),
        ("[" * 50_000, "is nested too deep"),
        ("- " * 50_000, "is nested too deep"),
        ("a: " + "{a: " * 50_000, "is nested too deep"),
    ],
)
def test_yaml_that_grows_without_bound_is_refused(directory: Path, text: str, message: str) -> None:
    (directory / "a.yaml").write_text(text)
    (problem,) = loaded(directory)
    assert problem.startswith("! a.yaml, document 1: line ")
    assert problem.endswith(message)


def test_anchors_and_merge_keys_of_ordinary_size_are_read(directory: Path) -> None:
    text = (
        text_of(service("web")).replace("metadata:", "x: &x {port: 80}\nmetadata:").replace("- port: 80", "- {<<: *x}")
    )
    assert "*x" in text
    (directory / "a.yaml").write_text(text)
    assert loaded(directory) == ["+ shop/web 80"]


def test_a_list_within_a_list_is_refused(directory: Path) -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [service()]}
    (directory / "a.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [inner]}))
    assert loaded(directory) == ["! a.json, item 1: kind: is a list within a list (put the items into the outer list)"]


def test_a_slice_of_an_older_api_is_a_problem_with_a_hint(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of({**endpoint_slice(), "apiVersion": "discovery.k8s.io/v1beta1"}))
    assert loaded(directory) == ["! a.yaml, document 1: apiVersion: is not known (discovery.k8s.io/v1)"]


def test_an_object_under_another_name_is_another_object(directory: Path) -> None:
    (directory / "a.yaml").write_text(text_of(service()))
    source = folder(directory)
    source.load()
    (directory / "a.yaml").write_text(text_of(service("api")))
    assert ServiceDeleted(ObjectName("shop", "web")) in source.load()


texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab-#:'\" \n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(texts, max_size=5))
def test_documents_are_cut_where_yaml_ends_them(values: list[Any]) -> None:
    text = yaml.safe_dump_all(values, explicit_start=True)
    read = [yaml_text.load(document) for document in yaml_text.documents(text)]
    assert read == values


@pytest.mark.parametrize(
    ("text", "found"),
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
def test_documents_know_their_number_and_line(text: str, found: list[tuple[int, int]]) -> None:
    assert [(document.number, document.line) for document in yaml_text.documents(text)] == found
