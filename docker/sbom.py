"""A software bill of materials of this interpreter's packages and the system's, as CycloneDX 1.5 on stdout.

`python sbom.py NAME`; run while an image is built, so that the list is of what the image holds. `--of FOLDER` lists the
packages of the system under that folder instead, for an image that has no Python of its own.
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
    asked = parser.parse_args()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": asked.name}},
        "components": (
            [*python_packages(), *system_packages(Path("/"))] if asked.of is None else system_packages(asked.of)
        ),
    }
    json.dump(document, sys.stdout, indent=1)


def python_packages() -> list[dict[str, Any]]:
    found = {}
    for distribution in distributions():
        name, version = distribution.metadata["Name"], distribution.version
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
        licence = distribution.metadata.get("License-Expression") or distribution.metadata.get("License")
        if licence and len(licence) < 100:  # some put the whole text there
            component["licenses"] = [{"license": {"name": licence}}]
        found[name.lower()] = component
    return [found[name] for name in sorted(found)]


def system_packages(root: Path) -> list[dict[str, Any]]:
    """Empty where the system is not Debian's."""
    administration = root / "var" / "lib" / "dpkg"
    if not (administration / "status").exists():
        return []
    shown = ["--show", "--showformat", "${Package} ${Version}\n"]
    listed = subprocess.run(
        ["dpkg-query", "--admindir", administration, *shown], capture_output=True, text=True, check=True
    )
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}"}
        for name, version in map(str.split, listed.stdout.splitlines())
    ]


if __name__ == "__main__":
    main()
