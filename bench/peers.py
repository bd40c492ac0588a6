"""The real programs that are measured beside the agent: kube-proxy, and an API server for both.

KUBE_PROXY_BIN names kube-proxy, KUBEBUILDER_ASSETS a folder with kube-apiserver and etcd.

Invariants:
  - The programs that are named run, or an error says why not; nothing else takes their place.
"""

import os
from pathlib import Path

from tests.apiserver.real import ASSETS_VARIABLE, MissingProgramError, binaries, require_program

PROXY_VARIABLE = "KUBE_PROXY_BIN"
_HINT = "python -m bench.inside beside-standin takes the stand-in"


def is_set() -> bool:
    """Return whether kube-proxy is to be measured."""
    return bool(os.environ.get(PROXY_VARIABLE))


def programs() -> tuple[Path, Path]:
    """Return kube-proxy, and the folder with kube-apiserver and etcd.  Raises MissingProgramError."""
    assets = binaries()
    if assets is None:
        raise MissingProgramError(f"{PROXY_VARIABLE} needs the API server that {ASSETS_VARIABLE} names ({_HINT})")
    return kube_proxy(), assets


def kube_proxy() -> Path:
    """Return kube-proxy.  Raises MissingProgramError."""
    named = os.environ.get(PROXY_VARIABLE)
    if not named:
        raise MissingProgramError(f"{PROXY_VARIABLE} is not set")
    require_program(PROXY_VARIABLE, Path(named))
    return Path(named)
