"""role: the API server's authorizer, for the one ClusterRole that we ship.

Law: a request is what kube-apiserver takes it to be (verb, group, resource); one that no rule allows is refused with
403, as RBAC does.

Source: kubernetes.io/docs/reference/access-authn-authz/authorization, request verbs; k8s.io/apiserver,
pkg/endpoints/request/requestinfo.go.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.apiserver import ApiServer
from tests.apiserver.handler import Handler
from tests.apiserver.store import RefusedError
from tests.deploy.manifests import BASE, Object, find, objects_of

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Right(NamedTuple):
    """To do *verb* to objects of *resource* in *group* ("": the core)."""

    verb: str
    group: str
    resource: str


def shipped() -> set[Right]:
    """The rights that our ClusterRole gives."""
    return rights_of(find(objects_of(BASE), "ClusterRole"))


def rights_of(role: Object) -> set[Right]:
    return {
        Right(verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def asked_for(method: str, target: str) -> Right:
    """The right that a request needs."""
    url = urlsplit(target)
    found = _PATH.match(url.path)
    assert found, f"{method} {target}: not a request for objects"
    verb = _VERBS.get(method) or _reading(method, bool(found["name"]), "watch" in parse_qs(url.query))
    return Right(verb, found["group"] or "", found["resource"])


def _reading(method: str, is_named: bool, is_watch: bool) -> str:
    if method == "DELETE":
        return "delete" if is_named else "deletecollection"
    return "watch" if is_watch else "get" if is_named else "list"


class _Guarded(Handler):
    server: GuardedServer

    def _answer(self, respond: object) -> None:
        right = asked_for(self.command, self.path)
        self.server.used.add(right)
        if right in self.server.allowed:
            super()._answer(respond)
        else:
            super()._answer(lambda: _refuse(right))


def _refuse(right: Right) -> None:
    message = f"cannot {right.verb} resource {right.resource!r} in API group {right.group!r} at the cluster scope"
    raise RefusedError(403, "Forbidden", message)


class GuardedServer(ApiServer):
    """The stand-in, where a client may do what the ClusterRole allows; ``used`` are the rights that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Guarded
        self.allowed = shipped()
        self.used: set[Right] = set()
