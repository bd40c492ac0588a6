"""kubeproxy-py: a standalone node agent that implements kube-proxy's IPVS mode."""

__version__ = "0.1.0"
