"""kube-proxy's configuration file and flags, as immutable and validated values.

Invariants:
- A value from this package is complete and valid; no other package validates it again.
- All problems are reported together, each with the field's path or the flag as the operator wrote it.
"""
