"""An authorizer for the stand-in API server, with the rules of the shipped ClusterRole.

It derives verb, group and resource of a request as kube-apiserver does, and answers 403, as RBAC does, if no rule
allows them.

Source: kubernetes.io/docs/reference/access-authn-authz/authorization, request verbs; k8s.io/apiserver,
pkg/endpoints/request/requestinfo.go.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.apiserver import ApiServer
from tests.apiserver.handler import Handler
from tests.apiserver.store import StatusError
from tests.deploy.manifests import BASE, Object, find, objects_of

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Right(NamedTuple):
    """The right to *verb* objects of *resource* in *group* ("": the core group)."""

    verb: str
    group: str
    resource: str


def shipped() -> set[Right]:
    """Return the rights of the shipped ClusterRole."""
    return rights_of(find(objects_of(BASE), "ClusterRole"))


def rights_of(role: Object) -> set[Right]:
    return {
        Right(verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def required_right(method: str, target: str) -> Right:
    """Return the right that a request needs."""
    url = urlsplit(target)
    match = _PATH.match(url.path)
    assert match, f"{method} {target}: not a request for objects"
    verb = _VERBS.get(method) or _get_or_delete_verb(method, bool(match["name"]), "watch" in parse_qs(url.query))
    return Right(verb, match["group"] or "", match["resource"])


def _get_or_delete_verb(method: str, is_named: bool, is_watch: bool) -> str:
    if method == "DELETE":
        return "delete" if is_named else "deletecollection"
    return "watch" if is_watch else "get" if is_named else "list"


class _Guarded(Handler):
    server: GuardedServer

    def _respond(self, respond: object) -> None:
        right = required_right(self.command, self.path)
        self.server.used.add(right)
        if right in self.server.allowed:
            super()._respond(respond)
        else:
            super()._respond(lambda: _reject(right))


def _reject(right: Right) -> None:
    message = f"cannot {right.verb} resource {right.resource!r} in API group {right.group!r} at the cluster scope"
    raise StatusError(403, "Forbidden", message)


class GuardedServer(ApiServer):
    """The stand-in, restricted to the rights of the ClusterRole; `used` are the rights that requests needed."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Guarded
        self.allowed = shipped()
        self.used: set[Right] = set()
