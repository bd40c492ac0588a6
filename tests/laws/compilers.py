"""A compiler whose NodeContext follows the Node, as the agent's does."""

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.node import HostAddress, Node
from tests.builders import node_context


def compiler() -> Compiler:
    """Return a compiler that knows nothing yet."""
    return Compiler(_make_context)  # type: ignore[arg-type]


def _make_context(node: Node | None, _addresses: tuple[HostAddress, ...]) -> object:
    if node is None:
        return node_context()
    ips = {("IPv6" if ":" in a else "IPv4"): a for a in node.addresses}
    return node_context(zone=node.zone, node_ips=ips)
