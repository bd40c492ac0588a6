"""Netlink: attributes and messages as bytes, and a batching socket."""
