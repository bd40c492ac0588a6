"""kubeproxy-py: kube-proxy in IPVS mode, maintained."""

__version__ = "0.1.0"
