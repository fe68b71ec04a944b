"""A mirror in a bucket of an S3 store: `s3://bucket/prefix`, with the layout of a mirror in a folder.

boto3 reads the address and the credentials from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE and so on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from opad_core.bases.fetch.mirrors import Listed, noted
from opad_core.bases.fetch.recipes import Repository
from opad_core.errors import OpadError


class Bucket:
    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if not parts.netloc:
            raise OpadError(f"{address} names no bucket; write s3://bucket/prefix")
        self.address, self._bucket, self._prefix = address, parts.netloc, parts.path.strip("/")
        with self._answering():
            self._client = boto3.session.Session().client(
                "s3",
                config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 4}),
            )

    def files(self, repository: Repository) -> dict[str, Listed]:
        root = self._key(repository, "")
        with self._answering():
            sizes = {
                entry["Key"].removeprefix(root): entry["Size"]
                for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root)
                for entry in page.get("Contents", [])
            }
            return noted(sizes, lambda path: self._get(repository, path))

    def download(self, repository: Repository, path: str, into: Path) -> None:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        key = self._key(repository, path)
        with self._answering(), tqdm(desc=path, unit="B", unit_scale=True) as bar:
            self._client.download_file(self._bucket, key, str(into / path), Callback=bar.update)

    def read(self, repository: Repository, path: str, start: int, end: int) -> bytes:
        with self._answering():
            return self._get(repository, path, Range=f"bytes={start}-{end - 1}")

    def _get(self, repository: Repository, path: str, **options: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key(repository, path), **options)  # type: ignore[arg-type]  # of boto3's many options only Range, a string, is used
        return answer["Body"].read()

    def _key(self, repository: Repository, path: str) -> str:
        return "/".join(filter(None, (self._prefix, repository.name))) + f"/{path}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a malformed AWS_ENDPOINT_URL
            raise OpadError(
                f"{self.address} did not answer: {error}; are AWS_ENDPOINT_URL and the credentials right?"
            ) from error
