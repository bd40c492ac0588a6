"""The nodes of the cluster as peers: of a Node that is not this one's, only addresses and some labels are of use."""

from collections.abc import Collection, Iterable, Iterator

from msgspec import Raw
from msgspec.structs import replace

from kubeproxy_py.model.events import Event, NodeDeleted, NodeUpserted, PeerDeleted, PeerUpserted
from kubeproxy_py.model.node import Node
from kubeproxy_py.sources.decode.objects import Decoded, Kind, decode


def decode_peer(kind: Kind, body: Raw, labels: Collection[str]) -> Decoded:
    """Decode a Node of the API with those *labels* (keys), and without what is of no use, which changes often."""
    decoded = decode(kind, body, origin="API", labels=labels)
    return replace(decoded, values=tuple(as_peer(node) for node in decoded.values if isinstance(node, Node)))


def as_peer(node: Node) -> Node:
    """Return what is of use of *node* as a peer."""
    return Node(node.name, addresses=node.addresses, labels=node.labels)


def as_peers(events: Iterable[Event], own: str = "") -> Iterator[Event]:
    """Yield *events*, with those of Nodes as those of peers; of the Node *own* both."""
    for event in events:
        match event:
            case NodeUpserted(node=node):
                if node.name == own:
                    yield NodeUpserted(replace(node, labels=()))
                yield PeerUpserted(node.name, node.addresses, node.labels)
            case NodeDeleted(name=name):
                if name == own:
                    yield event
                yield PeerDeleted(name)
            case _:
                yield event
