"""finish: byte code, capabilities and times: what depends on the root being whole.

Law: nothing in the root tells when it was made but SOURCE_DATE_EPOCH.  Byte code is `unchecked-hash`: the root is
read-only and source and code come together, so nothing is compared at start, neither times nor content.

Usage: finish.py ROOT
"""

import compileall
import os
import py_compile
import subprocess
import sys
from pathlib import Path

# Permitted, not effective: see entry.py.  iptables-legacy talks to the kernel by a raw socket.
CAPABILITIES = {"usr/bin/python3.11": "cap_net_admin,cap_net_raw=p"}


def main(root: Path) -> None:
    """Finish *root*; raises KeyError without SOURCE_DATE_EPOCH."""
    epoch_s = int(os.environ["SOURCE_DATE_EPOCH"])
    _compile(root)
    for name, capabilities in CAPABILITIES.items():
        subprocess.run(["setcap", capabilities, str(root / name)], check=True)
    for path in (*root.rglob("*"), root):
        os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)


def _compile(root: Path) -> None:
    """Each module of the library and of the agent; the paths in tracebacks are those of the image."""
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
            sys.exit(f"finish: {folder} has files that do not compile")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
