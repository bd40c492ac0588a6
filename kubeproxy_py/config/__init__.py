"""kube-proxy's configuration file and flags, as immutable and validated values.

Invariants:
- A value from this package is complete and valid; no other package validates it again.
- Every problem is reported at once, each with the field's path or the flag as the operator wrote it.
"""
