"""The nodes of the cluster as peers: of a Node that is not this one's, only its addresses are of use."""

from collections.abc import Iterable, Iterator

from kubeproxy_py.model.events import Event, NodeDeleted, NodeUpserted, PeerDeleted, PeerUpserted


def as_peers(events: Iterable[Event], own: str = "") -> Iterator[Event]:
    """Yield *events*, with those of Nodes as those of peers, but for the Node *own*."""
    for event in events:
        match event:
            case NodeUpserted(node=node) if node.name != own:
                yield PeerUpserted(node.name, node.addresses)
            case NodeDeleted(name=name) if name != own:
                yield PeerDeleted(name)
            case _:
                yield event
