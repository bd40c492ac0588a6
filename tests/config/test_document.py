"""The configuration file: YAML, JSON, unknown and duplicate fields, syntax errors, hostile input."""

import os
from pathlib import Path

import pytest

from kubeproxy_py.config.document import SIZE_MAX_BYTES
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import load, read_file
from tests.config.build import document, from_file, problems
from tests.unreadable import UNREADABLE, as_nobody, make_unreadable

DATA = Path(__file__).parent / "data"
HEAD = b"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"


def warnings(content: bytes) -> list[str]:
    return [str(warning) for warning in load({"config": "proxy.yaml"}, content).warnings]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_file_of_a_running_kube_proxy_loads_without_a_warning(file: Path) -> None:
    assert warnings(file.read_bytes()) == []


def test_kubeadms_config_map_is_equal_to_the_defaults() -> None:
    kubeadm = load({"config": "x"}, (DATA / "kubeadm.yaml").read_bytes()).config
    same = {"clientConnection.kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "clusterCIDR": "10.244.0.0/16"}
    assert kubeadm == from_file(same).config


def test_a_file_with_only_its_mode_is_equal_to_no_file() -> None:
    assert load({"config": "x"}, HEAD).config == load({}).config


def test_json_and_yaml_give_the_same_configuration() -> None:
    yaml = HEAD + b"ipvs:\n  scheduler: lc\n"
    assert load({"config": "x"}, yaml).config == from_file({"ipvs.scheduler": "lc"}).config


def test_yaml_in_braces_is_read_as_yaml() -> None:
    flow = b"{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration, mode: ipvs, oomScoreAdj: 5}"
    assert load({"config": "x"}, flow).config.oom_score_adj == 5


def test_an_unknown_field_is_ignored_with_a_warning_that_suggests_the_nearest() -> None:
    content = HEAD + b"ipvs:\n  shedular: lc\nzzz: 1\n"
    assert warnings(content) == [
        "zzz: unknown field, ignored",
        "ipvs.shedular: unknown field, ignored (did you mean scheduler?)",
    ]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (HEAD + b"ipvs:\n  scheduler: lc\n  scheduler: sh\n", "proxy.yaml, line 6"),
        (document()[:-1] + b', "ipvs": {"scheduler": "lc", "scheduler": "sh"}}', "proxy.yaml"),
    ],
    ids=["yaml", "json"],
)
def test_a_duplicate_field_is_warned_of_and_the_last_one_is_used(content: bytes, where: str) -> None:
    loaded = load({"config": "proxy.yaml"}, content)
    assert loaded.config.ipvs.scheduler == "sh"
    assert [str(w) for w in loaded.warnings] == [f"{where}: duplicate field 'scheduler' (the last one is used)"]


def test_an_error_has_warnings_of_misspelt_fields() -> None:
    with pytest.raises(ConfigError) as raised:
        load({"config": "x"}, document({"mod": "ipvs", "mode": ""}))
    assert [str(w) for w in raised.value.warnings] == ["mod: unknown field, ignored (did you mean mode?)"]


def test_fields_without_effect_are_listed_in_one_warning() -> None:
    content = document({"nftables.masqueradeBit": 3, "portRange": "1-2", "iptables.syncPeriod": "30s"})
    assert warnings(content) == ["nftables.masqueradeBit, portRange: set, but has no effect in this agent"]


def test_feature_gates_of_other_components_are_only_warned_of() -> None:
    content = document({"featureGates": {"SidecarContainers": True, "KubeProxyIPVS": True}})
    assert warnings(content) == ["featureGates.SidecarContainers: this feature gate has no effect in this agent"]


@pytest.mark.parametrize("key", ["apiVersion", "kind"])
def test_another_api_version_or_kind_is_rejected(key: str) -> None:
    [problem] = problems(document({key: "other"}))
    assert problem.startswith(f"{key}: expected kube" if key == "apiVersion" else f"{key}: expected Kube")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", "proxy.yaml, line 2, column 2: cannot be read: "),
        (b"", "proxy.yaml: contains no fields (YAML or JSON with apiVersion"),
        (b"- a", "proxy.yaml: is not a mapping of fields"),
        (
            b"a: b\n---\nc: d\n",
            "proxy.yaml, line 2, column 1: cannot be read: expected a single document in the stream, but found another",
        ),
        (b"a: \xff\xfe", "cannot be read: "),
        (b"a: !!python/object/apply:os.system [id]", "line 1, column 4: cannot be read: the tag 'tag:yaml.org"),
        (b"? [a]\n: b", "line 1, column 3: cannot be read: a key must be text"),
        (b"a: &a {x: 1}\nb:\n  <<: *a\n", "line 3, column 3: cannot be read: merge keys (<<) are not supported"),
        (b"[" * 100_000, "cannot be read: nested deeper than 32 levels"),
        (b"{" * 100_000, "cannot be read: nested deeper than 32 levels"),
        (b"#" * (SIZE_MAX_BYTES + 1), "proxy.yaml: the file is larger than 1 MiB (the limit of a ConfigMap)"),
    ],
    ids=["syntax", "empty", "list", "two documents", "encoding", "object", "key", "merge", "deep", "deep json", "long"],
)
def test_a_file_that_cannot_be_read_is_reported_with_the_place(content: bytes, message: str) -> None:
    [problem] = problems(content)
    assert message in problem


def test_aliases_are_not_expanded() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    content = HEAD + b"a0: &a0 [x]\n" + levels.encode() + b"nodePortAddresses: *a29\n"
    [problem] = problems(content)
    assert problem.startswith("nodePortAddresses: expected a list of strings")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
def test_a_huge_number_is_rejected_without_printing_it(number: str) -> None:
    [problem] = problems(HEAD + f"oomScoreAdj: {number}\n".encode())
    assert len(problem) < 300


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: cannot read .*/none: No such file"):
        read_file(str(tmp_path / "none"))


@pytest.mark.parametrize(("kind", "message"), UNREADABLE.items())
def test_a_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, kind: str, message: str) -> None:
    path = make_unreadable(tmp_path, kind)
    with as_nobody(tmp_path), pytest.raises(ConfigError, match=rf"--config: cannot read .*: {message}"):
        read_file(str(path))


def test_a_pipe_of_the_shell_can_be_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"mode: ipvs")
    os.close(writer)
    assert read_file(f"/dev/fd/{reader}") == b"mode: ipvs"
    os.close(reader)


def test_a_file_is_read_only_up_to_the_size_limit(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"#" * (SIZE_MAX_BYTES * 2))
    assert len(read_file(str(tmp_path / "long"))) == SIZE_MAX_BYTES + 1
