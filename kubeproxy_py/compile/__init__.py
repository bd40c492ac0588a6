"""Compiling: Kubernetes objects to the rows that the kernel of this node should have; no I/O, clock or threads."""
