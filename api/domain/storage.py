"""The S3 object store. Every key is written once: its name contains a hash, or a fence that is used once.

References and bundles are named by their SHA-256, so the same bytes uploaded twice are one object. Every object in use
has a row in the database; an object without a row is garbage.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConstantProvider
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

from api.domain.clocks import StoreClock
from api.domain.errors import Conflict, DomainError, NotFound, Unavailable
from api.domain.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


ERASURE = 0x0FAD_0002
"""Advisory lock: held shared while stored objects have no rows yet, exclusively while objects are deleted."""


def reference_key(sha256: str) -> str:
    return f"references/{sha256}.png"


def bundle_key(sha256: str) -> str:
    return f"bundles/{sha256}.safetensors"


def export_key(sha256: str) -> str:
    return f"exports/{sha256}.safetensors"


def checkpoint_key(job_id: UUID, fence: int, step: int, sha256: str) -> str:
    """Return a key with the hash: a training that was rolled back reaches the same step again in another state."""
    return f"jobs/{job_id}/f{fence}/step{step}-{sha256[:12]}.safetensors"


def checkpoint_prefix(job_id: UUID) -> str:
    """Return the prefix of a job's checkpoints under every fence. Its previews have another prefix."""
    return f"jobs/{job_id}/f"


def preview_key(job_id: UUID, step: int) -> str:
    return f"{preview_prefix(job_id)}{step}.png"


def job_image_key(job_id: UUID, sha256: str) -> str:
    """Return the key of an image in a job's report card."""
    return f"{job_prefix(job_id)}images/{sha256}.png"


def image_key(concept_id: UUID, image_id: UUID, image_format: str) -> str:
    return f"{image_prefix(concept_id)}{image_id}.{image_format}"


def image_prefix(concept_id: UUID) -> str:
    """Return the prefix of a concept's stored images, also of those that never got a row."""
    return f"images/{concept_id}/"


def study_image_key(study_id: UUID, image_id: UUID) -> str:
    return f"{study_prefix(study_id)}{image_id}.png"


def study_prefix(study_id: UUID) -> str:
    return f"studies/{study_id}/"


def job_prefix(job_id: UUID) -> str:
    return f"jobs/{job_id}/"


def preview_prefix(job_id: UUID) -> str:
    return f"jobs/{job_id}/previews/"


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    key: str
    size: int
    written_at: datetime


class ObjectMissing(NotFound):
    """There is no object at the key."""


class ObjectDamaged(DomainError):
    """The object's bytes have changed since they were written."""


class ObjectDiffers(Conflict):
    """The key already holds other bytes."""


class StorageUnavailable(Unavailable):
    """The store does not answer, or answers with an error, after the client's own retries."""


class StoreClockDiffers(StorageUnavailable):
    """The store refuses the time that a request is signed with, and it could not be learned from the answer."""


class Storage:
    """A bucket of the object store. It holds a connection pool, and threads may share it."""

    def __init__(self, settings: Settings, *, short_timeouts: bool = False) -> None:
        """Connect to the bucket that the settings name.

        With `short_timeouts` a request to a silent store fails after two tries of 4 s instead of four of 30 s: for
        callers that have a client waiting.
        """
        if settings.s3_endpoint is None:
            raise ValueError("OPAD_S3_ENDPOINT is not set; start the embedded servers with `opad up` or set it")
        self._bucket = settings.s3_bucket
        self.clock = StoreClock()
        self._client = _connect(settings, settings.s3_endpoint, self.clock, short_timeouts=short_timeouts)
        public = settings.s3_public_endpoint
        self._signer = _connect(settings, public, self.clock, short_timeouts=short_timeouts) if public else self._client

    def put_once(self, key: str, data: bytes, sha256: str) -> bool:
        """Write `data` unless the key exists, and return whether it did. Equal bytes already there are success.

        The store checks the SHA-256 on arrival. Raises ObjectDiffers, StorageUnavailable.
        """
        try:
            with self._mapped_errors(key):
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=data,
                    IfNoneMatch="*",
                    ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                )
        except _KeyTaken as taken:
            if hashlib.sha256(self.read(key)).hexdigest() != sha256:
                raise ObjectDiffers(f"{key} already holds other bytes", "object_differs", key=key) from taken
            return False
        return True

    def get(self, key: str, sha256: str) -> bytes:
        """Return the object after checking its hash. Raises ObjectMissing, ObjectDamaged, StorageUnavailable."""
        data = self.read(key)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ObjectDamaged(f"{key} hashes to {found}, expected {sha256}", "object_damaged", key=key)
        return data

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield every object with this prefix, in the order of the keys. Raises StorageUnavailable."""
        with self._mapped_errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    yield Entry(entry["Key"], entry["Size"], entry["LastModified"])

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object with this prefix and return how many there were."""
        deleted = 0
        with self._mapped_errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                keys = [entry["Key"] for entry in page.get("Contents", [])]
                if keys:
                    self._client.delete_objects(
                        Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
                    )
                    deleted += len(keys)
        return deleted

    def delete(self, key: str) -> None:
        with self._mapped_errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def presigned_get(self, key: str, seconds: int, *, filename: str) -> str:
        """Return a link that downloads the object as `filename`, without credentials, for that many seconds.

        It opens no connection and does not check that the object exists (see `require`).
        """
        params = {
            "Bucket": self._bucket,
            "Key": key,
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
        }
        return self._signer.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds)

    def require(self, key: str) -> None:
        """Raise ObjectMissing if there is no such object."""
        with self._mapped_errors(key):
            self._client.head_object(Bucket=self._bucket, Key=key)

    def ensure_bucket(self) -> None:
        """Create the bucket if it does not exist."""
        try:
            self.probe()
        except ObjectMissing:
            try:
                with self._mapped_errors(self._bucket):
                    self._client.create_bucket(Bucket=self._bucket)
            except _KeyTaken:
                return

    def probe(self) -> None:
        """Raise StorageUnavailable if the store does not answer, ObjectMissing if the bucket does not exist."""
        with self._mapped_errors(self._bucket):
            self._client.head_bucket(Bucket=self._bucket)

    def read(self, key: str) -> bytes:
        """Return the object without checking its hash, which is not stored for a preview. Raises like `get`."""
        with self._mapped_errors(key):
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    @contextmanager
    def _mapped_errors(self, key: str) -> Iterator[None]:
        """Map the client's many errors to the few that a caller handles."""
        try:
            yield
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                raise ObjectMissing(f"there is no object {key}", "object_missing", key=key) from error
            if status in (409, 412):
                raise _KeyTaken(key) from error
            if error.response["Error"].get("Code") == "RequestTimeTooSkewed":
                raise StoreClockDiffers(
                    "the object store refuses the time of our requests, and no answer of it shows its own; set the "
                    "clocks of this machine and of the store",
                    "clocks_differ",
                ) from error
            raise StorageUnavailable(f"the store refused {key}: {error}", "storage_unavailable") from error
        except FlexibleChecksumError as error:  # the bytes do not match the store's own checksum
            raise ObjectDamaged(f"{key} arrived damaged: {error}", "object_damaged", key=key) from error
        except BotoCoreError as error:
            raise StorageUnavailable(f"the store did not answer for {key}: {error}", "storage_unavailable") from error


_making = Lock()


@cache
def _session() -> boto3.session.Session:
    """Return a session without the AWS variables and without the configuration files of the user.

    It parses the description of S3, which takes 0.25 s and 10 MB. So there is one, and it makes one client at a time.
    """
    inner = botocore.session.Session()
    values = inner.get_component("config_store")
    for name, (_, _, default, _) in botocore.session.Session.SESSION_VARIABLES.items():
        values.set_config_provider(name, ConstantProvider(default))
    for name in ("config_file", "credentials_file"):
        values.set_config_provider(name, ConstantProvider(os.devnull))
    return boto3.session.Session(botocore_session=inner)


def _connect(settings: Settings, endpoint: str, clock: StoreClock, *, short_timeouts: bool) -> "S3Client":
    with _making:
        client: S3Client = _session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key,
            aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
            verify=str(settings.s3_ca_file) if settings.s3_ca_file else True,
            config=Config(
                signature_version="s3v4",
                proxies={"http": settings.s3_proxy, "https": settings.s3_proxy} if settings.s3_proxy else {},
                s3={"addressing_style": "path"},
                connect_timeout=3,
                read_timeout=4 if short_timeouts else 30,
                retries={"mode": "standard", "total_max_attempts": 2 if short_timeouts else 4},
            ),
        )
    clock.govern(client)
    return client


class _KeyTaken(Exception):
    """412: the key exists. 409: another writer is storing it now, or we already own the bucket."""
