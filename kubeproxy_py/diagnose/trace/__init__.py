"""The way of one packet through our rules, sets and servers, step by step.

``path.trace`` evaluates, ``text.trace_text`` and ``document.trace_json`` print.

Invariants:
- The rows are what is evaluated: desired ones, actual ones, or those that the kernel has.  Nothing is derived from
  Services, except names.
- What is not known is not guessed: a rule with a match that cannot be evaluated may match, the packet is followed both
  ways, and a result is certain only if both ways lead to it.
"""
