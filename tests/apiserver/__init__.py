"""A stand-in for kube-apiserver that implements its list and watch protocol over HTTP and HTTPS.

Invariants:
- Everything it does, a real server does too: ``tests/sources`` runs the same tests against both when
  ``KUBEBUILDER_ASSETS`` names a folder with kube-apiserver and etcd.
- What only the stand-in can do (delay responses, close connections, compact its history on request) is set by
  ``ApiServer.faults``, or over HTTP below ``/standin``.

As a program: ``python -m tests.apiserver --objects FILE --port N``.
"""

from tests.apiserver.server import ApiServer

__all__ = ["ApiServer"]
