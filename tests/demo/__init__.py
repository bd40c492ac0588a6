"""The demonstration that `make run` shows: from a Service object to an answered packet, on a real kernel.

Law: nothing is told that was not just seen to be so.  Each claim is checked where it is printed, and the first that
does not hold ends the demonstration with a status other than 0.

`say.py` prints, `node.py` is node A with the agent and the tools, `seen.py` reads the kernel, `traffic.py` sends
packets, `chapters.py` is the story, `__main__.py` builds the cluster and tells it.
"""
