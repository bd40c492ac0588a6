"""Write the image's bill of materials: the components that cyclonedx-py finds in the agent's environment, and Debian's.

It is read from the content of the image, not from its requirements.  Format: CycloneDX 1.6 as JSON, validated against
its schema, with a package URL for each component (pkg:pypi, pkg:deb), in /usr/share/sbom/kubeproxy-py.cdx.json.

Usage: bill.py PYTHON.cdx.json ROOT, with cyclonedx-python-lib
"""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

SITE_PACKAGES = "opt/kubeproxy-py/lib/python3.11/site-packages"
PLACE = "usr/share/sbom/kubeproxy-py.cdx.json"


def main(python_bill: Path, root: Path) -> None:
    """Write the bill of materials of *root*; *python_bill* is that of its Python environment."""
    bill = json.loads(python_bill.read_text())
    os_release = dict(line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines() if "=" in line)
    distribution = f"debian-{os_release['VERSION_ID'].strip(chr(34))}"
    packages = [_component(path, distribution) for path in sorted((root / "var/lib/dpkg/status.d").iterdir())]
    bill["components"] += packages
    bill["metadata"]["component"]["version"] = _version(root)
    bill["dependencies"] += [{"ref": package["bom-ref"]} for package in packages]
    place = root / PLACE
    place.parent.mkdir(parents=True)
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    _validate(text)
    place.write_text(text)


def _validate(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"bill: {error}")


def _version(root: Path) -> str:
    """Return the agent's version from its metadata; cyclonedx-py finds only versions written in pyproject.toml."""
    agents = distributions(name="kubeproxy-py", path=[str(root / SITE_PACKAGES)])
    return next(distribution.version for distribution in agents)


def _component(status: Path, distribution: str) -> dict[str, Any]:
    """Return the component that *status*, one paragraph of dpkg's status file, describes."""
    fields = dict(line.split(": ", 1) for line in status.read_text().splitlines() if ": " in line and line[0] != " ")
    name, version = fields["Package"], fields["Version"]
    url = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}&distro={distribution}"
    source = fields.get("Source", name).split()[0]
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
        "supplier": {"name": "Debian"},
        "properties": [{"name": "debian:source", "value": source}],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
