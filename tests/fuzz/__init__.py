"""Fuzzing of everything that reads what others wrote: the kernel, programs, files, the API server, HTTP clients.

readers.py has the table of readers; seeds.py and corpus/ are what they are given, changed at random:

- test_corpus.py, in ``make check``: each input and a few hundred changes of it, always the same (mutations.py);
- ``make fuzz SECONDS=n``: atheris looks for inputs that reach new code (engine.py, in an environment of its own).

corpus/READER/ keeps small inputs: what Linux, ipset and iptables answered (recorded by record.py in the lab), and one
for each fault that was found, so that it is not made again.
"""
