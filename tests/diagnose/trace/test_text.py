"""The text of a trace: each kind of line, and the verdict last; its JSON document."""

import json

import pytest

from kubeproxy_py.diagnose.trace.document import trace_json
from kubeproxy_py.diagnose.trace.ruleset import ruleset_of_save
from kubeproxy_py.diagnose.trace.text import trace_text
from tests.diagnose.trace.traces import (
    CLIENT,
    CLUSTER_IP,
    LB_IP,
    NODE_IP,
    OTHER_POD,
    POD,
    traced,
    with_foreign,
)


def lines(source: str, target: str, **fields: object) -> list[str]:
    text = trace_text(traced(source, target, **fields))  # type: ignore[arg-type]
    return [" ".join(line.split()) for line in text.splitlines()]


def test_trace_of_a_client_that_source_ranges_exclude() -> None:
    assert lines(CLIENT, f"{LB_IP}:443") == [
        f"tcp from {CLIENT} (a client) to {LB_IP}:443: shop/shop (LoadBalancer)",
        "nat PREROUTING rule 1 goes to KUBE-SERVICES",
        f"nat KUBE-SERVICES rule 2 {LB_IP},tcp:443 is in KUBE-LOAD-BALANCER: goes to KUBE-LOAD-BALANCER",
        "nat KUBE-LOAD-BALANCER rule 1 goes to KUBE-MARK-MASQ",
        "nat KUBE-MARK-MASQ rule 1 gets the mark 0x4000",
        f"nat KUBE-SERVICES rule 6 {LB_IP} is an address of this node: goes to KUBE-NODE-PORT",
        f"nat KUBE-SERVICES rule 8 {LB_IP},tcp:443 is in KUBE-LOAD-BALANCER: accepted",
        f"routing {LB_IP} is bound to kube-ipvs0: delivered to this node",
        "filter INPUT rule 1 goes to KUBE-IPVS-FILTER",
        f"filter KUBE-IPVS-FILTER rule 1 {LB_IP},tcp:443 is in KUBE-LOAD-BALANCER: returns",
        "filter INPUT rule 2 goes to KUBE-PROXY-FIREWALL",
        f"filter KUBE-PROXY-FIREWALL rule 1 {LB_IP},tcp:443 is in KUBE-LOAD-BALANCER-FW: goes to "
        "KUBE-SOURCE-RANGES-FIREWALL",
        "filter KUBE-SOURCE-RANGES-FIREWALL rule 2 dropped",
        "rules of other programs were not looked at (--kernel does)",
        f"dropped by KUBE-SOURCE-RANGES-FIREWALL: source {CLIENT} is not in loadBalancerSourceRanges of shop/shop "
        "(192.0.2.0/24, 198.18.0.0/15)",
        "look at: kubectl -n shop edit service shop: add the client's network to spec.loadBalancerSourceRanges, if it "
        "may connect",
    ]


def test_trace_of_a_pod_has_each_real_server_with_its_source() -> None:
    printed = lines(POD, f"{CLUSTER_IP}:80")
    assert printed[0] == f"tcp from {POD} (a client, by cni0) to {CLUSTER_IP}:80: shop/web (ClusterIP)"
    assert f"server virtual server {CLUSTER_IP}:80/TCP: 2 real servers" in printed
    position = printed.index("to 10.244.1.5:8080 weight 1 (this node), by cni0")
    assert printed[position + 1 : position + 5] == [
        "filter OUTPUT rule 1 goes to KUBE-IPVS-OUT-FILTER",
        "nat POSTROUTING rule 1 goes to KUBE-POSTROUTING",
        f"nat KUBE-POSTROUTING rule 1 {POD},tcp:8080,{POD} is in KUBE-LOOP-BACK: masqueraded",
        "masqueraded: sees 10.244.1.1 as the source",
    ]
    assert f"not masqueraded: sees {POD} as the source" in printed
    assert "answered: by one of 2 real servers of shop/web (ClusterIP)" in printed
    assert not any(line.startswith("look at") for line in printed)


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (
            CLIENT,
            "10.96.0.40:80",
            "refused: IPVS has no endpoint for 10.96.0.40:80/TCP: no EndpointSlice",
        ),
        (
            CLIENT,
            f"{CLUSTER_IP}:81",
            f"rejected by KUBE-IPVS-FILTER: {CLUSTER_IP} is a Service address without a port 81/tcp",
        ),
        (
            CLIENT,
            f"{NODE_IP}:22",
            f"this node: no virtual server has {NODE_IP}:22/tcp, and a program of this node has to answer",
        ),
        (CLIENT, "198.51.100.99:80", "not answered here: 198.51.100.99 is not an address of this node"),
    ],
)
def test_verdict_is_a_line_of_its_own(source: str, target: str, verdict: str) -> None:
    assert any(line.startswith(verdict) for line in lines(source, target))


def test_foreign_rule_is_printed_as_it_is() -> None:
    ruleset = with_foreign("*filter", ":INPUT ACCEPT", f"-A INPUT -s {CLIENT} -j DROP")
    printed = lines(CLIENT, f"{CLUSTER_IP}:80", ruleset=ruleset)
    assert f"filter INPUT rule 1 (of another program) -s {CLIENT} -j DROP: dropped" in printed
    assert printed[-2:] == [
        f"dropped: by a rule of another program: filter INPUT, rule 1: -s {CLIENT} -j DROP",
        "look at: find out which program wrote it: iptables -t filter -S INPUT",
    ]
    assert "rules of other programs were not looked at (--kernel does)" not in printed


def test_rule_that_may_match_gives_both_verdicts() -> None:
    ruleset = with_foreign("*filter", ":INPUT ACCEPT", "-A INPUT -m recent --set -j DROP")
    printed = lines(CLIENT, f"{CLUSTER_IP}:80", ruleset=ruleset)
    assert (
        "filter INPUT rule 1 (of another program) -m recent --set -j DROP: may match (-m recent --set cannot be "
        "evaluated); then dropped"
    ) in printed
    assert "cannot tell, because of rules that may match:" in printed
    assert any(line.startswith("unless one does, answered: by one of 2 real servers") for line in printed)
    assert any(line.startswith("if filter INPUT rule 1 (-m recent --set -j DROP): dropped") for line in printed)


def test_policy_is_a_step() -> None:
    printed = lines(CLIENT, f"{CLUSTER_IP}:80", ruleset=with_foreign("*filter", ":INPUT DROP"))
    assert "filter INPUT (of another program) no rule of INPUT accepts it: dropped" in printed
    assert printed[-2].startswith("dropped: the policy of filter INPUT is DROP, and no rule accepts the packet")


def test_notes_are_printed() -> None:
    assert any(
        line.startswith("note: 192.0.2.1 is assumed for --from outside") for line in lines("outside", "shop/web")
    )
    assert any(
        "is on another node and sees the client's own address" in line for line in lines("10.244.3.3", "shop/web")
    )


def test_document_has_its_form() -> None:
    document = json.loads(trace_json(traced(OTHER_POD, "shop/web")))
    outcome = document["outcomes"][0]
    assert set(document) == {
        "version", "packet", "service", "certain", "exitStatus", "foreignRules", "notes", "outcomes", "text",
    }  # fmt: skip
    assert set(outcome) == {
        "fate", "reason", "remedy", "ifTheseMatch", "steps", "virtualServer", "scheduler", "branches", "draining",
        "notes",
    }  # fmt: skip
    assert (document["version"], document["exitStatus"], document["certain"]) == (1, 0, True)
    assert document["packet"]["source"] == OTHER_POD
    assert outcome["virtualServer"] == f"{CLUSTER_IP}:80/TCP"
    assert {branch["masqueraded"] for branch in outcome["branches"]} == {False}
    assert outcome["steps"][1]["chain"] == "KUBE-SERVICES"


def test_document_of_an_uncertain_trace_names_the_rules() -> None:
    ruleset = with_foreign("*filter", ":INPUT ACCEPT", "-A INPUT -m recent --set -j DROP")
    document = json.loads(trace_json(traced(CLIENT, "shop/web", ruleset=ruleset)))
    assert (document["certain"], document["exitStatus"]) == (False, 1)
    assert [step["rule"] for step in document["outcomes"][1]["ifTheseMatch"]] == ["-m recent --set -j DROP"]


def test_what_was_not_looked_at_is_a_note() -> None:
    ruleset = ruleset_of_save([], ("rules of nf_tables are not looked at",))
    assert "note: rules of nf_tables are not looked at" in lines(CLIENT, "shop/web", ruleset=ruleset)
