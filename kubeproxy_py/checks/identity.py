"""Check that this agent serves the node that it runs on: traffic policies, zone and node ports follow from the name."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.rows import IPVS_DEVICE


def check_identity(situation: Situation) -> Iterator[Finding]:
    """Find a Node none of whose addresses this host has."""
    node = situation.node
    here = {host.address for host in situation.facts.addresses if host.interface != IPVS_DEVICE}
    if node is None or not node.addresses or not here or not here.isdisjoint(node.addresses):
        return
    cause = f"its addresses {', '.join(node.addresses)} are on no interface of this host"
    message = "if this is another node's name, traffic policy Local, topology hints and node addresses are wrong here"
    hint = "set hostnameOverride (--hostname-override) to the name of this host's own Node"
    yield Finding("NodeAddressesNotOnHost", f"Node {node.name}", message, hint, cause)


def node_blind(situation: Situation) -> str:
    """Return why no Node was compared with this host."""
    node = situation.node
    if node is None:
        return (
            ""
            if situation.doctor.api_server is None
            else "no Node object with this name could be read; nothing was compared"
        )
    return "" if node.addresses else f"Node {node.name} has no addresses; nothing was compared"


def node_seen(situation: Situation) -> str:
    """Return the Node; "" if none was read."""
    node = situation.node
    if node is None:
        return "no API server to ask for the Node" if situation.doctor.api_server is None else ""
    return f"Node {node.name}, addresses {', '.join(node.addresses) or 'none'}"
