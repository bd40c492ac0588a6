"""The device kube-ipvs0, the addresses on it, and notifications of address changes on this host."""
