"""Values: Kubernetes objects as this agent uses them, the events that carry them, and the rows of the kernel.

Invariants:
- Every value is frozen and compares by content.
- Nothing here does I/O or imports another package of kubeproxy_py except ``net``.
"""
