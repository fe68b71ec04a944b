"""Sources of published repositories: the hub, or a mirror in a folder.

A mirror keeps each repository under its name, `<owner>/<name>/<files>`, as this command writes it:

    hf download <owner>/<name> --revision <commit> --local-dir <mirror>/<owner>/<name>

The command also writes metadata to `.cache/huggingface/download`: the commit of each file and the SHA-256 of large
files. Where it exists, files are checked against it.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from httpx2 import HTTPError
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in its __all__
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
)

from opad_core.bases.fetch.recipes import Repository
from opad_core.errors import OpadError

NOTES, NOTE = ".cache/huggingface/download/", ".metadata"


@dataclass(frozen=True)
class Listed:
    """What a mirror knows about one of its files."""

    size: int
    sha256: str | None = None
    revision: str | None = None


class Mirror(Protocol):
    def files(self, repository: Repository) -> dict[str, Listed]:
        """Return the files by path; empty if the mirror does not have the repository."""

    def download(self, repository: Repository, path: str, into: Path) -> None:
        """Download a file to `into / path`; may continue an earlier try that was cut short."""

    def read(self, repository: Repository, path: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`."""


class Hub:
    """huggingface.co, where HF_ENDPOINT and HF_TOKEN apply; or another hub by its address, without a token."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint, self._token = endpoint, None if endpoint is None else False

    def files(self, repository: Repository) -> dict[str, Listed]:
        with _answering(repository):
            info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                repository.name, revision=repository.revision, files_metadata=True
            )
        return {
            file.rfilename: Listed(file.size or 0, file.lfs.sha256 if file.lfs else None, info.sha)
            for file in info.siblings or []
        }

    def download(self, repository: Repository, path: str, into: Path) -> None:
        with _answering(repository):
            hf_hub_download(
                repository.name,
                path,
                revision=repository.revision,
                local_dir=into,
                endpoint=self._endpoint,
                token=self._token,
            )

    def read(self, repository: Repository, path: str, start: int, end: int) -> bytes:
        url = hf_hub_url(repository.name, path, revision=repository.revision, endpoint=self._endpoint)
        headers = {**build_hf_headers(token=self._token), "range": f"bytes={start}-{end - 1}"}
        with _answering(repository):
            answer = http_backoff("GET", url, headers=headers)
            hf_raise_for_status(answer)
        return answer.content


class Folder:
    """A mirror on disk."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise OpadError(f"{folder} is not a folder; --from takes a folder of repositories or s3://bucket/prefix")
        self.folder = folder

    def files(self, repository: Repository) -> dict[str, Listed]:
        root = self.folder / repository.name
        sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in root.rglob("*") if file.is_file()}
        return noted(sizes, lambda path: (root / path).read_bytes())

    def download(self, repository: Repository, path: str, into: Path) -> None:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / repository.name / path, into / path)

    def read(self, repository: Repository, path: str, start: int, end: int) -> bytes:
        with (self.folder / repository.name / path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)


def noted(sizes: dict[str, int], read: Callable[[str], bytes]) -> dict[str, Listed]:
    """Return a mirror's files with the metadata that `hf download` wrote for each."""
    listed = {}
    for path, size in sizes.items():
        if path.startswith(NOTES):
            continue
        note = f"{NOTES}{path}{NOTE}"
        revision, etag = (*read(note).decode().splitlines(), "", "")[:2] if note in sizes else ("", "")
        listed[path] = Listed(size, etag if re.fullmatch("[0-9a-f]{64}", etag) else None, revision or None)
    return listed


@contextmanager
def _answering(repository: Repository) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPError) as error:  # hub errors are both; a broken connection is an HTTPError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OpadError(
            f"the hub did not give {repository.place}: {reason}; "
            "run the command again to continue, or name a mirror with --from"
        ) from error
