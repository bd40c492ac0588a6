"""``python -m kubeproxy_py``, and the console script ``kubeproxy-py``."""

import gc
import sys

from kubeproxy_py import cli

_START_THRESHOLD = (100_000, 20, 20)


def main() -> None:
    """Run the command line and exit with its status."""
    # Until the first sync nearly all that is made stays: looking for garbage in it is a tenth of a start's CPU.
    gc.set_threshold(*_START_THRESHOLD)
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
