"""Fetch a base from a real S3 server (SeaweedFS)."""

import boto3
import pytest
from botocore.config import Config

from opad_core.__main__ import main
from opad_core.bases.manifest import read_manifest


@pytest.fixture
def store(settings, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", settings.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings.s3_secret_key.get_secret_value())
    monkeypatch.setenv("AWS_DEFAULT_REGION", settings.s3_region)
    return boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


def test_a_base_from_a_bucket_equals_one_from_a_folder(published, bases, settings, store, tmp_path):
    for file in published.rglob("*"):
        if file.is_file():
            store.upload_file(str(file), settings.s3_bucket, f"models/{file.relative_to(published).as_posix()}")
    assert main(["fetch", "sd-turbo", "--from", f"s3://{settings.s3_bucket}/models/"]) == 0
    assert main(["fetch", "sd-turbo", "--from", str(published), "--to", str(tmp_path / "copied")]) == 0
    assert read_manifest(bases / "sd-turbo").files == read_manifest(tmp_path / "copied").files


def test_an_empty_or_missing_bucket_is_a_clear_error(bases, settings, store, capsys):
    assert main(["fetch", "sd-turbo", "--from", f"s3://{settings.s3_bucket}/elsewhere"]) == 1
    assert "has no unet/config.json here" in capsys.readouterr().err
    assert main(["fetch", "sd-turbo", "--from", "s3://no-such-bucket/models"]) == 1
    assert "s3://no-such-bucket/models did not answer" in capsys.readouterr().err
