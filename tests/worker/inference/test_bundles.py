import asyncio

import pytest

from api.domain.storage import ObjectDamaged, ObjectMissing, Storage
from worker.inference.bundles import BundleCache, size_in_memory


class CountingStorage(Storage):
    """Real storage that lists the keys it was asked for in `fetched`."""

    def __init__(self, settings):
        super().__init__(settings)
        self.fetched = []

    def get(self, key, sha256):
        self.fetched.append(key)
        return super().get(key, sha256)


@pytest.fixture
def storage(settings):
    return CountingStorage(settings)


def test_requests_for_one_bundle_share_one_fetch(storage, stored, tmp_path):
    async def ask():
        bundles = BundleCache(storage, tmp_path / "cache")
        found = await asyncio.gather(*(bundles.get(stored[0].key, stored[0].sha256) for _ in range(5)))
        return found, await bundles.get(stored[0].key, stored[0].sha256)

    found, (again, hit) = asyncio.run(ask())
    assert {bundle.id for bundle, _ in found} == {stored[0].sha256} == {again.id}
    assert hit
    assert storage.fetched == [stored[0].key]


def test_a_bundle_on_disk_is_not_fetched_again(storage, stored, tmp_path):
    for _ in range(2):
        asyncio.run(BundleCache(storage, tmp_path).get(stored[0].key, stored[0].sha256))
    assert storage.fetched == [stored[0].key]


def test_a_damaged_file_on_disk_is_fetched_again(storage, stored, tmp_path):
    asyncio.run(BundleCache(storage, tmp_path).get(stored[0].key, stored[0].sha256))
    file = tmp_path / f"{stored[0].sha256}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    bundle, _ = asyncio.run(BundleCache(storage, tmp_path).get(stored[0].key, stored[0].sha256))
    assert bundle.id == stored[0].sha256
    assert file.read_bytes() == stored[0].data
    assert storage.fetched == 2 * [stored[0].key]


def test_a_missing_or_wrong_bundle_is_not_cached(storage, stored, tmp_path):
    with pytest.raises(ObjectMissing):
        asyncio.run(BundleCache(storage, tmp_path).get("bundles/none.safetensors", "0" * 64))
    with pytest.raises(ObjectDamaged):
        asyncio.run(BundleCache(storage, tmp_path).get(stored[0].key, stored[1].sha256))
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_bundle_leaves_memory_first(storage, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.inference.bundles.MEMORY_BYTES", size_in_memory(stored[0].bundle))

    async def ask():
        bundles = BundleCache(storage, tmp_path)
        return [(await bundles.get(one.key, one.sha256))[1] for one in (stored[0], stored[0], stored[1], stored[0])]

    assert asyncio.run(ask()) == [False, True, False, False]
