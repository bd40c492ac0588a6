"""Fast tests of the netlink adapters: bytes and batching, without root and on any Linux."""
