"""kubeproxy-py: kube-proxy in IPVS mode, as a node agent of its own."""

__version__ = "0.1.0"
