"""What the settings of a Service amount to on this node."""

from collections import Counter

import pytest
from msgspec.structs import replace

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.frontends import place
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.compile.settings import setting_refusals
from kubeproxy_py.model.events import (
    PeerDeleted,
    PeersRefused,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceUpserted,
)
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.refusal import SETTING_IGNORED
from kubeproxy_py.model.rows import (
    FLAG_PERSISTENT,
    FLAG_SCHED_1,
    FLAG_SCHED_2,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort
from kubeproxy_py.model.settings import NO_SETTINGS, ServiceSettings
from kubeproxy_py.net import Protocol
from kubeproxy_py.sources.decode.settings import PREFIX, read_settings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, port, service

BOTH = ("10.96.0.10", "fd00:96::10")
SERVER, SERVER_6 = (VirtualServer(address, 80, "TCP") for address in BOTH)
ENDPOINTS = (
    endpoint("10.244.1.5", HERE, zone="zone-a"),
    endpoint("10.244.2.5", THERE, zone="zone-a"),
    endpoint("10.244.3.5", "node-c", zone="zone-b"),
    endpoint("10.244.4.5", "", zone=""),
)


def annotated(annotations: dict[str, str], **fields: object) -> Service:
    """shop/web in both families with *annotations*, named without our prefix."""
    settings = read_settings({PREFIX + name: value for name, value in annotations.items()})
    assert not settings.problems
    return service(cluster_ips=BOTH, settings=settings, **fields)  # type: ignore[arg-type]


def compiled(given: Service, context: NodeContext) -> Rows:
    slices = [endpoint_slice(endpoints=ENDPOINTS), endpoint_slice(endpoints=[endpoint("fd00:1::5")], suffix="6")]
    return compile_service(given, slices, context)


def spec_of(annotations: dict[str, str], affinity_timeout_s: int = 0, **node: object) -> VirtualServerSpec:
    rows = compiled(annotated(annotations, affinity_timeout_s=affinity_timeout_s), node_context(**node))
    spec = rows[SERVER]
    assert isinstance(spec, VirtualServerSpec)
    return spec


def ignored(
    annotations: dict[str, str],
    affinity_timeout_s: int = 0,
    ports: tuple[ServicePort, ...] = (port(),),
    **node: object,
) -> dict[str, str]:
    """Return the message of each setting that is ignored, by its name without our prefix."""
    return ignored_of(annotated(annotations, affinity_timeout_s=affinity_timeout_s, ports=ports), **node)


def ignored_of(given: Service, **node: object) -> dict[str, str]:
    """Return the message of each setting of *given* that is ignored, by its name without our prefix."""
    context = node_context(**node)
    refusals = setting_refusals(given, context, place(given, context))
    assert all(refusal.reason == SETTING_IGNORED and refusal.hint for refusal in refusals)
    return {one.subject.removeprefix(PREFIX).partition("=")[0]: one.message for one in refusals}


def weights(annotations: dict[str, str], context: NodeContext | None = None) -> list[int]:
    rows = compiled(annotated(annotations), context or node_context())
    specs = [rows[RealServer(SERVER, each.address, 8080)] for each in ENDPOINTS]
    assert all(isinstance(spec, RealServerSpec) for spec in specs)
    return [spec.weight for spec in specs if isinstance(spec, RealServerSpec)]


def test_without_settings_rows_are_those_of_a_service_without_any() -> None:
    for scheduler in ("rr", "wrr", "mh", "sh"):
        context = node_context(scheduler=scheduler)
        for timeout_s in (0, 600):
            plain = compiled(service(cluster_ips=BOTH, affinity_timeout_s=timeout_s), context)
            drained = annotated({"drain-deadline": "5m"}, affinity_timeout_s=timeout_s)
            assert compiled(drained, context) == plain
            assert setting_refusals(drained, context, place(drained, context)) == ()


def test_scheduler_is_that_of_the_service_else_that_of_the_node() -> None:
    assert spec_of({"scheduler": "wlc"}) == VirtualServerSpec("wlc")
    assert spec_of({"scheduler": "rr"}, scheduler="mh") == VirtualServerSpec("rr")
    assert spec_of({"max-connections": "1"}, scheduler="mh") == VirtualServerSpec("mh", FLAG_SCHED_2)


@pytest.mark.parametrize(
    ("annotations", "flags"),
    [
        ({"scheduler": "sh"}, 0),
        ({"scheduler": "mh"}, FLAG_SCHED_2),
        ({"scheduler": "sh", "scheduler-flags": "sh-port"}, FLAG_SCHED_2),
        ({"scheduler": "sh", "scheduler-flags": "sh-fallback,sh-port"}, FLAG_SCHED_1 | FLAG_SCHED_2),
        ({"scheduler": "mh", "scheduler-flags": "mh-fallback"}, FLAG_SCHED_1),
        ({"scheduler": "mh", "scheduler-flags": ""}, 0),
        ({"scheduler": "mh", "source-hash-port": "false"}, 0),
        ({"scheduler": "sh", "source-hash-port": "true"}, FLAG_SCHED_2),
        (
            {"scheduler": "sh", "scheduler-flags": "sh-fallback", "source-hash-port": "true"},
            FLAG_SCHED_1 | FLAG_SCHED_2,
        ),
        ({"scheduler": "mh", "scheduler-flags": "mh-port", "source-hash-port": "false"}, 0),
    ],
)
def test_flags_of_hashing_schedulers(annotations: dict[str, str], flags: int) -> None:
    assert spec_of(annotations).flags == flags
    assert ignored(annotations) == {}


def test_flags_of_a_scheduler_that_does_not_hash_are_ignored_with_its_name() -> None:
    wrong = {"scheduler": "wrr", "scheduler-flags": "sh-port", "source-hash-port": "true"}
    assert spec_of(wrong).flags == 0
    assert ignored(wrong) == dict.fromkeys(
        ("scheduler-flags", "source-hash-port"), "has no effect with scheduler wrr; ignored"
    )
    assert ignored({"source-hash-port": "true"}, scheduler="sh") == {}
    assert ignored({"source-hash-port": "false", "scheduler-flags": ""}) == {}


def test_weights_are_by_the_most_specific_key() -> None:
    assert weights({"weights": "zone/zone-b=3"}) == [1, 1, 3, 1]
    assert weights({"weights": "others=2, own-zone=10, own-node=20"}) == [20, 10, 2, 2]
    assert weights({"weights": "own-node=20, node/node-a=7, address/10.244.1.5=9, zone/zone-a=5"}) == [9, 5, 1, 1]
    assert weights({"weights": "own-zone=10, own-node=10"}, node_context(node_name="", zone="")) == [1, 1, 1, 1]


def with_labels(annotations: dict[str, str], *slices: EndpointSlice, **labels: str) -> Compiler:
    """Return a compiler of shop/web with *annotations*, where node-a, written as node_a, has the label *labels*."""
    made = Compiler(lambda _node, _addresses: node_context())
    made.handle_event(ServiceUpserted(annotated(annotations)))
    for each in slices or (endpoint_slice(endpoints=ENDPOINTS),):
        made.handle_event(SliceUpserted(each))
    for node, label in labels.items():
        made.handle_event(peer(node.replace("_", "-"), label))
    made.compile()
    return made


def peer(node: str, *labels: str) -> PeerUpserted:
    return PeerUpserted(node, (), labels)


def weights_in(made: Compiler) -> list[int]:
    specs = [made.desired.rows[RealServer(SERVER, each.address, 8080)] for each in ENDPOINTS]
    return [spec.weight for spec in specs if isinstance(spec, RealServerSpec)]


def test_weights_by_label_are_those_of_the_nodes_that_have_it() -> None:
    """node-a, node-b and node-c have an endpoint each, and one endpoint has no node."""
    labels = {"node_a": "pool=large", "node_c": "pool=old"}
    assert weights_in(with_labels({"weights": "pool=large:4, pool=old:2"}, **labels)) == [4, 1, 2, 1]
    assert weights_in(with_labels({"weights": "pool=large:4, others=7"}, **labels)) == [4, 7, 7, 7]
    assert weights_in(with_labels({"weights": "pool=lar:4"}, **labels)) == [1, 1, 1, 1]
    assert weights_in(with_labels({"weights": "pool=large:4"})) == [1, 1, 1, 1], "no Node is known"


def test_weight_by_label_yields_to_node_and_goes_before_zone() -> None:
    labels = {"node_a": "pool=large", "node_b": "pool=large", "node_c": "pool=large"}
    text = "zone/zone-a=2, own-zone=3, pool=large:5, node/node-b=7, others=9"
    assert weights_in(with_labels({"weights": text}, **labels)) == [5, 7, 5, 9]
    assert weights_in(with_labels({"weights": f"own-node=6, {text}"}, **labels)) == [6, 7, 5, 9]


def test_of_several_labels_of_a_node_the_one_written_first_counts() -> None:
    for text, weight in (("pool=large:4, disk=ssd:2", 4), ("disk=ssd:2, pool=large:4", 2)):
        made = with_labels({"weights": text})
        made.handle_event(peer(THERE, "disk=ssd", "pool=large"))
        made.compile()
        assert weights_in(made) == [1, weight, 1, 1]


@pytest.mark.parametrize("number", [1, 2])
def test_label_that_changes_compiles_the_services_that_name_it_and_have_endpoints_there(number: int) -> None:
    """Also where the endpoints are in several slices, which are cached."""
    slices = [endpoint_slice(endpoints=ENDPOINTS[:2]), endpoint_slice(endpoints=ENDPOINTS[2:], suffix="2")]
    made = with_labels({"weights": "pool=large:4"}, *(slices if number == 2 else ()))
    others = {"zones": "zone/zone-a=3", "disks": "disk=ssd:3", "far": "pool=large:3", "plain": ""}
    for index, (base, text) in enumerate(others.items()):
        given = annotated({"weights": text} if text else {})
        made.handle_event(ServiceUpserted(replace(given, name=name(base), cluster_ips=(f"10.96.1.{index}",))))
        on = "node-z" if base == "far" else THERE
        made.handle_event(SliceUpserted(endpoint_slice(base, [endpoint(f"10.244.9.{index}", on)])))
    made.compile()
    for event in (peer(THERE), peer(THERE, "zone=x"), peer("node-y", "pool=large")):
        made.handle_event(event)
        assert not made.has_work(), event
    made.handle_event(peer(THERE, "pool=large"))
    assert list(made.cluster.dirty) == [name("web")]
    made.compile()
    assert weights_in(made) == [1, 4, 1, 1]
    made.handle_event(PeerUpserted(THERE, ("192.168.3.11",), ("pool=large",)))
    assert not made.has_work(), "an address of a node"
    made.handle_event(PeerDeleted(THERE))
    assert list(made.cluster.dirty) == [name("web")]
    made.compile()
    assert weights_in(made) == [1, 1, 1, 1]


def test_nodes_are_needed_while_the_weights_of_a_served_service_name_a_label() -> None:
    made = with_labels({"weights": "pool=large:4, pool=old:2, a.b/disk=:3, zone/zone-a=2"})
    assert made.peer_needs == PeerNeeds(labels=frozenset({"pool", "a.b/disk"}))
    made.handle_event(ServiceUpserted(annotated({"weights": "pool=new:4"})))
    assert made.peer_needs == PeerNeeds(labels=frozenset({"pool"}))
    for given in (
        annotated({"weights": "zone/zone-a=2"}),
        annotated({"weights": "pool=new:4"}, proxy_name="other"),
        replace(annotated({"weights": "pool=new:4"}), cluster_ips=()),
        annotated({"weights": "pool=new:4", "scheduler": "rr"}),  # these weights are ignored
        annotated({"weights": "pool=new:4", "scheduler": "dh"}),
    ):
        made.handle_event(ServiceUpserted(annotated({"weights": "pool=new:4"})))
        made.handle_event(ServiceUpserted(given))
        assert made.peer_needs == NO_NEEDS
    made.handle_event(ServiceUpserted(annotated({"weights": "pool=new:4"})))
    made.handle_event(ServiceDeleted(name("web")))
    assert not made.peer_needs


def test_nodes_are_needed_as_weights_come_into_force_on_this_node() -> None:
    schedulers = iter(["dh", "wrr", "rr", "dh"])

    def next_context(_node: object, _addresses: object) -> NodeContext:
        return node_context(scheduler=next(schedulers))

    made = Compiler(next_context)
    made.handle_event(ServiceUpserted(annotated({"weights": "pool=new:4"})))
    seen = []
    for _ in range(3):
        seen.append(bool(made.peer_needs))
        made.compile()
        seen.append(bool(made.peer_needs))
        made.reconfigure(next_context)
    assert seen == [False, False, True, True, True, True]
    assert not made.peer_needs
    twinless = Compiler(lambda _node, _addresses: node_context())
    twinless.handle_event(ServiceUpserted(annotated({"weights": "pool=new:4"})))
    assert twinless.peer_needs
    twinless.record_missing_schedulers(["wrr"])
    assert not twinless.peer_needs


def test_server_that_refuses_nodes_is_named_for_the_services_that_need_them_until_it_lists_them() -> None:
    made = with_labels({"weights": "pool=large:4, zone/zone-a=2"})
    other = replace(annotated({"weights": "zone/zone-a=2"}), name=name("other"), cluster_ips=("10.96.1.1",))
    made.handle_event(ServiceUpserted(other))
    made.compile()
    made.handle_event(PeersRefused("nodes is forbidden"))
    made.compile()
    (refusal,) = made.refusals
    assert (refusal.reason, refusal.service) == (SETTING_IGNORED, name("web"))
    assert refusal.subject == f"{PREFIX}weights=pool=large:4, zone/zone-a=2"
    assert refusal.message == (
        "weights by label need all Nodes, which the API server refuses: nodes is forbidden; ignored"
    )
    assert refusal.hint == "let the role list and watch nodes, all of them"
    assert weights_in(made) == [2, 2, 1, 1], "the other weights"
    made.handle_event(PeersRefused(""))
    made.compile()
    assert not [*made.refusals]


@pytest.mark.parametrize(
    ("node", "twin"), [("rr", "wrr"), ("lc", "wlc"), ("wrr", "wrr"), ("wlc", "wlc"), ("mh", "mh"), ("sed", "sed")]
)
def test_weights_make_the_scheduler_of_the_node_a_weighted_one(node: str, twin: str) -> None:
    assert spec_of({"weights": "others=2"}, scheduler=node).scheduler == twin
    assert ignored({"weights": "others=2"}, scheduler=node) == {}


@pytest.mark.parametrize("scheduler", ["rr", "lc", "dh"])
def test_weights_beside_an_unweighted_scheduler_of_the_service_itself_are_ignored(scheduler: str) -> None:
    both = {"weights": "others=2", "scheduler": scheduler}
    assert spec_of(both).scheduler == scheduler
    assert weights(both) == [1, 1, 1, 1]
    assert ignored(both) == {"weights": f"has no effect with scheduler {scheduler}; ignored"}


def test_a_scheduler_that_the_kernel_lacks_is_that_of_the_node_instead() -> None:
    missing = frozenset(("wrr", "twos"))
    assert spec_of({"scheduler": "twos"}, missing_schedulers=missing).scheduler == "rr"
    assert "the kernel of this node lacks" in ignored({"scheduler": "twos"}, missing_schedulers=missing)["scheduler"]
    assert spec_of({"weights": "others=2"}, missing_schedulers=missing).scheduler == "rr"
    assert weights({"weights": "others=2"}, node_context(missing_schedulers=missing)) == [1, 1, 1, 1]
    assert "wrr" in ignored({"weights": "others=2"}, missing_schedulers=missing)["weights"]
    both = {"weights": "others=2", "scheduler": "wrr"}
    assert set(ignored(both, missing_schedulers=missing)) == {"weights", "scheduler"}


def test_affinity_has_the_timeout_and_the_mask_of_the_annotations() -> None:
    masked = {"affinity-timeout": "48h", "affinity-mask": "ipv4/24,ipv6/56"}
    rows = compiled(annotated(masked, affinity_timeout_s=600), node_context())
    assert rows[SERVER] == VirtualServerSpec("rr", FLAG_PERSISTENT, 172800, "255.255.255.0")
    assert rows[SERVER_6] == VirtualServerSpec("rr", FLAG_PERSISTENT, 172800, "56")
    assert spec_of({"affinity-mask": "ipv4/32"}, 600) == VirtualServerSpec("rr", FLAG_PERSISTENT, 600)
    only_ipv6 = compiled(annotated({"affinity-mask": "ipv6/64"}, affinity_timeout_s=600), node_context())
    assert (only_ipv6[SERVER], only_ipv6[SERVER_6]) == (
        VirtualServerSpec("rr", FLAG_PERSISTENT, 600),
        VirtualServerSpec("rr", FLAG_PERSISTENT, 600, "64"),
    )


def test_affinity_settings_without_affinity_are_ignored() -> None:
    masked = {"affinity-timeout": "48h", "affinity-mask": "ipv4/24"}
    assert spec_of(masked) == VirtualServerSpec("rr")
    assert ignored(masked) == dict.fromkeys(masked, "has no effect without spec.sessionAffinity: ClientIP; ignored")
    assert ignored(masked, 600) == {}


def test_limit_of_connections_is_that_of_each_endpoint_of_each_family() -> None:
    rows = compiled(annotated({"max-connections": "100", "weights": "own-node=5"}), node_context())
    assert rows[RealServer(SERVER, "10.244.1.5", 8080)] == RealServerSpec(5, 100, 100)
    assert rows[RealServer(SERVER, "10.244.2.5", 8080)] == RealServerSpec(1, 100, 100)
    assert rows[RealServer(SERVER_6, "fd00:1::5", 8080)] == RealServerSpec(5, 100, 100)


def test_settings_apply_where_a_service_has_several_slices() -> None:
    slices = [endpoint_slice(endpoints=[each], suffix=str(index)) for index, each in enumerate(ENDPOINTS)]
    given = annotated({"weights": "zone/zone-b=3", "max-connections": "7"})
    rows = compile_service(given, slices, node_context())
    assert rows == compile_service(given, [endpoint_slice(endpoints=ENDPOINTS)], node_context())


def test_a_missing_scheduler_has_its_services_compiled_again_and_named() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context())
    compiler.handle_event(ServiceUpserted(annotated({"scheduler": "twos"})))
    compiler.handle_event(SliceUpserted(endpoint_slice()))
    compiler.compile()
    compiler.record_missing_schedulers(["twos", "rr"])
    assert compiler.compile() == [SERVER, SERVER_6]
    assert compiler.desired.rows[SERVER] == VirtualServerSpec("rr")
    (refusal,) = compiler.refusals.of(name("web"))
    assert (refusal.reason, refusal.hint) == (SETTING_IGNORED, "modprobe ip_vs_twos")
    compiler.record_missing_schedulers(["twos"])
    assert not compiler.has_work(), "compiled again for nothing new"
    compiler.reconfigure(lambda _node, _addresses: node_context())
    compiler.compile()
    assert compiler.desired.rows[SERVER] == VirtualServerSpec("twos"), "a reload does not try again"


def test_no_settings_means_no_refusals_and_one_value() -> None:
    assert service().settings is NO_SETTINGS
    assert ignored_of(service()) == {}


WITHOUT_ADDRESS: tuple[tuple[str, dict[str, object]], ...] = (
    ("of type ExternalName", {"type": "ExternalName"}),
    ("without a ClusterIP (headless)", {}),
)


@pytest.mark.parametrize(("what", "fields"), WITHOUT_ADDRESS)
def test_settings_of_a_service_that_no_node_serves_are_named(what: str, fields: dict[str, object]) -> None:
    settings = read_settings({PREFIX + "scheduler": "wlc", PREFIX + "weights": "many", PREFIX + "typo": "1"})
    given = service(cluster_ips=(), settings=settings, **fields)  # type: ignore[arg-type]
    assert ignored_of(given) == {
        "scheduler": f"has no effect on a Service {what}; ignored",
        "weights": "'many' is no weight of endpoints; ignored",
        "typo": "is unknown; ignored",
    }


def test_settings_of_a_service_of_another_proxy_are_not_judged() -> None:
    settings = read_settings({PREFIX + "scheduler": "wrong"})
    assert ignored_of(service(settings=settings, proxy_name="other")) == {}


# The first endpoint


def order(
    node: str, service_text: str = "web", slices: int = 1, *, scheduler: str = "", node_scheduler: str = "rr"
) -> list[str]:
    """Return the addresses of the endpoints in the order in which *node* adds them first."""
    addresses = [f"10.244.{number}.5" for number in range(10)]
    size = len(addresses) // slices
    parts = [
        endpoint_slice(service_text, addresses[start : start + size], suffix=str(start))
        for start in range(0, len(addresses), size)
    ]
    given = service(service_text, settings=ServiceSettings(scheduler=scheduler))
    rows = compile_service(given, parts, node_context(node_name=node, scheduler=node_scheduler))
    return [key.address for key in rows if isinstance(key, RealServer)]


@pytest.mark.parametrize("slices", [1, 2, 5, 10])
def test_the_first_and_the_last_endpoint_differ_by_node_and_by_service(slices: int) -> None:
    orders = [order(f"node-{number}", slices=slices) for number in range(200)]
    assert all(sorted(each) == sorted(orders[0]) for each in orders), "other rows"
    for index in (0, -1):
        counts = Counter(each[index] for each in orders)
        assert len(counts) == len(orders[0])
        assert max(counts.values()) < 40, counts
    by_service = Counter(order("node-a", f"web-{number}", slices)[-1] for number in range(200))
    assert len(by_service) == len(orders[0])


@pytest.mark.parametrize("scheduler", ["sh", "mh", "dh"])
def test_the_order_is_the_same_on_all_nodes_where_a_hash_and_the_order_decide(scheduler: str) -> None:
    own = {order(f"node-{number}", slices=2, scheduler=scheduler)[0] for number in range(20)}
    of_node = {order(f"node-{number}", slices=2, node_scheduler=scheduler)[0] for number in range(20)}
    assert own == of_node == {"10.244.0.5"}


def test_the_order_is_the_same_each_time_and_as_given_where_the_node_is_unknown() -> None:
    assert order("node-a") == order("node-a")
    assert order("") == sorted(order(""))


# Health checks


OF_HEALTH_CHECK = {"health-check-interval": "2s", "health-check-threshold": "5"}


@pytest.mark.parametrize("health_check", [{}, {"health-check": "none"}])
def test_what_belongs_to_a_health_check_is_ignored_without_one(health_check: dict[str, str]) -> None:
    message = "has no effect without health-check: tcp; ignored"
    assert ignored({**health_check, **OF_HEALTH_CHECK}) == dict.fromkeys(OF_HEALTH_CHECK, message)


def test_health_check_is_ignored_with_all_that_belongs_to_it_where_nothing_can_be_set_aside() -> None:
    given = {"health-check": "tcp", **OF_HEALTH_CHECK}
    assert ignored(given) == {}
    message = "has no effect with scheduler dh, which does not pass over endpoints of weight 0; ignored"
    assert ignored({"scheduler": "dh", **given}) == dict.fromkeys(given, message)


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_settings_of_tcp_are_ignored_without_a_tcp_port(protocol: Protocol) -> None:
    given = {"health-check": "tcp", **OF_HEALTH_CHECK, "drain-deadline": "30s", "max-connections": "5"}
    message = "has no effect without a TCP port; ignored"
    expected = dict.fromkeys(("health-check", *OF_HEALTH_CHECK, "drain-deadline"), message)
    assert ignored(given, ports=(port(protocol=protocol),)) == expected
    assert ignored(given, ports=(port(protocol=protocol), port(81))) == {}


@pytest.mark.parametrize(("weight", "has_effect"), [("6553", True), ("6554", False)])
def test_slow_start_is_ignored_beside_weights_that_have_no_tenths(weight: str, has_effect: bool) -> None:
    annotations = {"scheduler": "wrr", "slow-start": "30s", "weights": f"zone/a={weight}, others=1"}
    assert ("slow-start" not in str(ignored(annotations))) is has_effect
    assert weights(annotations) == [10 if has_effect else 1] * 4, "also where no endpoint has the large weight"
