"""The complaints of docs/troubleshooting.md: what a user says, and the command that names cause and remedy.

`table.py` has them; `page.py` prints them with the output that `tests/e2e/test_complaints.py` captured on a real
kernel, in `captured/`; `make complaints-page` captures and prints again.
"""
