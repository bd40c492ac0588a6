"""`make test-kernels`: run tests on several kernels, with both kinds of iptables, and write docs/support.md from it."""
