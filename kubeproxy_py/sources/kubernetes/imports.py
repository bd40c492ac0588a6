"""Imports of ``kubernetes`` and ``urllib3`` without the parts of them that are not used here.

The package imports all of itself and the libraries by which it renews tokens of OpenID Connect: 350 modules, 0.2 s and
19 MiB.  A node that boots while its API server does not answer waits for that time, and each agent keeps that memory.
What is imported for a single function that is never called, or for one that Python has elsewhere, is replaced, too.
"""

import importlib
import os
import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_PACKAGES = ("kubernetes", "kubernetes.config", "kubernetes.utils")
_OPENID_CONNECT = {  # module -> names that kube_config imports from it
    "oauthlib": ("oauth2",),
    "oauthlib.oauth2": (),
    "requests_oauthlib": ("OAuth2Session",),
    "kubernetes.client.api_client": ("ApiClient",),
}


def register_packages() -> None:
    """Register the packages whose submodules are imported, without what their own __init__ imports besides."""
    for name in _PACKAGES:
        spec = find_spec(name) if name not in sys.modules else None
        if spec:  # else the import that follows says that there is none
            sys.modules[name] = module_from_spec(spec)


def import_urllib3() -> None:
    """Import urllib3; it reads the version of an HTTP/2 library, which is not used here."""
    with _in_place_of({"importlib.metadata": _module("importlib.metadata", version=None)}):
        importlib.import_module("urllib3")


def import_rest() -> None:
    """Import the configuration and the pool of connections of the package, by which no request is sent here."""
    retries = ("is_retry_after_response", "on_retry_after_error", "retry_after_backoff")
    replacements = {
        "kubernetes.utils.retry": _module("kubernetes.utils.retry", **dict.fromkeys(retries)),
        "multiprocessing": _module("multiprocessing", cpu_count=os.cpu_count),
        "typing_extensions": typing,
    }
    with _in_place_of(replacements):
        importlib.import_module("kubernetes.client.rest")
        importlib.import_module("kubernetes.client.configuration")


@contextmanager
def without_openid_connect() -> Iterator[None]:
    """Have empty modules in place of those for OpenID Connect, which a kubeconfig without auth-provider never calls.

    They are for imports within the `with`; a module that was imported before stays.
    """
    with _in_place_of({name: _module(name, **dict.fromkeys(names)) for name, names in _OPENID_CONNECT.items()}):
        yield


@contextmanager
def _in_place_of(replacements: Mapping[str, ModuleType]) -> Iterator[None]:
    """Have *replacements* in place of the modules of these names that were not imported before."""
    added = {name: module for name, module in replacements.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module
