"""`make soak`: random faults under traffic, from a seed, and a report with an exit status.

plan.py turns a seed into a sequence of faults and changes, faults.py injects them, run.py carries the sequence out
while traffic.py records how connections fare, report.py counts and judges, and reliability_page.py makes
docs/reliability.md from reports.
"""
