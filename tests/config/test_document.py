"""The file as such: YAML, JSON, unknown and doubled fields, what is broken, and what would harm."""

from pathlib import Path

import pytest

from kubeproxy_py.config.document import SIZE_MAX_BYTES
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import load, read_file
from tests.config.build import document, from_file, problems

DATA = Path(__file__).parent / "data"
HEAD = b"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"


def warnings(content: bytes) -> list[str]:
    return [str(warning) for warning in load({"config": "proxy.yaml"}, content).warnings]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_file_that_kube_proxy_ran_with_loads_without_a_warning(file: Path) -> None:
    assert warnings(file.read_bytes()) == []


def test_the_configmap_of_kubeadm_means_the_defaults() -> None:
    kubeadm = load({"config": "x"}, (DATA / "kubeadm.yaml").read_bytes()).config
    same = {"clientConnection.kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "clusterCIDR": "10.244.0.0/16"}
    assert kubeadm == from_file(same).config


def test_a_file_with_nothing_but_its_head_and_mode_is_what_no_file_means() -> None:
    assert load({"config": "x"}, HEAD).config == load({}).config


def test_json_and_yaml_read_alike() -> None:
    yaml = HEAD + b"ipvs:\n  scheduler: lc\n"
    assert load({"config": "x"}, yaml).config == from_file({"ipvs.scheduler": "lc"}).config


def test_yaml_in_braces_is_no_json_and_reads_all_the_same() -> None:
    flow = b"{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration, mode: ipvs, oomScoreAdj: 5}"
    assert load({"config": "x"}, flow).config.oom_score_adj == 5


def test_an_unknown_field_is_ignored_with_a_warning_that_guesses_what_was_meant() -> None:
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
def test_a_field_that_stands_twice_gets_a_warning_and_the_last_one_counts(content: bytes, where: str) -> None:
    loaded = load({"config": "proxy.yaml"}, content)
    assert loaded.config.ipvs.scheduler == "sh"
    assert [str(w) for w in loaded.warnings] == [f"{where}: the field 'scheduler' stands twice (the last one counts)"]


def test_misspelt_fields_are_told_beside_the_problems() -> None:
    with pytest.raises(ConfigError) as raised:
        load({"config": "x"}, document({"mod": "ipvs", "mode": ""}))
    assert [str(w) for w in raised.value.warnings] == ["mod: unknown field, ignored (did you mean mode?)"]


def test_what_does_nothing_here_is_listed_in_one_warning() -> None:
    content = document({"nftables.masqueradeBit": 3, "portRange": "1-2", "iptables.syncPeriod": "30s"})
    assert warnings(content) == ["nftables.masqueradeBit, portRange: set, but means nothing to this agent"]


def test_feature_gates_of_other_components_are_no_reason_to_stop() -> None:
    content = document({"featureGates": {"SidecarContainers": True, "KubeProxyIPVS": True}})
    assert warnings(content) == ["featureGates.SidecarContainers: no such gate changes this agent"]


@pytest.mark.parametrize("key", ["apiVersion", "kind"])
def test_another_version_or_kind_is_refused(key: str) -> None:
    [problem] = problems(document({key: "other"}))
    assert problem.startswith(f"{key}: expected kube" if key == "apiVersion" else f"{key}: expected Kube")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1\nb: 2", "proxy.yaml, line 2, column 2: can't be read: "),
        (b"", "proxy.yaml: holds no fields (YAML or JSON with apiVersion"),
        (b"- a", "proxy.yaml: holds no fields"),
        (b"a: b\n---\nc: d\n", "proxy.yaml, line 2, column 1: can't be read: but found another document"),
        (b"a: \xff\xfe", "can't be read: "),
        (b"a: !!python/object/apply:os.system [id]", "line 1, column 4: can't be read: could not determine a constr"),
        (b"? [a]\n: b", "line 1, column 3: can't be read: a key must be text"),
        (b"a: &a {x: 1}\nb:\n  <<: *a\n", "line 3, column 3: can't be read: merge keys (<<) are not read"),
        (b"[" * 100_000, "can't be read: deeper than 32 levels"),
        (b"{" * 100_000, "can't be read: deeper than 32 levels"),
        (b"#" * (SIZE_MAX_BYTES + 1), "proxy.yaml: 1048577 bytes are too many (at most 1048576)"),
    ],
    ids=["syntax", "empty", "list", "two documents", "encoding", "object", "key", "merge", "deep", "deep json", "long"],
)
def test_a_broken_file_is_told_by_its_place(content: bytes, says: str) -> None:
    [problem] = problems(content)
    assert says in problem


def test_aliases_cost_no_more_than_they_are_long() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    content = HEAD + b"a0: &a0 [x]\n" + levels.encode() + b"nodePortAddresses: *a29\n"
    [problem] = problems(content)
    assert problem.startswith("nodePortAddresses: expected a list of texts")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
def test_a_number_without_end_is_refused(number: str) -> None:
    [problem] = problems(HEAD + f"oomScoreAdj: {number}\n".encode())
    assert len(problem) < 300


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: can't read .*/none: No such file"):
        read_file(str(tmp_path / "none"))


def test_no_more_of_a_file_is_read_than_may_be(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"#" * (SIZE_MAX_BYTES * 2))
    assert len(read_file(str(tmp_path / "long"))) == SIZE_MAX_BYTES + 1
