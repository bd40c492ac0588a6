"""The packet contract of kube-proxy's nftables mode, as requests of real clients to a node where the agent runs.

services.py has the Services, table.py what becomes of each request, icmp.py how refusals are seen.  test_contract.py
sends each request, in each configuration, by TCP, UDP and SCTP, in both families.
"""
