"""Add byte code, file capabilities and times to the complete root.

SOURCE_DATE_EPOCH is the only time in the root.  Byte code is `unchecked-hash`: the root is read-only, and source and
byte code belong together, so neither times nor content are compared at start.

Usage: finish.py ROOT
"""

import compileall
import os
import py_compile
import subprocess
import sys
from pathlib import Path

# Permitted, not effective: see entry.py.  iptables-legacy uses a raw socket.
CAPABILITIES = {"usr/bin/python3.11": "cap_net_admin,cap_net_raw=p"}


def main(root: Path) -> None:
    """Finish *root*.  Raises KeyError without SOURCE_DATE_EPOCH."""
    epoch_s = int(os.environ["SOURCE_DATE_EPOCH"])
    _compile(root)
    for name, capabilities in CAPABILITIES.items():
        subprocess.run(["setcap", capabilities, str(root / name)], check=True)
    for path in (*root.rglob("*"), root):
        os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)


def _compile(root: Path) -> None:
    """Compile each module of the standard library and of the agent, with the paths of the image for tracebacks."""
    for folder in ("usr/lib/python3.11", "opt/kubeproxy-py"):
        done = compileall.compile_dir(
            str(root / folder),
            stripdir=str(root),
            prependdir="/",
            quiet=1,
            maxlevels=50,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        if not done:
            sys.exit(f"finish: files in {folder} do not compile")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
