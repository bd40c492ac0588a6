"""What is done by rtnetlink: kube-ipvs0, its addresses, loopback paths, return tunnels; and what surrounds the host."""
