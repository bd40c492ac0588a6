"""HTTP servers for health checks (load balancers, the kubelet) and metrics (Prometheus).

Invariants:
  - A client cannot delay the sync: responses are made from immutable values that the loop's thread published, and each
    server has one thread of its own with limits on clients, sizes and times.
"""
