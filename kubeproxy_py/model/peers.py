"""What Services need of all nodes of the cluster, which are read only while some Service needs anything of them."""

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from kubeproxy_py.model.services import Service

Label = str
"""A label of a node, as ``key=value``."""

Labels = Mapping[str, tuple[Label, ...]]
"""The labels of nodes, by name: those whose keys are needed."""


class PeerNeeds(Struct, frozen=True, gc=False):
    """What is needed of all nodes; false: nothing."""

    addresses: bool = False  # for direct server return
    labels: frozenset[str] = frozenset()  # the keys of those that weights name

    def __bool__(self) -> bool:
        return self.addresses or bool(self.labels)


NO_NEEDS = PeerNeeds()


def needs_of(services: Iterable[Service]) -> PeerNeeds:
    """Return what *services* need together."""
    services = list(services)
    labels = frozenset(map(key_of, (label for service in services for label in weighed_labels(service))))
    return PeerNeeds(any(service.settings.direct_return for service in services), labels)


def weighed_labels(service: Service) -> Iterator[Label]:
    """Yield each label that the weights of *service* name; none if nothing of it is served here."""
    if service.settings.weights and service.cluster_ips and service.proxy_name is None:
        yield from (weight.name for weight in service.settings.weights if weight.key == "label")


def key_of(label: Label) -> str:
    """Return the key of *label*."""
    return label.partition("=")[0]
