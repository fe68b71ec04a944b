"""Fetch a base: download its parts, arrange them in the layout that `bases.loading` reads, and hash them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from opad_core.bases.fetch.description import describe
from opad_core.bases.fetch.mirrors import Folder, Hub, Listed, Mirror
from opad_core.bases.fetch.recipes import Picked, Recipe, Repository
from opad_core.bases.fetch.text_encoders import FILE, compare_text_encoders
from opad_core.bases.manifest import Manifest, hash_of, read_manifest
from opad_core.errors import OpadError
from opad_core.tensor_file import read_header

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors library itself."""


def open_mirror(address: str | None) -> Mirror:
    """Return huggingface.co for None, another hub for https://..., a bucket for s3://..., else an existing folder."""
    if address is None or address.startswith(("https://", "http://")):
        return Hub(address)
    if address.startswith("s3://"):
        from opad_core.bases.fetch.bucket import Bucket

        return Bucket(address)
    return Folder(Path(address))


def fetch(
    recipe: Recipe, mirror: Mirror, folder: Path, *, like: Manifest | None = None, say: Callable[[str], None]
) -> Manifest:
    """Assemble the base in `folder`, which appears only when it is complete. Another call continues a stopped fetch.

    `like` is the manifest of an earlier fetch; the files must be the same. Raises OpadError for a folder that is not
    empty, files that are missing, pickled, damaged or of another revision, and parts that do not fit together.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OpadError(f"{folder} already exists; remove it, or choose another folder with --to")
    available = {repository: mirror.files(repository) for repository in recipe.repositories}
    noted: dict[str, set[str | None]] = {repository.name: set() for repository in recipe.repositories}
    for repository, path in recipe.files:
        check_listed(repository, path, available[repository])
        noted[repository.name].add(available[repository][path].revision)
    sources = {name: None if None in revisions else revisions.pop() for name, revisions in noted.items()}
    for repository in recipe.repositories:
        say(f"{repository.name} at {repository.revision[:7]}: {repository.license}")
    size = sum(available[part.repository][part.path(name)].size for part in recipe.parts for name in part.files)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    say(f"{size / 1e9:.1f} GB to {folder}")
    free = shutil.disk_usage(partial).free + sum(file.stat().st_size for file in partial.rglob("*"))
    if size > free:
        raise OpadError(f"{partial} has room for {free / 1e9:.1f} GB, the base needs {size / 1e9:.1f} GB")

    downloads, hashes, done = partial / ".downloads", {}, 0
    for part in recipe.parts:
        for name in part.files:
            repository, path = part.repository, part.path(name)
            listed, file = available[repository][path], downloads / repository.name / path
            say(f"{done / 1e9:.1f} of {size / 1e9:.1f} GB: {repository.name}/{path}")
            if not file.is_file() or file.stat().st_size != listed.size:
                mirror.download(repository, path, downloads / repository.name)
            hashes[f"{part.place}/{name}"] = checked(repository, path, listed, file)
            done += listed.size
    for item in recipe.picked:
        (partial / item.place).parent.mkdir(parents=True, exist_ok=True)
        save_file(read_tensors(mirror, item), partial / item.place)
        hashes[item.place] = hash_of(partial / item.place)
    for part in recipe.parts:
        (partial / part.place).mkdir(parents=True, exist_ok=True)
        for name in part.files:
            (downloads / part.repository.name / part.path(name)).replace(partial / part.place / name)
    manifest = {**describe(recipe, partial), "sources": sources, "files": dict(sorted(hashes.items()))}
    if recipe.student_text_encoder is not None and FILE in available[recipe.student_text_encoder]:
        student = recipe.student_text_encoder
        say(f"{student.name}/{FILE}, which is compared with the teacher's and not kept")
        mirror.download(student, FILE, downloads / student.name)
        file = downloads / student.name / FILE
        checked(student, FILE, available[student][FILE], file)
        manifest["student_text_encoder"] = compare_text_encoders(partial / FILE, file)
    if like is not None and hashes != like.files:
        differing = sorted(name for name in hashes.keys() | like.files if hashes.get(name) != like.files.get(name))
        raise OpadError(f"files that differ from the given manifest: {', '.join(differing)}")
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(downloads)
    if folder.exists():
        folder.rmdir()
    partial.replace(folder)
    return read_manifest(folder)


def read_tensors(mirror: Mirror, item: Picked) -> dict[str, Tensor]:
    """Read some tensors of a safetensors file, and nothing else of it."""

    def refuse(reason: str) -> NoReturn:
        raise OpadError(f"{item.repository.name}: {item.file} {reason}")

    def read(start: int, end: int) -> bytes:
        data = mirror.read(item.repository, item.file, start, end)
        if len(data) != end - start:
            refuse("ends too early; it is damaged")
        return data

    try:
        header, first = read_header(read, max_bytes=MAX_HEADER_BYTES)
        entries, data = {}, b""
        for theirs, ours in item.tensors.items():
            if theirs not in header:
                refuse(f"has no tensor {theirs}")
            start, end = header[theirs]["data_offsets"]
            entries[ours] = {**header[theirs], "data_offsets": [len(data), len(data) + end - start]}
            data += read(first + start, first + end)
        small = json.dumps(entries).encode()
        return load(len(small).to_bytes(8, "little") + small + data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        refuse(f"cannot be read: {error}")


def check_listed(repository: Repository, path: str, files: dict[str, Listed]) -> None:
    """Raise OpadError unless a mirror lists the file, at the repository's commit or without one."""
    place = f"{repository.name} at {repository.revision[:7]}"
    if path not in files:
        stem = path.rpartition(".")[0].rpartition("/")[0]
        pickled = [name for name in files if name.rpartition("/")[0] == stem and name.endswith(PICKLES)]
        if path.endswith(".safetensors") and pickled:
            raise OpadError(f"{place} has {pickled[0]} but no {path}; pickles can run any code and are never read")
        raise OpadError(f"{place} has no {path} here")
    found = files[path].revision
    if found not in (None, repository.revision):
        raise OpadError(f"{repository.name}/{path} here is from the commit {found}, not {repository.revision}")


def checked(repository: Repository, path: str, listed: Listed, file: Path) -> str:
    """Return the file's SHA-256. Raises OpadError if it is not the listed file or not a complete safetensors file."""
    found = hash_of(file)
    intact = listed.sha256 in (None, found)
    if intact and file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            intact = False
    if not intact:
        file.unlink()
        raise OpadError(f"{repository.name}: {path} is damaged; run the command again to download it anew")
    return found
