"""Imports of the ``kubernetes`` package without the parts of it that are not used here.

The package imports all of itself and the libraries by which it renews tokens of OpenID Connect: 350 modules, 0.2 s and
19 MiB.  A node that boots while its API server does not answer waits for that time, and each agent keeps that memory.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType

_PACKAGES = ("kubernetes", "kubernetes.config")
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


@contextmanager
def without_openid_connect() -> Iterator[None]:
    """Have empty modules in place of those for OpenID Connect, which a kubeconfig without auth-provider never calls.

    They are for imports within the `with`; a module that was imported before stays.
    """
    empty = {name: _empty_module(name, names) for name, names in _OPENID_CONNECT.items() if name not in sys.modules}
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name in empty:
            del sys.modules[name]


def _empty_module(name: str, names: tuple[str, ...]) -> ModuleType:
    module = ModuleType(name)
    for attribute in names:
        setattr(module, attribute, None)
    return module
