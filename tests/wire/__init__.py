"""Fast tests of netlink bytes and batching, without root and on any Linux."""
