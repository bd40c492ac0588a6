"""Missing ipset modules: both adapters name the set type and its module, and the agent goes on when it is there."""

from __future__ import annotations

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.ipset.command import IpsetCommandAdapter
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES
from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder
from tests.e2e.safe.modules import IPSET, without_modules

pytestmark = pytest.mark.kernel

MODULES = {
    "hash:ip": "ip_set_hash_ip",
    "hash:ip,port": "ip_set_hash_ipport",
    "hash:ip,port,ip": "ip_set_hash_ipportip",
    "hash:ip,port,net": "ip_set_hash_ipportnet",
    "bitmap:port": "ip_set_bitmap_port",
}
ADAPTERS = [IpsetAdapter, IpsetCommandAdapter]
Sets = IpsetAdapter | IpsetCommandAdapter


def create(adapter: Sets, set_type: str) -> str:
    """Create a set of ours of *set_type* and return the error."""
    key, spec = next((k, s) for k, s in kube_names.ipsets("IPv4").items() if s.type == set_type)
    (failure,) = adapter.apply([Step("add", key, spec)])
    return failure.message


@pytest.mark.parametrize("make_adapter", ADAPTERS)
@pytest.mark.parametrize("set_type", MODULES)
def test_a_missing_set_type_names_its_module(namespace: Namespace, make_adapter: type[Sets], set_type: str) -> None:
    with without_modules(MODULES[set_type]), namespace.inside():
        adapter = make_adapter(FAMILIES)
        message = create(adapter, set_type)
        adapter.close()
    assert f"modprobe {MODULES[set_type]}" in message
    assert "Unknown" not in message


@pytest.mark.parametrize("make_adapter", ADAPTERS)
def test_a_kernel_without_ipset_names_the_module(namespace: Namespace, make_adapter: type[Sets]) -> None:
    with without_modules(*IPSET), namespace.inside():
        adapter = make_adapter(FAMILIES)
        with pytest.raises(KernelError, match=r"modprobe ip_set\)"):
            adapter.read(adapter.scopes()[0])
        adapter.close()


@pytest.mark.parametrize(
    ("entry", "text"),
    [("0.0.0.0", "cannot be an entry"), ("fd00::1", "not an entry for this set")],
)
def test_a_refused_entry_has_a_text(namespace: Namespace, entry: str, text: str) -> None:
    with namespace.inside():
        adapter = IpsetAdapter(FAMILIES)
        adapter.apply([Step("add", Ipset("KUBE-IPVS-IPS"), IpsetSpec("hash:ip", "IPv4"))])
        (failure,) = adapter.apply([Step("add", IpsetEntry("KUBE-IPVS-IPS", entry))])
        adapter.close()
    assert text in failure.message


@pytest.mark.parametrize("modules", [("ip_set_hash_ipportnet",), IPSET], ids=["a set type", "ipset"])
def test_the_agent_names_the_module_and_programs_everything_when_it_comes(
    namespace: Namespace, folder: Folder, modules: tuple[str, ...]
) -> None:
    with without_modules(*modules) as load_by_hand, AgentProcess(namespace, folder.path) as agent:
        agent.wait_for(r"\(modprobe ip_set\S*\)")
        assert "Unknown error" not in "\n".join(agent.lines())
        since = len(agent.lines())
        load_by_hand(*modules)
        agent.wait_for(r"Synced.* 0 pending", since)
        assert "KUBE-6-LOAD-BALANCER-SOURCE-CID" in shell(namespace, "ipset list -n")
