"""Conformance: the agent held against recorded kernel states of the real kube-proxy.

Law: a case passes only if, on a kernel that had no trace of any proxy, the real agent process brings about exactly what
was recorded, and leaves it so.  What is compared is what the usual tools print (`ipvsadm -Sn`, `ipset save`,
`iptables-save`, ...), not what the agent believes.  Runs inside the lab kernel, in its initial namespace.

`case.py` reads a case, `canon.py` says what counts as equal, `look.py` asks the kernel, `reconcile/reconciler.py` is the process under
test, `run.py` puts them together.  The format of a case: tests/recorded_cases/README.md.
"""
