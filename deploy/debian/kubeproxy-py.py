#!/usr/lib/kubeproxy-py/bin/python3.11
"""Run the agent of this package."""

import sys

from kubeproxy_py.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
