"""IPVS virtual servers and real servers, by generic netlink and getsockopt(2)."""
