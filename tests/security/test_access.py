"""Keys, links, prompts and weights of others.

The rest of the list has tests where it belongs: ids of others in every verb (api/test_ownership.py) and their rows in
the audit log (api/test_refusals.py), keys that ended (api/test_keys.py), scopes (api/test_auth.py), forms of other
sites and sessions after sign-out (api/test_dashboard.py), webhooks into the private network (worker/test_webhooks.py).
"""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save
from sqlalchemy import text, update

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import ApiKey
from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from tests.api.test_auth import bearer
from tests.job_life import wait_until
from tests.security.test_bodies import FIELDS, Wire


def test_a_revoked_key_is_refused_by_the_next_request(
    client: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    key = new_key()
    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    with sessions.begin() as db:
        db.execute(update(ApiKey).values(revoked_at=datetime.now(UTC)))

    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 401


@pytest.fixture
def link(settings: Settings) -> str:
    storage = Storage(settings)
    for key in ("bundles/a.safetensors", "bundles/b.safetensors"):
        storage.put_once(key, key.encode(), hashlib.sha256(key.encode()).hexdigest())
    return storage.presigned_get("bundles/a.safetensors", 60, filename="a.safetensors")


def _other_key(link: str) -> str:
    return link.replace("/a.safetensors", "/b.safetensors")


def _longer_life(link: str) -> str:
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query)) | {"X-Amz-Expires": "604800"}
    return urlunsplit(parts._replace(query=urlencode(query)))


def _without_signature(link: str) -> str:
    return link.partition("&X-Amz-Signature=")[0]


def _from_before(link: str) -> str:
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query)) | {"X-Amz-Date": "20200101T000000Z"}
    return urlunsplit(parts._replace(query=urlencode(query)))


@pytest.mark.parametrize("change", [_other_key, _longer_life, _without_signature, _from_before])
def test_a_link_that_was_changed_returns_nothing(link: str, change: Callable[[str], str]) -> None:
    assert httpx.get(link, trust_env=False).status_code == 200
    assert httpx.get(change(link), trust_env=False).status_code in (400, 403)


def _pickled(good: bytes) -> bytes:
    class Opens:
        def __reduce__(self) -> Any:
            return open, ("/tmp/opad-a-pickle-was-executed", "w")

    return pickle.dumps({"token_row": Opens()})


def _torch_saved(good: bytes) -> bytes:
    file = io.BytesIO()
    torch.save({"token_row": torch.zeros(4)}, file)
    return file.getvalue()


def _header_of_2_gb(good: bytes) -> bytes:
    return struct.pack("<Q", 2 << 30) + good[8:]


def _rewritten(good: bytes, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    from safetensors.torch import load

    tensors = load(good)
    change(tensors)
    header = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    return save(tensors, metadata=header["__metadata__"])


def _with_nan(good: bytes) -> bytes:
    return _rewritten(good, lambda tensors: tensors["token_row"].fill_(float("nan")))


def _in_whole_numbers(good: bytes) -> bytes:
    return _rewritten(good, lambda tensors: tensors.update(token_row=tensors["token_row"].to(torch.int32)))


def _a_layer_more(good: bytes) -> bytes:
    return _rewritten(good, lambda tensors: tensors.update({"evil.to_k.weight": torch.zeros(2, 2)}))


def _manifest_of_another_kind(good: bytes) -> bytes:
    return save({"token_row": torch.zeros(4)}, metadata={"manifest": "[]"})


def _manifest_without_names(good: bytes) -> bytes:
    return save({"token_row": torch.zeros(4)}, metadata={"manifest": '{"format": 1}'})


@pytest.mark.parametrize(
    "spoil",
    [_pickled, _torch_saved, _header_of_2_gb, _with_nan, _in_whole_numbers, _a_layer_more, _manifest_of_another_kind,
     _manifest_without_names],
)  # fmt: skip
def test_a_weights_file_that_is_not_ours_is_refused_when_it_is_read(
    bundle: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(OpadError):
        read_bundle(spoil(bundle))


def test_weights_of_another_shape_are_refused_before_they_are_used(bundle: bytes, base_folder: Any) -> None:
    from opad_core.generation.generator import ImageRequest, OneStepGenerator

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("to_k.weight"))
        tensors[name] = torch.zeros(tensors[name].shape[0] * 2, tensors[name].shape[1])

    generator = OneStepGenerator(load_base(str(base_folder), device="cpu"))
    with pytest.raises(OpadError, match="shape"):
        generator.generate([ImageRequest(read_bundle(_rewritten(bundle, widen)), "a <concept>", 1)])


def test_an_upload_holds_no_connection_to_the_database_while_its_body_comes(
    served: str, new_key: Callable[..., str], sessions: Sessions, base: None
) -> None:
    """Otherwise twenty slow uploads would use up the api's connection pool."""
    key = new_key()
    httpx.get(f"{served}/v1/jobs", headers=bearer(key), trust_env=False).raise_for_status()  # marks the key as used
    with sessions() as db:
        began = db.scalar(text("SELECT clock_timestamp()"))

    def is_released() -> bool:
        """Return whether a query came since, and no connection is left in a transaction."""
        states = text(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid() "
            "AND query_start > :began"
        )
        with sessions() as db:
            found = db.scalars(states, {"began": began}).all()
        return bool(found) and set(found) == {"idle"}

    wire = Wire(served, key)
    try:
        wire.head(Content_Length="100000")
        wire.send(FIELDS[0])
        wait_until(
            is_released, seconds=15, what="the connection's return"
        )  # half of the time that the api waits for a body
    finally:
        wire.socket.close()
