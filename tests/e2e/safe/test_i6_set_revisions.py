"""Sets have the lowest revision that our entries need, so that older ipset programs can list them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.ipset.constants import (
    ATTR_REVISION,
    ATTR_TYPENAME,
    IPSET_CMD_LIST,
    NEEDED_REVISIONS,
)
from kubeproxy_py.kernel.ipset.encode import encode_list, message_type
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, NLM_F_ACK, Socket, message
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, Family
from lab.namespace import new_namespace

pytestmark = pytest.mark.kernel

_NFGENMSG_SIZE = 4
ENTRIES = {
    "KUBE-CLUSTER-IP": ("10.96.0.10,tcp:80", "10.96.0.10,sctp:9000"),
    "KUBE-6-CLUSTER-IP": ("fd00:10:96::a,sctp:9000",),
    "KUBE-LOOP-BACK": ("10.244.1.5,sctp:9000,10.244.1.5",),
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": ("203.0.113.9,sctp:9000,192.0.2.0/24",),
    "KUBE-IPVS-IPS": ("10.96.0.10",),
    "KUBE-NODE-PORT-TCP": ("30080",),
}


@pytest.fixture
def sets() -> Iterator[IpsetAdapter]:
    with new_namespace("revisions") as namespace, namespace.inside():
        adapter = IpsetAdapter(FAMILIES)
        yield adapter
        adapter.close()


def _all_sets(family: Family) -> dict[Ipset, IpsetSpec]:
    definitions = (*kube_names.IPSET_DEFINITIONS, *kube_names.POLICY_IPSET_DEFINITIONS)
    return kube_names.ipsets(family, definitions=definitions)


def create_all(sets: IpsetAdapter) -> None:
    specs = [item for family in FAMILIES for item in _all_sets(family).items()]
    assert sets.apply([Step("add", key, spec) for key, spec in specs]) == []


def revision(name: str) -> tuple[str, int]:
    """Return the type and the revision of a set, as the kernel lists it."""
    netlink = Socket(NETLINK_NETFILTER)
    body = netlink.dump(message(message_type(IPSET_CMD_LIST), NLM_F_ACK, encode_list(name, header_only=True)))[0]
    netlink.close()
    attrs = parse_attributes(body, _NFGENMSG_SIZE)
    return read_string(attrs[ATTR_TYPENAME]), attrs[ATTR_REVISION][0]


def test_every_set_has_the_revision_that_its_entries_need(sets: IpsetAdapter) -> None:
    create_all(sets)
    found = {spec.type: revision(key.name) for family in FAMILIES for key, spec in _all_sets(family).items()}
    assert found == {kind: (kind.removesuffix(" skbinfo"), needed) for kind, needed in NEEDED_REVISIONS.items()}


def test_entries_of_every_protocol_are_accepted_and_read_back_in_that_revision(sets: IpsetAdapter) -> None:
    create_all(sets)
    rows = [IpsetEntry(name, entry) for name, entries in ENTRIES.items() for entry in entries]
    assert sets.apply([Step("add", key) for key in rows]) == []
    for scope in sets.scopes():
        read = {key for key in sets.read(scope) if isinstance(key, IpsetEntry)}
        assert read == {key for key in rows if key.set == scope.name}
    saved = subprocess.check_output(["ipset", "save"], text=True).splitlines()
    assert {f"add {key.set} {key.entry}" for key in rows} <= set(saved)


def test_a_set_of_a_higher_revision_is_left_as_it_is(sets: IpsetAdapter) -> None:
    subprocess.run(["ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port"], check=True)
    before = revision("KUBE-CLUSTER-IP")
    create_all(sets)
    assert before[1] > NEEDED_REVISIONS["hash:ip,port"]
    assert revision("KUBE-CLUSTER-IP") == before


def test_a_set_that_is_replaced_for_its_size_gets_the_lowest_revision(sets: IpsetAdapter) -> None:
    subprocess.run(["ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port"], check=True)
    subprocess.run(["ipset", "add", "KUBE-CLUSTER-IP", "10.96.0.10,tcp:80"], check=True)
    step = Step("update", Ipset("KUBE-CLUSTER-IP"), IpsetSpec("hash:ip,port", "IPv4", maxelem=131072))
    assert sets.apply([step]) == []
    assert revision("KUBE-CLUSTER-IP") == ("hash:ip,port", NEEDED_REVISIONS["hash:ip,port"])
    assert b"10.96.0.10,tcp:80" in subprocess.check_output(["ipset", "save", "KUBE-CLUSTER-IP"])
