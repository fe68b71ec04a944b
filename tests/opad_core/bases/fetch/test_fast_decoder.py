"""Fetch the fast decoder together with a base, and add it to one that is installed."""

import json
import shutil

import pytest
import torch

from opad_core.__main__ import main
from opad_core.bases.fast_decoder import FAST_DECODER, WEIGHTS
from opad_core.bases.fetch.mirrors import NOTE, NOTES
from opad_core.bases.fetch.recipes import TAESD
from opad_core.bases.loading import decode, load_base
from opad_core.bases.manifest import hash_of, read_manifest
from tests.hub_mirror import tiny_decoder

LACKS_CONFIG = "madebyollin/taesd at 614f768 has no config.json here"


@pytest.fixture
def without(mirror):
    """A mirror without the fast decoder."""
    shutil.rmtree(mirror / TAESD.name)
    return mirror


def fetch(mirror, *options):
    return main(["fetch", "sd-turbo", "--from", str(mirror), *options])


def test_a_base_is_fetched_with_its_fast_decoder(published, bases, capsys):
    assert fetch(published) == 0
    assert "madebyollin/taesd at 614f768: MIT" in capsys.readouterr().out
    folder = bases / "sd-turbo" / FAST_DECODER
    assert json.loads((folder / "manifest.json").read_text()) == {
        "repository": "madebyollin/taesd",
        "commit": None,  # this mirror was copied without notes
        "license": "MIT",
        "files": {name: hash_of(published / TAESD.name / name) for name in ("config.json", WEIGHTS)},
    }
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS, "manifest.json"]
    base = load_base("sd-turbo", bases=bases, device="cpu")
    assert not any(path.startswith(FAST_DECODER) for path in base.manifest.files)
    z = torch.randn((1, *base.latent_shape), generator=torch.Generator().manual_seed(0))
    assert base.vae.config.scaling_factor == 0.18215  # which TAESD does not apply
    assert torch.equal(decode(base.fast_decoder, z), base.fast_decoder.decoder(z))


def test_a_mirror_without_it_gives_the_same_base_and_another_adds_it(without, published, bases, capsys):
    assert fetch(without) == 0
    assert f"without the fast decoder, which is optional: {LACKS_CONFIG}" in capsys.readouterr().out
    before = read_manifest(bases / "sd-turbo")
    base = load_base("sd-turbo", bases=bases, device="cpu")
    assert base.no_fast_decoder == (
        "the base 'sd-turbo' has no fast decoder here; `python -m opad_core fetch sd-turbo` adds it"
    )
    assert fetch(without) == 1
    assert f"opad: {LACKS_CONFIG}" in capsys.readouterr().err
    assert fetch(published) == 0
    assert f"the fast decoder is in {bases / 'sd-turbo' / FAST_DECODER}" in capsys.readouterr().out
    assert load_base("sd-turbo", bases=bases, device="cpu").no_fast_decoder is None
    assert read_manifest(bases / "sd-turbo") == before


def test_a_damaged_one_is_replaced_and_an_intact_one_is_not(published, bases, capsys):
    assert fetch(published) == 0
    (bases / "sd-turbo" / FAST_DECODER / WEIGHTS).write_bytes(b"")
    assert fetch(published) == 0
    assert load_base("sd-turbo", bases=bases, device="cpu").no_fast_decoder is None
    assert fetch(published) == 1
    assert "already exists" in capsys.readouterr().err


def test_notes_of_the_download_are_checked_and_recorded(mirror, bases, capsys):
    assert fetch(mirror) == 0
    shutil.rmtree(bases / "sd-turbo" / FAST_DECODER)

    def note(name, revision, sha256):
        file = mirror / TAESD.name / f"{NOTES}{name}{NOTE}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{revision}\n{sha256}\n1700000000.0\n")

    note(WEIGHTS, "f" * 40, "0" * 64)
    assert fetch(mirror) == 1
    assert f"is from the commit {'f' * 40}, not {TAESD.revision}" in capsys.readouterr().err
    note(WEIGHTS, TAESD.revision, "0" * 64)
    assert fetch(mirror) == 1
    assert f"{WEIGHTS} is damaged" in capsys.readouterr().err
    for name in ("config.json", WEIGHTS):
        note(name, TAESD.revision, hash_of(mirror / TAESD.name / name))
    assert fetch(mirror) == 0
    record = json.loads((bases / "sd-turbo" / FAST_DECODER / "manifest.json").read_text())
    assert record["commit"] == TAESD.revision


def test_a_pickle_or_another_network_is_not_installed(mirror, bases, capsys):
    weights = mirror / TAESD.name / WEIGHTS
    weights.rename(weights.with_suffix(".bin"))
    assert fetch(mirror) == 0
    assert "pickles can run any code and are never read" in capsys.readouterr().out
    tiny_decoder(latent_channels=16).save_pretrained(mirror / TAESD.name)
    assert fetch(mirror) == 1
    assert "it reads 16 channels, and the student's latents have 4" in capsys.readouterr().err
    (mirror / TAESD.name / "config.json").write_text("<html>")
    assert fetch(mirror) == 1
    assert "config.json is not JSON" in capsys.readouterr().err
    assert not (bases / "sd-turbo" / FAST_DECODER).exists()


def test_the_hashes_of_an_earlier_one_can_be_required(published, mirror, bases, tmp_path, capsys):
    assert fetch(published) == 0
    config = mirror / TAESD.name / "config.json"
    config.write_text(config.read_text() + "\n")
    assert fetch(mirror, "--like", str(bases / "sd-turbo"), "--to", str(tmp_path / "other")) == 0
    assert "files of the fast decoder that differ from the given one: config.json" in capsys.readouterr().out
    assert not (tmp_path / "other" / FAST_DECODER).exists()
    assert fetch(published, "--like", str(bases / "sd-turbo"), "--to", str(tmp_path / "other")) == 0
    assert load_base(str(tmp_path / "other"), device="cpu").no_fast_decoder is None
