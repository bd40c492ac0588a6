"""How the agent is configured for the contract, and what becomes of all requests there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, RequestResult, send_series
from tests.e2e.contract.ends import cases
from tests.e2e.contract.icmp import refused_ports
from tests.e2e.contract.services import NODE_PORT_ADDRESSES, SERVICE_CIDR, contract_objects, place_of
from tests.e2e.contract.table import CONFIGURATIONS, POLICIES, ROWS, Configuration, Policies
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import VERSIONS
from tests.e2e.probing import wait_served
from tests.e2e.serving import cluster_and_servers

_AGAIN_S = 8.0


class Setting(NamedTuple):
    """How the agent is configured."""

    policies: Policies
    configuration: Configuration

    def __str__(self) -> str:
        return f"{self.policies}, {self.configuration}"

    @property
    def flags(self) -> dict[str, str]:
        """The flags, without dashes, with their values."""
        flags = {"nodeport-addresses": NODE_PORT_ADDRESSES}
        if self.policies == "exact":
            flags |= {"policies": "exact", "service-cidr": SERVICE_CIDR}
        if not self.configuration.detector:
            flags["cluster-cidr"] = ""
        if self.configuration.masquerade_all:
            flags["masquerade-all"] = "true"
        return flags


SETTINGS = tuple(Setting(policies, configuration) for policies in POLICIES for configuration in CONFIGURATIONS)


class Run(NamedTuple):
    """A cluster whose node A runs the agent with *setting*, and the results of the requests of all rows there."""

    setting: Setting
    cluster: Cluster
    results: Mapping[Request, Counter[RequestResult]]


@contextmanager
def running(setting: Setting, folder: Folder) -> Iterator[Run]:
    """Send the requests of all rows at once, because each lost one takes a second, and yield what became of them.

    What does not end as its row says is sent once more, and waits longer: on a busy machine an answer may come late.
    """
    folder.write("all", contract_objects())
    all_cases = [case for row in ROWS for case in cases(*setting, row)]
    requests = {case.request: case.series for case in all_cases}
    flags = [f"--{name}={value}" for name, value in setting.flags.items()]
    with (
        cluster_and_servers() as (cluster, servers),
        AgentProcess(cluster.node_a, folder.path, *flags) as agent,
        refused_ports(cluster[name] for name in {request.client for request in requests}) as ports,
    ):
        agent.wait_synced()
        wait_served(cluster, "pod-a2", (place_of("alone", "ClusterIP", version)[0] for version in VERSIONS), 80)
        results = dict(send_series(cluster, servers, requests, ports))
        wrong = [case for case in all_cases if case.disagreement(results[case.request])]
        again = {case.request: case.series._replace(timeout_s=_AGAIN_S) for case in wrong}
        yield Run(setting, cluster, results | dict(send_series(cluster, servers, again, ports)))
