import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key
from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.loading import Base, load_base
from opad_core.generation.bundle import Bundle, read_bundle, write_bundle
from opad_core.generation.generator import OneStepGenerator
from tests.random_base import write_random_base
from worker.inference.batching import Batcher


@dataclass(frozen=True)
class Stored:
    """A bundle in the object store."""

    data: bytes
    sha256: str
    key: str
    bundle: Bundle

    @property
    def name(self) -> dict[str, str]:
        return {"key": self.key, "sha256": self.sha256}


def random_bundle(base: Base, seed: int, *, base_sha256: str | None = None) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    projections = pretrained_projections(base.student).requires_grad_(False)
    for parameter in projections.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return write_bundle(
        KeyValueAdapter(
            projections, nn.Parameter(torch.randn(base.text.encoder.config.hidden_size, generator=generator))
        ),
        method="opad",
        class_noun="dog",
        base="nano",
        base_sha256=base_sha256 or base.manifest.sha256,
        config={},
        seed=seed,
    )


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Base:
    return load_base(str(base_folder), device="cpu")


@pytest.fixture
def generator(base: Base) -> OneStepGenerator:
    return OneStepGenerator(base)


@pytest.fixture
def batcher(generator: OneStepGenerator) -> Iterator[Batcher]:
    running = Batcher(generator, seconds_per_image=0.01)
    yield running
    running.close()


@pytest.fixture
def engine_settings(settings: Settings, base_folder: Path) -> Settings:
    return settings.model_copy(update={"base": str(base_folder), "device": "cpu"})


@pytest.fixture
def stored(base: Base, settings: Settings) -> list[Stored]:
    """Store the bundles of two concepts."""
    storage, made = Storage(settings), []
    for seed in (1, 2):
        data = random_bundle(base, seed)
        sha256 = hashlib.sha256(data).hexdigest()
        storage.put_once(bundle_key(sha256), data, sha256)
        made.append(Stored(data, sha256, bundle_key(sha256), read_bundle(data)))
    return made
