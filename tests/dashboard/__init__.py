"""A picture of the dashboard: its own queries, answered by the real Prometheus about real agents.

`make dashboard-picture`: record.py runs on the lab kernel and writes what Prometheus answers; draw.py draws it.
"""
