"""iptables chains and jumps: reading, writing, and deleting what other modes of kube-proxy left."""
