"""Listing: the list that is in progress, and the requests of lists and watches.

A list is asked for in one of three ways, so that the server answers from its watch cache, and not from etcd:

    first list          any version           resourceVersion=0
    relist              not older than ours   resourceVersion=OURS, resourceVersionMatch=NotOlderThan
    where those may not do  the most recent   no resourceVersion: from the cache since Kubernetes 1.31, which then asks
                                              etcd for the current version only

A limit would make servers read etcd (but with resourceVersion=0, where they ignore it), so there is one only for lists
that are too large for one answer.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Resource versions"; client-go, tools/cache/reflector.go;
k8s.io/apiserver, pkg/storage/cacher/delegator (ShouldDelegateList).
"""

from urllib.parse import urlencode

from msgspec import Struct, field

from kubeproxy_py.model.events import Event
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.decode.objects import Decoded
from kubeproxy_py.sources.kubernetes.known_objects import KnownObjects
from kubeproxy_py.sources.kubernetes.resources import Resource
from kubeproxy_py.sources.object_cache import Identity

PAGE_LIMIT = 500  # objects: a page is then some 2 MB, and stalls no thread for more than some 10 ms
_SMALLER = 8  # a page that is too large is requested again with an eighth of the objects


class Doubt(Struct, frozen=True, gc=False):
    """A list that is not accepted before a second one confirms it."""

    message: str  # what it would remove


class Request(Struct, frozen=True, gc=False):
    """The next request: GET *target*, a path with a query, after *wait_s*."""

    target: str
    is_watch: bool
    wait_s: float = 0.0
    is_first_page: bool = False  # of a list
    reason: str = ""  # of a list that is not the first one
    doubt: Doubt | None = None  # of the list before, which this one is to confirm
    after_outage: bool = False  # the server did not answer: wait until it is probed, or answers another watch


class Listing(Struct):
    """A list in progress.

    While the first list is read, its objects are emitted piece by piece.  Of a later one, changes are kept until it is
    complete, so that a list that is not accepted changes nothing.
    """

    resource: Resource
    reason: str = ""
    doubt: Doubt | None = None
    limit: int = 0  # objects of a page; 0: all
    from_cache: bool = False  # any version will do
    not_older_than: str = ""  # the version that the list must have at least; "": it must be the most recent state
    continuation: str = ""
    listed: set[Identity] = field(default_factory=set)
    changed: dict[Identity, Decoded] = field(default_factory=dict)
    unnamed: list[Problem] = field(default_factory=list)  # of each item that cannot be identified

    def query(self) -> dict[str, str]:
        """Return the query of the next page, without selectors."""
        limit = PAGE_LIMIT if self.from_cache else self.limit  # for servers that have no watch cache
        paged = {"limit": str(limit)} if limit else {}
        if self.continuation:
            return {**paged, "continue": self.continuation}
        if self.from_cache:
            return {**paged, "resourceVersion": "0"}
        if self.not_older_than and not limit:
            return {"resourceVersion": self.not_older_than, "resourceVersionMatch": "NotOlderThan"}
        return paged

    def add(self, decoded: Decoded, known: KnownObjects) -> None:
        """Add an item of a page."""
        if decoded.name is None:
            self.unnamed.append(decoded.problems[0])
            return
        identity = (decoded.kind, decoded.name)
        self.listed.add(identity)
        if known.is_change(identity, decoded):
            self.changed[identity] = decoded

    def use_changed(self, known: KnownObjects) -> list[Event]:
        """Use the items that have changed, and return their events."""
        changed, self.changed = self.changed, {}
        return [event for identity, decoded in changed.items() for event in known.use(identity, decoded)]

    def ask_for_latest(self) -> None:
        """Ask for the most recent state from now on."""
        self.from_cache, self.not_older_than = False, ""

    def restart(self) -> None:
        """Begin again with the first page."""
        self.continuation = ""
        self.listed, self.changed, self.unnamed = set(), {}, []


def smaller_limit(limit: int) -> int:
    """Return the limit to use after a page of *limit* objects was too large."""
    return max(1, limit // _SMALLER)


def target_of(resource: Resource, query: dict[str, str]) -> str:
    """Return path and query of a request for *resource*, with its selectors."""
    selectors = {"labelSelector": resource.label_selector, "fieldSelector": resource.field_selector}
    selected = {key: selector for key, selector in selectors.items() if selector}
    return f"{resource.path}?{urlencode({**query, **selected})}"
