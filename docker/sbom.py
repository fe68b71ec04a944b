"""Print a software bill of materials of this interpreter's and the system's packages, as CycloneDX 1.5.

`python sbom.py NAME` runs during the build of an image, so it lists what the image contains. `--of FOLDER` lists only
the packages of the system under that folder, for an image without Python.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(prog="sbom.py", description=__doc__)
    parser.add_argument("name", help="name of the image")
    parser.add_argument("--of", type=Path, metavar="FOLDER", help="list only the Debian packages under this root")
    arguments = parser.parse_args()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": arguments.name}},
        "components": (
            [*python_packages(), *system_packages(Path("/"))] if arguments.of is None else system_packages(arguments.of)
        ),
    }
    json.dump(document, sys.stdout, indent=1)


def python_packages() -> list[dict[str, Any]]:
    found = {}
    for distribution in distributions():
        name, version = distribution.metadata["Name"], distribution.version
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
        license_name = distribution.metadata.get("License-Expression") or distribution.metadata.get("License")
        if license_name and len(license_name) < 100:  # some packages put the whole text there
            component["licenses"] = [{"license": {"name": license_name}}]
        found[name.lower()] = component
    return [found[name] for name in sorted(found)]


def system_packages(root: Path) -> list[dict[str, Any]]:
    """Return the packages of a Debian system, or none for another system."""
    database = root / "var" / "lib" / "dpkg"
    if not (database / "status").exists():
        return []
    columns = ["--show", "--showformat", "${Package} ${Version}\n"]
    listed = subprocess.run(
        ["dpkg-query", "--admindir", database, *columns], capture_output=True, text=True, check=True
    )
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}"}
        for name, version in map(str.split, listed.stdout.splitlines())
    ]


if __name__ == "__main__":
    main()
