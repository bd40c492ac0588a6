"""Annotations of a Service: what each sets, and what is said of wrong ones."""

import json
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.model.services import Service
from kubeproxy_py.model.settings import NO_SETTINGS, ServiceSettings, Weight
from kubeproxy_py.sources.decode.objects import Body, Origin, decode
from kubeproxy_py.sources.decode.settings import OTHER_NAMES, PREFIX, SETTINGS, annotations_of, read_settings
from kubeproxy_py.sources.manifests.parse import parse_manifest
from tests.examples import at_most


def body_of(annotations: Any = None) -> dict[str, Any]:
    meta = {"name": "web", "namespace": "shop"} | ({} if annotations is None else {"annotations": annotations})
    spec = {"type": "ClusterIP", "clusterIP": "10.96.0.10", "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def settings_of(body: Body, origin: Origin = "API") -> ServiceSettings:
    (service,) = decode("Service", body, origin=origin).values
    assert isinstance(service, Service)
    return service.settings


READ: dict[str, dict[str, dict[str, object]]] = {
    "scheduler": {"wrr": {"scheduler": "wrr"}, " mh ": {"scheduler": "mh"}, "twos": {"scheduler": "twos"}},
    "scheduler-flags": {
        "sh-port": {"scheduler_flags": ("port",)},
        "mh-port, mh-fallback": {"scheduler_flags": ("fallback", "port")},
        "flag-1": {"scheduler_flags": ("fallback",)},
        "": {"scheduler_flags": ()},
    },
    "source-hash-port": {"true": {"source_hash_port": True}, "false": {"source_hash_port": False}},
    "weights": {
        "zone/a=3": {"weights": (Weight("zone", "a", 3),)},
        "others=1,own-zone=10, node/n1=2 , address/fd00::01=65535": {
            "weights": (
                Weight("address", "fd00::1", 65535),
                Weight("node", "n1", 2),
                Weight("own-zone", "", 10),
                Weight("others", "", 1),
            )
        },
        "pool=large:4": {"weights": (Weight("label", "pool=large", 4),)},
        "gpu=:2, node/n1=9, zone/a=3, own-node=5, Node.K8s.io=V_1.2-x : 7": {
            "weights": (
                Weight("node", "n1", 9),
                Weight("own-node", "", 5),
                Weight("label", "gpu=", 2),
                Weight("label", "Node.K8s.io=V_1.2-x", 7),
                Weight("zone", "a", 3),
            )
        },
        # Each word of another kind is the key, or the prefix, of a label where a colon follows the value.
        "zone/a=3:1, zone=a:2, others=x:3, node.kubernetes.io/instance-type=m5.large:65535": {
            "weights": (
                Weight("label", "zone/a=3", 1),
                Weight("label", "zone=a", 2),
                Weight("label", "others=x", 3),
                Weight("label", "node.kubernetes.io/instance-type=m5.large", 65535),
            )
        },
        f"p.q/{'n' * 63}={'v' * 63}:1": {"weights": (Weight("label", f"p.q/{'n' * 63}={'v' * 63}", 1),)},
    },
    "drain-deadline": {"5m": {"drain_deadline_s": 300.0}, "0s": {"drain_deadline_s": 0.0}},
    "slow-start": {"30s": {"slow_start_s": 30.0}},
    "affinity-timeout": {"48h": {"affinity_timeout_s": 172800}, "1.5m": {"affinity_timeout_s": 90}},
    "affinity-mask": {
        "ipv4/24": {"affinity_prefixes": (("IPv4", 24),)},
        "IPv6/64,ipv4/16": {"affinity_prefixes": (("IPv4", 16), ("IPv6", 64))},
    },
    "max-connections": {"100": {"max_connections": 100}},
    "dsr": {"route": {"direct_return": "route"}, "tunnel": {"direct_return": "tunnel"}},
    "health-check": {"tcp": {"health_check": "tcp"}, "none": {"health_check": "none"}},
    "health-check-interval": {"2s": {"health_check_interval_s": 2.0}},
    "health-check-threshold": {"5": {"health_check_threshold": 5}},
}
NO_NUMBERS = [
    *("0", "-1", "+1", "1.5", "1e3", "1_000", "", " ", "1 0", "nan", "inf"),
    *("\u0661", "\uff11", "\u00b2", "9" * 5000),  # digits of other scripts
]
NO_DURATIONS = [
    *("1", "1.5", "1e3", "1e3s", "", " ", "s", "1 s", "1,5s", "inf"),
    *("\u0661s", "\uff11s", "9" * 5000, "9" * 30 + "h"),
]
WRONG: dict[str, list[str]] = {
    "scheduler": ["", "foo", "RR", "rr,wrr"],
    "scheduler-flags": ["flag-3", "port", "sh-port mh-port"],
    "source-hash-port": ["yes", "", " ", "True", "1"],
    "weights": [
        *(
            "",
            ",",
            "a=1",
            "zone=1",
            "zone/=1",
            "zone/a",
            "zone/a=",
            "zone/a=0",
            "zone/a=65536",
            "zone/a=-1",
            "others/x=1",
        ),
        *(
            "zone/a=1,zone/a=2",
            "address/10.0.0=1",
            "zone/a=1.5",
            "zone/a=x",
            "own-zone/a=1",
            "zone/a=\u0663",
            "pod/x=1",
        ),
        *(f"zone/a={number}" for number in NO_NUMBERS),
        *(f"pool=large:{number}" for number in NO_NUMBERS),
        *("pool=large", "pool=large=4", "pool:4", "pool", "=large:4", "pool==large:4", "pool!=large:4", "pool=a:b:4"),
        *("pool=a:1, pool=a:2", "pool=large:", "pool in (a)=1:4", "!pool=:4", "pool=a b:4", "pool=a/b:4"),
        *("/pool=a:4", "a/b/c=d:4", "A.b/c=d:4", "a..b/c=d:4", "a_b/c=d:4", "-a/b=c:4", "a./b=c:4", "a/=b:4"),
        *("-pool=a:4", "pool.=a:4", "pool=-a:4", "pool=a_:4", "po\u00f6l=a:4", "pool=\u00e4:4", "po\nol=a:4"),
        *(f"{'n' * 64}=a:4", f"pool={'v' * 64}:4", f"{'p' * 254}/n=v:4"),
        *("zone/a=3;zone/b=1", "zone/a b=1", "zone/a=b=1", "zone/\u00e4=1", "zone/a/b=1", f"zone/{'a' * 64}=1"),
        *("node/A=1", "node/a_b=1", "node/a=b=1", "node/a b=1", "node/a..b=1", f"node/{'a' * 254}=1"),
    ],
    "drain-deadline": ["soon", "-5s", "-0s", "5", "1e3s", "0.1ns", *NO_DURATIONS],
    "slow-start": ["0s", "-1s", "2h", "30", "999ms", *NO_DURATIONS],
    "affinity-timeout": ["0s", "0.5s", "1500ms", "1.5s", "1m0.001s", "600000h", "-1s", *NO_DURATIONS],
    "affinity-mask": [
        *("24", "ipv4", "ipv4/33", "ipv6/129", "ipv4/24,ipv4/16", "/24", "ipv4/24,", "", " "),
        *(f"ipv4/{number}" for number in NO_NUMBERS),
    ],
    "max-connections": ["many", "2147483648", "0x10", *NO_NUMBERS],
    "dsr": ["", " ", "true", "Route", "ipip", "route,tunnel"],
    "health-check": ["http", "", " ", "TCP", "true"],
    "health-check-interval": ["0s", "0.1s", "499ms", "2h", "5", *NO_DURATIONS],
    "health-check-threshold": ["101", "three", *NO_NUMBERS],
}


@pytest.mark.parametrize("origin", ["API", "manifest"])
@pytest.mark.parametrize("name", SETTINGS)
def test_each_value_is_read_into_its_field(name: str, origin: Origin) -> None:
    for text, fields in READ[name].items():
        body = body_of({PREFIX + name: text})
        for each in (body, json.dumps(body).encode()):
            settings = settings_of(each, origin)
            assert {field: getattr(settings, field) for field in fields} == fields
            assert settings.problems == ()
            assert [(one.setting, one.annotation, one.value) for one in settings.written] == [
                (name, PREFIX + name, text)
            ]


@pytest.mark.parametrize("origin", ["API", "manifest"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_value_is_named_with_its_remedy_and_ignored(name: str, origin: Origin) -> None:
    for text in WRONG[name]:
        decoded = decode("Service", json.dumps(body_of({PREFIX + name: text, "note": "seen"})).encode(), origin=origin)
        assert (decoded.broken, decoded.problems) == (False, ())
        (service,) = decoded.values
        assert isinstance(service, Service)
        (problem,) = service.settings.problems
        assert problem.annotation == PREFIX + name
        assert problem.value in text or problem.value.endswith("...")
        assert problem.message
        assert problem.hint
        assert len(problem.message) < 300
        assert service.settings == ServiceSettings(problems=(problem,)), "a field was set"
        assert service.ports, "the rest is not served"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("pool=large", "'pool=large' is no weight of endpoints", "comes after a colon: pool=large:4"),
        ("pool=large=7", "'pool=large=7' is no weight of endpoints", "comes after a colon: pool=large:7"),
        ("a.b/pool=x, own-node=2", "'a.b/pool=x' is no weight of endpoints", "comes after a colon: a.b/pool=x:4"),
        ("zone=1", "'zone=1' is no weight of endpoints", "such as zone/a=3"),
        ("zone=a", "'zone=a' is no weight of endpoints", "such as zone/a=3"),
        ("pool=4", "'pool=4' is no weight of endpoints", "such as zone/a=3"),
        ("pool:4", "'pool:4' is no weight of endpoints", "pool=large:4 by label"),
        ("pool==large:4", "'pool=' is no name of a label", "with a letter or digit at both ends"),
        ("A.b/c=d:4", "'A.b' is no prefix of a label's key", "a DNS name: at most 253 lowercase"),
        ("pool=a b:4", "'a b' is no value of a label", "with a letter or digit at both ends"),
        ("pool=a:0", "'0' is not a number from 1 to 65535", "write a number from 1 to 65535"),
        ("zone/a b=1", "'a b' is no name of a zone", "with a letter or digit at both ends"),
        ("node/A=1", "'A' is no name of a node", "a DNS name: at most 253 lowercase"),
        ("zone/a=3;zone/b=1", "'a=3;zone/b' is no name of a zone", "write commas between weights"),
        ("node/a=3\nnode/b=1", "'a=3\\nnode/b' is no name of a node", "write commas between weights"),
        ("own-node=3 others=1", "'own-node=3 others=1' is no weight of endpoints", "write commas between weights"),
        ("own-node=3, others=1, own-node=2", "has two weights of 'own-node'", "write each key once"),
        ("zone/a=3, zone/a=3", "has two weights of 'zone/a'", "write each key once"),
        ("pool=a:3, own-node=1, pool = a : 4", "has two weights of 'pool=a'", "write each key once"),
    ],
)
def test_a_wrong_weight_names_the_part_and_its_remedy(text: str, message: str, hint: str) -> None:
    (problem,) = read_settings({PREFIX + "weights": text}).problems
    assert problem.message == message
    assert hint in problem.hint


@pytest.mark.parametrize("value", [1, True, None, 1.5, ["rr"], {"a": "b"}, [[[[]]]]])
def test_a_value_that_is_no_text_is_named(value: object) -> None:
    for body in (body_of({PREFIX + "scheduler": value}), json.dumps(body_of({PREFIX + "scheduler": value})).encode()):
        (problem,) = settings_of(body, "manifest").problems
        assert (problem.annotation, problem.message) == (PREFIX + "scheduler", "is not text")
        assert "quotes" in problem.hint


def test_an_unknown_name_under_the_prefix_is_named_with_the_nearest() -> None:
    (problem,) = read_settings({PREFIX + "weigths": "zone/a=1"}).problems
    assert (problem.message, problem.hint) == ("is unknown", "did you mean weights?")
    (far,) = read_settings({PREFIX + "qqq": ""}).problems
    assert all(name in far.hint for name in SETTINGS)


def test_what_one_service_can_cost_is_bounded() -> None:
    many = ",".join(f"node/n{number}=1" for number in range(101))
    (problem,) = read_settings({PREFIX + "weights": many}).problems
    assert problem.message == "has more than 100 weights"
    assert len(problem.value) <= 200
    unknown = {f"{PREFIX}x{number}": "" for number in range(1000)}
    settings = read_settings({**unknown, PREFIX + "max-connections": "5"})
    assert (settings.max_connections, len(settings.problems)) == (5, 11)
    assert (settings.problems[-1].annotation, settings.problems[-1].message) == (PREFIX + "*", "990 more are unknown")
    assert len(read_settings(dict(list(unknown.items())[:10])).problems) == 10


def test_one_wrong_value_leaves_the_others_in_force() -> None:
    settings = read_settings({PREFIX + "scheduler": "foo", PREFIX + "max-connections": "5", PREFIX + "x": "y"})
    assert settings.max_connections == 5
    assert [problem.annotation for problem in settings.problems] == [PREFIX + "scheduler", PREFIX + "x"]


def test_annotations_of_kube_router_and_older_names_count_unless_ours_is_there() -> None:
    values = {"scheduler": "mh", "scheduler-flags": "mh-port", "drain-deadline": "5m"}
    for other, name in OTHER_NAMES.items():
        assert getattr(read_settings({other: values[name]}), SETTINGS[name][0]) == READ_BY_NAME[name]
        both = read_settings({other: "nonsense", PREFIX + name: values[name]})
        assert getattr(both, SETTINGS[name][0]) == READ_BY_NAME[name]
        (problem,) = both.problems
        assert (problem.annotation, problem.value) == (other, "nonsense")
        assert (problem.message, problem.hint) == (f"does not count beside {PREFIX}{name}", "remove one of both")
        same = read_settings({other: f" {values[name]}", PREFIX + name: values[name]})
        assert same.problems == ()
        wrong = read_settings({other: values[name], PREFIX + name: "nonsense"})
        assert {one.annotation for one in wrong.problems} == {other, PREFIX + name}, "one of both is used"
        (problem,) = read_settings({other: "nonsense"}).problems
        assert problem.annotation == other
    assert read_settings({"kube-router.io/service.dsr": "tunnel"}) is NO_SETTINGS, "it is another program's"


READ_BY_NAME = {"scheduler": "mh", "scheduler-flags": ("port",), "drain-deadline": 300.0}


@pytest.mark.parametrize("annotations", [None, {}, {"note": "seen"}, {"kubectl.kubernetes.io/x": "kubeproxy-py.io/"}])
def test_a_service_without_settings_shares_one_value(annotations: dict[str, str] | None) -> None:
    body = body_of(annotations)
    assert settings_of(body) is NO_SETTINGS
    assert settings_of(json.dumps(body).encode()) is NO_SETTINGS


@pytest.mark.parametrize("annotations", [[], "kubeproxy-py.io/", 1, {"kubeproxy-py.io/scheduler": "rr", "a": 1}])
def test_malformed_annotations_never_raise(annotations: object) -> None:
    decode("Service", body_of(annotations))
    decode("Service", json.dumps(body_of(annotations)).encode())


def test_annotations_are_parsed_only_where_they_may_be_ours() -> None:
    class Text(bytes):
        pass

    assert annotations_of(b"not JSON at all") == {}
    assert annotations_of(json.dumps(body_of({PREFIX + "x": "1"})).replace("/", "\\/").encode()) == {PREFIX + "x": "1"}


def test_settings_of_a_manifest_in_yaml_are_read() -> None:
    text = yaml.safe_dump(body_of({PREFIX + "scheduler": "wrr", PREFIX + "max-connections": 5}))
    manifest = parse_manifest("web.yaml", text.encode(), "node-a")
    ((service,),) = manifest.objects.values()
    assert isinstance(service, Service)
    assert service.settings.scheduler == "wrr"
    assert [problem.annotation for problem in service.settings.problems] == [PREFIX + "max-connections"]
    assert manifest.broken == frozenset()


PIECES = st.sampled_from([
    *("zone/", "node/", "address/", "own-zone", "others", "=", ",", "/", "1", "0", "65536", "ipv4", "ipv6", "10.0.0.1"),
    *("s", "m", "-", ".", " ", ":", "pool", "sh-port", "rr", "true", "\u0663", "fd00::1", "\n", "\0", "%"),
])  # fmt: skip


@at_most(400)
@given(st.text() | st.lists(PIECES, max_size=12).map("".join), st.text(max_size=20))
def test_no_value_or_name_raises_and_each_is_used_or_named(text: str, unknown: str) -> None:
    for name in (*SETTINGS, unknown):
        settings = read_settings({PREFIX + name: text})
        assert bool(settings.written) is not bool(settings.problems)
        assert msgspec.json.decode(msgspec.json.encode(settings), type=ServiceSettings) == settings
