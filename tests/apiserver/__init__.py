"""A stand-in for kube-apiserver that speaks the real list and watch protocol over HTTP and HTTPS.

Law: what it does, a real server does too; the suite in ``tests/sources/test_kubernetes_source.py`` checks both alike when
``KUBEBUILDER_ASSETS`` names a folder with kube-apiserver and etcd.  What only the stand-in can do (be slow, cut
connections, forget history when told) is set by attributes of ``ApiServer``, or over HTTP below ``/standin``.

As a program: ``python -m tests.apiserver --objects FILE --port N``.
"""

from tests.apiserver.server import ApiServer

__all__ = ["ApiServer"]
