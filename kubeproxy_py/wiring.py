"""Wiring: a configuration -> the parts of an agent, put together.

Law: it makes and connects, and decides nothing.  Heavy libraries are imported by the parts that need them, when they
are made.
"""

import logging
from collections.abc import Callable
from functools import partial
from socket import gethostname
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from kubeproxy_py.agent import Agent, Timing
from kubeproxy_py.compile.base import Machine, setting_paths, setting_rows
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.site import Host, make_site
from kubeproxy_py.config.load import Loaded, node_name
from kubeproxy_py.kernel import SYSCTLS, Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Problem
from kubeproxy_py.sources import Source

if TYPE_CHECKING:
    from kubeproxy_py.kernel.dispatch import Adapter
    from kubeproxy_py.kernel.probe import HostFacts

log = logging.getLogger(__name__)


class Parts(Struct, frozen=True, gc=False):
    """What an agent is made of besides itself."""

    kernel: Kernel
    compiler: Compiler
    source: Source


def real_parts(loaded: Loaded) -> Parts:
    """The parts for this host.  Raises KernelError with all that the host lacks."""
    from kubeproxy_py.kernel.linux import LinuxKernel
    from kubeproxy_py.kernel.probe import probe

    facts = probe(loaded.own.iptables_flavour)
    facts.require()
    for problem in facts.problems:
        log.warning(str(problem))
    version = ".".join(map(str, facts.iptables_version))
    ipset = "ipset restore" if facts.ipset_by_tool else "netlink"
    log.info(
        f"this host: Linux {facts.kernel_release}, {' and '.join(facts.families)}, "
        f"iptables {version} ({facts.flavour}), ipsets by {ipset}"
    )
    machine = Machine((facts.kernel_version[0], facts.kernel_version[1]), facts.cpus)
    kernel = LinuxKernel(
        facts.programs,
        sysctls=setting_paths(loaded.config, machine),
        ipset_by_tool=facts.ipset_by_tool,
        rules=_rules_by_libiptc(facts) if loaded.own.iptables_backend == "libiptc" else None,
    )
    name = node_name(loaded.config, gethostname())
    host = Host(name, facts.families, facts.random_fully)
    return Parts(kernel, _compiler(loaded, kernel, host, machine), make_source(loaded, name))


def _rules_by_libiptc(facts: "HostFacts") -> "Adapter":
    from kubeproxy_py.kernel.libiptc import LibiptcAdapter

    return LibiptcAdapter(facts.programs, facts.flavour)


def imagined_parts(loaded: Loaded) -> Parts:
    """The parts for a host that has nothing yet, which nobody needs to be root for."""
    kernel = MemoryKernel()
    name = node_name(loaded.config, gethostname())
    return Parts(kernel, _compiler(loaded, kernel, Host(name), Machine()), make_source(loaded, name))


def make_source(loaded: Loaded, name: str) -> Source:
    """The folder of manifests if there is one, else the API server."""
    if loaded.own.manifests:
        from kubeproxy_py.sources.files import ManifestFolder

        return ManifestFolder(loaded.own.manifests, name)
    from kubeproxy_py.sources.kube import KubeSource

    return KubeSource(loaded.config.client_connection.kubeconfig, loaded.own.master, name)


def make_agent(loaded: Loaded, parts: Parts, on_problem: Callable[[Problem], None]) -> Agent:
    """The agent of these *parts*."""
    ipvs = loaded.config.ipvs
    return Agent(
        parts.kernel,
        parts.compiler,
        monotonic,
        exclude=ipvs.exclude_cidrs,
        timing=Timing(ipvs.sync_period_s, ipvs.min_sync_period_s),
        on_problem=on_problem,
    )


def _compiler(loaded: Loaded, kernel: Kernel, host: Host, machine: Machine) -> Compiler:
    settings = setting_rows(loaded.config, machine, kernel.read(SYSCTLS))
    return Compiler(partial(make_site, loaded.config, host), settings)
