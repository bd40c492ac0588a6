"""Conformance: compares the agent with recorded kernel states of the real kube-proxy.

A case passes only if the agent, on a kernel without a trace of any proxy, produces exactly the recorded state and then
leaves it unchanged.  The comparison is of what the usual tools print (`ipvsadm -Sn`, `ipset save`, `iptables-save`,
...), not of the agent's own view.  It runs in the initial namespace of the lab kernel.

`case_files.py` finds and reads cases, `canonical.py` defines equality, `kernel_snapshot.py` reads the kernel,
`agent_process.py` is the process under test, `runner.py` combines them.  tests/recorded_cases/README.md describes the
format of a case.
"""
