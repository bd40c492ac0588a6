"""``python -m kubeproxy_py``, and the console script ``kubeproxy-py``."""

import sys

from kubeproxy_py import cli


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
