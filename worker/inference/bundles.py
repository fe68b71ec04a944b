"""A cache of bundles in memory and on disk, in front of the object store. Each file is checked against its hash."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import structlog
from cachetools import LRUCache

from api.domain.storage import Storage
from opad_core import MIXED_ADAPTERS, Bundle, read_bundle

log = structlog.get_logger()

MEMORY_BYTES = 1 << 30
DISK_BYTES = 10 << 30


class BundleCache:
    """Keeps the most recently used bundles. Use it from one event loop; files are read in threads."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._loaded: LRUCache[str, Bundle] = LRUCache(MEMORY_BYTES, getsizeof=size_in_memory)
        self._loading: dict[str, asyncio.Task[Bundle]] = {}

    async def get(self, key: str, sha256: str) -> tuple[Bundle, bool]:
        """Return the bundle, and whether it was in memory. Concurrent requests for one bundle share one fetch.

        Raises ObjectMissing, ObjectDamaged, StorageUnavailable and, if the object is not a bundle, OpadError.
        """
        bundle = self._loaded.get(sha256)
        if bundle is not None:
            return bundle, True
        if sha256 not in self._loading:
            task = asyncio.create_task(self._load(key, sha256))
            self._loading[sha256] = task
            task.add_done_callback(lambda _: self._loading.pop(sha256))
        # shielded: the deadline of the first request must not cancel the fetch for the others
        return await asyncio.shield(self._loading[sha256]), False

    def forget(self, sha256: str) -> None:
        """Drop a bundle from memory and disk."""
        self._loaded.pop(sha256, None)
        _remove(self._folder / f"{sha256}.safetensors")

    async def _load(self, key: str, sha256: str) -> Bundle:
        bundle = await asyncio.to_thread(self._read_or_fetch, key, sha256)
        self._loaded[sha256] = bundle
        return bundle

    def _read_or_fetch(self, key: str, sha256: str) -> Bundle:
        path = self._folder / f"{sha256}.safetensors"
        cached = self._cached(path, sha256)
        if cached is not None:
            return read_bundle(cached, adapters=MIXED_ADAPTERS)
        data = self._storage.get(key, sha256)
        bundle = read_bundle(data, adapters=MIXED_ADAPTERS)
        try:
            self._keep(path, data)
        except OSError as error:  # for instance a full disk; the bundle is still in memory
            log.warning("bundle.not_cached", sha256=sha256, error=str(error))
        log.info("bundle.fetched", sha256=sha256, size=len(data))
        return bundle

    def _cached(self, path: Path, sha256: str) -> bytes | None:
        """Return the bundle's bytes; None if the disk has none that can be used."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:  # for instance a directory, another user's file or a damaged disk
            log.warning("bundle.cache_unreadable", sha256=sha256, error=str(error))
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            log.warning("bundle.cache_damaged", sha256=sha256)
            return None
        with contextlib.suppress(OSError):  # another engine removed it, or another user owns it
            os.utime(path)  # the modification time is the time of the last use
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        """Write the file and delete the least recently used ones above DISK_BYTES.

        Several engines may share the folder, so a file appears by a rename and may disappear at any time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                if path.is_dir():
                    _remove(path)
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink()
                raise
        kept = []
        for other in self._folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                kept.append((other.stat().st_mtime, other.stat().st_size, other))
        total = sum(size for _, size, _ in kept)
        for _, size, oldest in sorted(kept):
            if total <= DISK_BYTES:
                break
            _remove(oldest)
            total -= size


def _remove(path: Path) -> None:
    """Remove an entry of the cache, also a directory in the place of a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_in_memory(bundle: Bundle) -> int:
    """Return the bytes of its tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in bundle.adapter.parameters())
