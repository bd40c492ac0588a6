"""Entry point of ``python -m kubeproxy_py`` and of the console script ``kubeproxy-py``."""

import gc
import sys

from kubeproxy_py.lean_msgspec import import_msgspec

import_msgspec()  # before any module that uses it

from kubeproxy_py import cli  # noqa: E402
from kubeproxy_py.commands.output import replace_unencodable  # noqa: E402

_STARTUP_GC_THRESHOLD = (100_000, 20, 20)


def main() -> None:
    """Execute the command line, and exit with its status."""
    # Until the first sync nearly every new object is kept: collecting garbage takes a tenth of the CPU time of a start.
    gc.set_threshold(*_STARTUP_GC_THRESHOLD)
    replace_unencodable()
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
