"""Checks of this host: what hurts Service traffic and is not ours to decide.

Invariants:
- A check is a pure function from a Situation to Findings; kernel/host_facts.py gathers the facts.
- A check that cannot decide finds nothing: a false alarm makes operators ignore the next one.
"""
