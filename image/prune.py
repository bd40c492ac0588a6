"""Remove files of the libraries that the agent never uses from the image.

Each removal is listed here with its reason; a listed name that is missing is an error, so that new versions of a
library are reviewed.

The kubernetes package is reduced to its configuration and credentials (sources/kubernetes/source.py): its models and
API classes load on first use, and its asyncio part is a package of its own.

Usage: prune.py ENVIRONMENT, a virtual environment
"""

import shutil
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

_ONLY_AIO = "imported by kubernetes.aio only"
DISTRIBUTIONS = {
    "aiohappyeyeballs": _ONLY_AIO,
    "aiohttp": _ONLY_AIO,
    "aiohttp-retry": _ONLY_AIO,
    "aiosignal": _ONLY_AIO,
    "attrs": _ONLY_AIO,
    "frozenlist": _ONLY_AIO,
    "multidict": _ONLY_AIO,
    "propcache": _ONLY_AIO,
    "yarl": _ONLY_AIO,
}
FILES = {
    "kubernetes/aio": "41 MB; asyncio",
    "kubernetes/client/api/*_api.py": "23 MB; one class for each group of the API, loaded on first use",
    "kubernetes/client/models/*_*.py": "10 MB; one class for each kind, loaded on first use",
}
PROGRAMS_KEPT = ("python", "python3", "python3.11")


def main(environment: Path) -> None:
    """Remove DISTRIBUTIONS, FILES and programs of the libraries; exit with a message if one of them is missing."""
    site_packages = environment / "lib/python3.11/site-packages"
    installed = {
        distribution.metadata["Name"].lower(): distribution for distribution in distributions(path=[str(site_packages)])
    }
    for name in DISTRIBUTIONS:
        if name not in installed:
            sys.exit(f"prune: {name} is not installed; update {Path(__file__).name}")
        _remove_distribution(installed[name])
    for pattern in FILES:
        paths = [path for path in site_packages.glob(pattern) if path.name != "__init__.py"]
        if not paths:
            sys.exit(f"prune: {pattern} matches nothing; update {Path(__file__).name}")
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for program in (environment / "bin").iterdir():
        if program.name not in PROGRAMS_KEPT:
            program.unlink()


def _remove_distribution(distribution: Distribution) -> None:
    """Remove each file of its RECORD, and directories that are empty afterwards."""
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if any(folder.iterdir()):
                break
            folder.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
