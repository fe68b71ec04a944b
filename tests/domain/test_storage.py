"""Storage on a real S3 server (SeaweedFS) that checks signatures and hashes."""

import hashlib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.config import Config
from uuid_utils.compat import uuid7

from api.domain.storage import (
    ObjectDamaged,
    ObjectDiffers,
    ObjectMissing,
    Storage,
    StorageUnavailable,
    checkpoint_key,
    checkpoint_prefix,
    preview_key,
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def storage(settings):
    return Storage(settings)


def test_what_was_put_is_what_is_read(storage):
    storage.put_once("bundles/a", b"concept", sha256(b"concept"))
    assert storage.get("bundles/a", sha256(b"concept")) == b"concept"


def test_the_same_bytes_may_be_put_again_and_other_bytes_not(storage):
    storage.put_once("k", b"first", sha256(b"first"))
    storage.put_once("k", b"first", sha256(b"first"))
    with pytest.raises(ObjectDiffers, match="k already holds other bytes"):
        storage.put_once("k", b"second", sha256(b"second"))
    assert storage.read("k") == b"first"


def test_of_writers_at_once_one_wins_and_the_others_know(storage):
    def put(number: int) -> bool:
        data = f"writer {number}".encode()
        try:
            storage.put_once("k", data, sha256(data))
        except ObjectDiffers:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(put, range(6)))
    assert sum(won) == 1
    assert storage.read("k") == f"writer {won.index(True)}".encode()


def test_bytes_with_another_hash_are_refused_on_arrival(storage):
    with pytest.raises(StorageUnavailable):
        storage.put_once("k", b"bytes", sha256(b"other bytes"))
    with pytest.raises(ObjectMissing):
        storage.read("k")


def test_an_object_changed_behind_our_back_is_noticed(storage, settings):
    storage.put_once("k", b"sound", sha256(b"sound"))
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}),
    )
    client.put_object(Bucket=settings.s3_bucket, Key="k", Body=b"s0und")
    with pytest.raises(ObjectDamaged, match="k hashes to"):
        storage.get("k", sha256(b"sound"))


def test_a_missing_object_and_a_silent_store_are_different_errors(storage, settings):
    with pytest.raises(ObjectMissing, match="there is no object bundles/none"):
        storage.get("bundles/none", sha256(b""))
    nobody_listens = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StorageUnavailable):
        Storage(nobody_listens).probe()


def test_a_prefix_is_deleted_and_its_neighbors_stay(storage):
    job_id = uuid7()
    saved = [checkpoint_key(job_id, fence, 10 * fence, "0" * 64) for fence in (1, 2)]
    for key in (*saved, preview_key(job_id, 10)):
        storage.put_once(key, b"x", sha256(b"x"))
    assert storage.delete_prefix(checkpoint_prefix(job_id)) == 2
    assert storage.read(preview_key(job_id, 10)) == b"x"
    assert storage.delete_prefix(checkpoint_prefix(job_id)) == 0


def test_a_presigned_link_returns_its_object_and_no_other(storage):
    storage.put_once("k", b"image", sha256(b"image"))
    address = storage.presigned_get("k", seconds=60, filename="k.safetensors")
    assert urllib.request.urlopen(address).read() == b"image"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address.replace("/k?", "/other?"))


def test_the_bucket_is_created_once(settings):
    storage = Storage(settings.model_copy(update={"s3_bucket": "opad-made-here"}))
    with pytest.raises(ObjectMissing):
        storage.probe()
    storage.ensure_bucket()
    storage.ensure_bucket()
    storage.probe()
