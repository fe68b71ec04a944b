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


def a_directory(path):
    path.mkdir()
    (path / "left over").touch()


def a_file_with_input_output_errors(path):
    """Address 0 of a process is not mapped, so reading its memory from the start is EIO."""
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("put", [a_directory, a_file_with_input_output_errors])
def test_an_entry_that_cannot_be_read_is_a_miss_and_is_replaced(storage, stored, tmp_path, put, capsys):
    file = tmp_path / f"{stored[0].sha256}.safetensors"
    put(file)
    for _ in range(2):
        bundle, _ = asyncio.run(BundleCache(storage, tmp_path).get(stored[0].key, stored[0].sha256))
        assert bundle.id == stored[0].sha256
    assert storage.fetched == [stored[0].key], "the second time it came from the disk"
    assert file.read_bytes() == stored[0].data
    assert list(tmp_path.iterdir()) == [file]
    assert capsys.readouterr().out.count("bundle.cache_unreadable") == 1


def test_a_directory_in_the_place_of_a_forgotten_bundle_is_removed(storage, stored, tmp_path):
    a_directory(tmp_path / f"{stored[0].sha256}.safetensors")
    BundleCache(storage, tmp_path).forget(stored[0].sha256)
    assert list(tmp_path.iterdir()) == []


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
