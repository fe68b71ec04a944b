"""A software bill of materials of this interpreter's packages and the system's, as CycloneDX 1.5 on stdout.

`python sbom.py NAME`; run while an image is built, so that the list is of what the image holds.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from typing import Any


def main() -> None:
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": sys.argv[1]}},
        "components": [*python_packages(), *system_packages()],
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


def system_packages() -> list[dict[str, Any]]:
    """Empty where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return []
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"], capture_output=True, text=True, check=True
    )
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}"}
        for name, version in map(str.split, listed.stdout.splitlines())
    ]


if __name__ == "__main__":
    main()
