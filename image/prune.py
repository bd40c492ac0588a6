"""prune: takes out of the image what its libraries bring and nothing of ours can reach.

Law: what is cut is named here with its reason; a name that is no longer there is an error, so that a new version of a
library is looked at again.

The kubernetes package is cut to its configuration and credentials (sources/kubernetes/source.py): its models and API
classes load on first use, and its asyncio half is a package of its own.

Usage: prune.py ENVIRONMENT, a virtual one
"""

import shutil
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

_ONLY_AIO = "kubernetes.aio alone imports it"
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
    """Remove DISTRIBUTIONS, FILES and programs of the libraries; exits with a message if one of the named is absent."""
    site_packages = environment / "lib/python3.11/site-packages"
    installed = {found.metadata["Name"].lower(): found for found in distributions(path=[str(site_packages)])}
    for name in DISTRIBUTIONS:
        if name not in installed:
            sys.exit(f"prune: {name} is not installed; does {Path(__file__).name} still hold?")
        _remove_distribution(installed[name])
    for pattern in FILES:
        paths = [path for path in site_packages.glob(pattern) if path.name != "__init__.py"]
        if not paths:
            sys.exit(f"prune: {pattern} matches nothing; does {Path(__file__).name} still hold?")
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for program in (environment / "bin").iterdir():
        if program.name not in PROGRAMS_KEPT:
            program.unlink()


def _remove_distribution(found: Distribution) -> None:
    """Remove each file that its RECORD names, and the folders that are empty then."""
    for file in found.files or ():
        path = Path(str(found.locate_file(file)))
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if any(folder.iterdir()):
                break
            folder.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
