"""Fetch a base: download its parts, arrange them in the layout that `bases.loading` reads, and hash them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from opad_core.bases.fetch.convert import Shapes, check_can_convert, convert, unet_shapes
from opad_core.bases.fetch.description import describe, read_config
from opad_core.bases.fetch.mirrors import Folder, Hub, Listed, Mirror
from opad_core.bases.fetch.recipes import Converted, Picked, Recipe, Repository
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
    recipe: Recipe,
    mirror: Mirror,
    folder: Path,
    *,
    like: Manifest | None = None,
    say: Callable[[str], None],
    describe: Callable[[Recipe, Path], dict[str, Any]] = describe,
    shapes: Callable[[dict[str, Any]], Shapes] = unet_shapes,
) -> Manifest:
    """Assemble the base in `folder`, which appears only when it is complete. Another call continues a stopped fetch.

    `like` is the manifest of an earlier fetch: its commits are fetched, and the files must be the same. `describe`
    returns the manifest without files and sources, `shapes` the tensors of a converted network from its configuration.
    Raises OpadError for a folder that is not empty, files that are missing, pickled where safetensors are expected,
    damaged or of another revision, a pickle that cannot be converted, and parts that do not fit together.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OpadError(f"{folder} already exists; remove it, or choose another folder with --to")
    if recipe.converted:
        check_can_convert(
            f"run `python -m opad_core fetch {recipe.name} --to {recipe.name}` on another machine with Linux, "
            f"and copy its folder to {folder}"
        )
    recipe = recipe.at(like.sources if like else {})
    available = {repository.name: mirror.files(repository) for repository in recipe.repositories}
    sources = commits_of(recipe, available)
    recipe = recipe.at(sources)
    for repository in recipe.repositories:
        say(f"{repository.place}: {repository.license}")
    size = sum(available[repository.name][path].size for repository, path in recipe.whole)
    needed = size + sum(available[item.repository.name][item.file].size for item in recipe.converted)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    say(f"{size / 1e9:.1f} GB to {folder}")
    free = shutil.disk_usage(partial).free + sum(file.stat().st_size for file in partial.rglob("*"))
    if needed > free:
        raise OpadError(f"{partial} has room for {free / 1e9:.1f} GB, the base needs {needed / 1e9:.1f} GB")

    downloads = partial / ".downloads"
    found = download(recipe, mirror, available, downloads, say=say)
    hashes = {place: found[file] for file, places in recipe.whole.items() for place in places}
    for item in recipe.picked:
        (partial / item.place).parent.mkdir(parents=True, exist_ok=True)
        save_file(read_tensors(mirror, item), partial / item.place)
        hashes[item.place] = hash_of(partial / item.place)
    converted = {item.place: item.record(found[item.repository, item.file]) for item in recipe.converted}
    for pickled in recipe.converted:
        if like is not None and like.converted.get(pickled.place) != converted[pickled.place]:
            (downloads / pickled.repository.name / pickled.file).unlink()
            raise OpadError(f"{pickled.repository.name}/{pickled.file} differs from that of the given manifest")
        say(f"converting {pickled.file} to safetensors, in a process without a network")
        convert_download(recipe, pickled, downloads, partial / pickled.place, shapes=shapes)
        hashes[pickled.place] = hash_of(partial / pickled.place)
    put_in_place(recipe, downloads, partial)
    manifest = {**describe(recipe, partial), "sources": sources, "files": dict(sorted(hashes.items()))}
    if converted:
        manifest["converted"] = converted
    if recipe.student_text_encoder is not None and FILE in available[recipe.student_text_encoder.name]:
        student = recipe.student_text_encoder
        say(f"{student.name}/{FILE}, which is compared with the teacher's and not kept")
        mirror.download(student, FILE, downloads / student.name)
        file = downloads / student.name / FILE
        checked(student, FILE, available[student.name][FILE], file)
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


def commits_of(recipe: Recipe, available: dict[str, dict[str, Listed]]) -> dict[str, str | None]:
    """Return the commit of each repository's files by its name; None where the mirror has no record of it.

    `available` has what the mirror lists, by repository. Raises OpadError for a file that is missing or of another
    commit.
    """
    noted: dict[str, set[str | None]] = {repository.name: set() for repository in recipe.repositories}
    for repository, path in recipe.files:
        check_listed(repository, path, available[repository.name])
        noted[repository.name].add(available[repository.name][path].revision)
    return {name: None if None in revisions else revisions.pop() for name, revisions in noted.items()}


def download(
    recipe: Recipe,
    mirror: Mirror,
    available: dict[str, dict[str, Listed]],
    downloads: Path,
    *,
    say: Callable[[str], None],
) -> dict[tuple[Repository, str], str]:
    """Download the recipe's whole files that are not there yet, and return the SHA-256 of each.

    Raises OpadError for a file that is damaged.
    """
    size = sum(available[repository.name][path].size for repository, path in recipe.whole)
    found, done = {}, 0
    for repository, path in recipe.whole:
        listed, file = available[repository.name][path], downloads / repository.name / path
        say(f"{done / 1e9:.1f} of {size / 1e9:.1f} GB: {repository.name}/{path}")
        if not file.is_file() or file.stat().st_size != listed.size:
            mirror.download(repository, path, downloads / repository.name)
        found[repository, path] = checked(repository, path, listed, file)
        done += listed.size
    return found


def convert_download(
    recipe: Recipe, item: Converted, downloads: Path, target: Path, *, shapes: Callable[[dict[str, Any]], Shapes]
) -> None:
    """Convert a downloaded pickle to `target`. Raises OpadError, and removes the pickle, if it is refused."""
    [(repository, path)] = [file for file, places in recipe.whole.items() if item.config in places]
    pickled = downloads / item.repository.name / item.file
    try:
        expected = shapes(read_config(downloads / repository.name, path))
        convert(pickled, target, shapes=expected, name=f"{item.repository.name}/{item.file}")
    except OpadError:
        pickled.unlink()
        raise


def put_in_place(recipe: Recipe, downloads: Path, base_folder: Path) -> None:
    """Move the downloaded files to their places in the base."""
    for (repository, path), places in recipe.whole.items():
        for place in places:
            (base_folder / place).parent.mkdir(parents=True, exist_ok=True)
            if place == places[-1]:
                (downloads / repository.name / path).replace(base_folder / place)
            else:
                shutil.copyfile(downloads / repository.name / path, base_folder / place)


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
    place = repository.place
    if path not in files:
        stem = path.rpartition(".")[0].rpartition("/")[0]
        pickled = [name for name in files if name.rpartition("/")[0] == stem and name.endswith(PICKLES)]
        if path.endswith(".safetensors") and pickled:
            raise OpadError(f"{place} has {pickled[0]} but no {path}; pickles can run any code and are never read")
        raise OpadError(f"{place} has no {path} here")
    found = files[path].revision
    if None not in (found, repository.revision) and found != repository.revision:
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
