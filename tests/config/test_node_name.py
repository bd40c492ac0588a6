"""The name of this node's Node object."""

import pytest

from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import node_name
from kubeproxy_py.config.types import KubeProxyConfiguration


@pytest.mark.parametrize(
    ("override", "hostname", "name"),
    [("", "Node-A\n", "node-a"), (" NODE-b ", "node-a", "node-b"), ("node-c", "", "node-c")],
)
def test_the_node_name_is_the_override_or_the_host_name_trimmed_and_in_lower_case(
    override: str, hostname: str, name: str
) -> None:
    assert node_name(KubeProxyConfiguration(hostname_override=override), hostname) == name


def test_a_host_without_a_name_is_an_error_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"hostnameOverride: this host has no name \(the name of this node's Node"):
        node_name(KubeProxyConfiguration(), " \n")
