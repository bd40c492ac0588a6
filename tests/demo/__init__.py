"""The demonstration of `make run`: from a Service object to an answered packet, on a real kernel.

Each statement is checked before it is printed; the first check that fails ends the demonstration with a status other
than 0.

`output.py` prints, `node.py` runs the agent and the tools on node A, `kernel.py` reads the kernel, `traffic.py` sends
packets, `sections.py` has the sections, `troubles.py` those in which something is wrong, `__main__.py` builds the
cluster and runs them.
"""
