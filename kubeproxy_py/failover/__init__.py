"""Which endpoints fail, by checks of this node and by what clients get of them, and how slowly new ones start.

Pure deciding.  Connects are made, and counters read, by ``commands/endpoint_watch.py``; weights are made by
``compile/conditions.py``.
"""
