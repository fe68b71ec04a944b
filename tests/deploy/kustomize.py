"""The part of Kustomize that our overlays use: resources, namespace, images, and JSON patches."""

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KNOWN = {"apiVersion", "kind", "resources", "namespace", "images", "patches"}


def render(folder: Path) -> list[Manifest]:
    """Return what `kustomize build` makes of the folder. Raises ValueError for a feature that is not supported."""
    file = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := file.keys() - KNOWN:
        raise ValueError(f"{folder}: {sorted(unknown)} are not known here")
    manifests: list[Manifest] = []
    for name in file["resources"]:
        path = (folder / name).resolve()
        manifests += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    manifests = copy.deepcopy(manifests)
    for patch in file.get("patches", []):
        target = patch["target"]
        chosen = [m for m in manifests if m["kind"] == target["kind"] and m["metadata"]["name"] == target["name"]]
        if not chosen:
            raise ValueError(f"{folder}: no {target} to patch")
        for manifest in chosen:
            for operation in yaml.safe_load(patch["patch"]):
                apply(manifest, operation)
    images = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in file.get("images", [])}
    for manifest in manifests:
        if "namespace" in file:
            manifest["metadata"]["namespace"] = file["namespace"]
        for container in containers(manifest):
            container["image"] = images.get(container["image"], container["image"])
    return manifests


def apply(manifest: Manifest, operation: dict[str, Any]) -> None:
    """Apply add or replace of RFC 6902. Raises an error if a parent, or the value to replace, is missing."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    place: Any = manifest
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if operation["op"] == "replace" and not isinstance(place, list):
        place[last]
    if isinstance(place, list) and last == "-" and operation["op"] == "add":
        place.append(operation["value"])
    elif isinstance(place, dict) and operation["op"] in ("add", "replace"):
        place[last] = operation["value"]
    else:
        raise ValueError(f"{operation} is not known here")


def pod_template(manifest: Manifest) -> Manifest | None:
    spec = manifest.get("spec", {})
    found = spec.get("jobTargetRef", spec).get("template") if isinstance(spec, dict) else None
    return found if isinstance(found, dict) else None


def containers(manifest: Manifest) -> list[Manifest]:
    template = pod_template(manifest)
    return template["spec"]["containers"] if template else []
