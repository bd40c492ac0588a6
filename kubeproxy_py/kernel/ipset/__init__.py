"""ipsets and their entries, by netlink or by the ``ipset`` program."""
