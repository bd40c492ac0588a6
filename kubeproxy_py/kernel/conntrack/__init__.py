"""Conntrack entries of UDP flows: listing and deleting."""
