"""A compiler whose NodeContext follows the Node, as the agent's does."""

from msgspec.structs import replace

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MarkRange
from tests.builders import node_context


def compiler() -> Compiler:
    """Return a compiler that knows nothing yet."""
    return Compiler(make_usual_context)


def exact_compiler() -> Compiler:
    """Return the same with exact policies."""
    return Compiler(make_exact_context)


def make_usual_context(node: Node | None, _addresses: tuple[HostAddress, ...]) -> NodeContext:
    """Return the NodeContext of a node whose Node object may have come."""
    if node is None:
        return node_context()
    ips = {("IPv6" if ":" in a else "IPv4"): a for a in node.addresses}
    return node_context(zone=node.zone, node_ips=ips)


def make_exact_context(node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    """Return the NodeContext of a node with exact policies."""
    if_local = {"IPv4": ("-s 10.244.1.0/24",)}
    return replace(make_usual_context(node, addresses), policy_marks=MarkRange(), if_local=if_local)
