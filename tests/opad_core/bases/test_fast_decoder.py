import json
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from opad_core.bases.fast_decoder import FAST_DECODER, WEIGHTS
from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.loading import SHIPPED, decode, load_base
from opad_core.errors import OpadError
from opad_core.nano.build.pack import NO_FAST_DECODER
from tests.hub_mirror import tiny_decoder
from tests.random_base import add_fast_decoder, write_record


@pytest.fixture
def folder(base, tmp_path):
    """A copy of the random base, with a fast decoder."""
    copied = shutil.copytree(base.folder, tmp_path / "base")
    add_fast_decoder(copied)
    return copied


def loaded(folder):
    return load_base(str(folder), device="cpu")


def test_a_fast_decoder_does_not_change_the_identity_of_a_base(base, folder):
    assert base.fast_decoder is None
    assert loaded(folder).fast_decoder is not None
    assert loaded(folder).manifest.sha256 == base.manifest.sha256


def test_the_fast_decoder_reads_scaled_latents(folder):
    """TAESD was trained on them. Divided by a scale, they would give other pixels."""
    with_fast = loaded(folder)
    z = torch.randn((2, *with_fast.latent_shape), generator=torch.Generator().manual_seed(0))
    network = AutoencoderTiny.from_pretrained(folder / FAST_DECODER)
    with torch.no_grad():
        pixels = decode(with_fast.fast_decoder, z)
        expected = network.decoder(z)
    assert pixels.shape == (2, 3, 64, 64)
    assert torch.equal(pixels, expected)


def test_the_pixels_of_the_fast_decoder_are_in_the_range_of_the_full_one(folder):
    """TAESD's last layer gives [0, 1]: 0, 0.5 and 1 are -1, 0 and 1 of our pixels."""
    tensors = load_file(folder / FAST_DECODER / WEIGHTS)
    last = max((name for name in tensors if name.startswith("decoder.")), key=lambda name: int(name.split(".")[2]))
    layer = last.rpartition(".")[0]
    tensors[f"{layer}.weight"] = torch.zeros_like(tensors[f"{layer}.weight"])
    tensors[f"{layer}.bias"] = torch.tensor([0.0, 0.5, 1.0])
    save_file(tensors, folder / FAST_DECODER / WEIGHTS, metadata={"format": "pt"})
    write_record(folder)
    with_fast = loaded(folder)
    pixels = decode(with_fast.fast_decoder, torch.zeros(1, *with_fast.latent_shape))
    assert pixels.amax((0, 2, 3)).tolist() == pixels.amin((0, 2, 3)).tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("damaged", ["config.json", WEIGHTS, "manifest.json"])
def test_a_damaged_or_missing_file_is_named_and_the_base_still_decodes(folder, damaged):
    file = folder / FAST_DECODER / damaged
    file.write_bytes(file.read_bytes()[:-1])
    named = damaged if damaged == WEIGHTS else "config.json"  # without hashes, the first file has none
    with pytest.raises(OpadError, match=f"fast_decoder/{named} differs from the hash in the fast decoder's manifest"):
        _ = loaded(folder).fast_decoder
    file.unlink()
    reason = "is missing from" if damaged != "manifest.json" else "differs from the hash in"
    base = loaded(folder)
    assert base.no_fast_decoder.startswith(f"fast_decoder/{named} {reason} the fast decoder")
    assert base.no_fast_decoder.endswith("install it again")
    assert base.decode(torch.zeros(1, *base.latent_shape)).shape == (1, 3, 64, 64)


def test_a_decoder_of_other_latents_or_another_size_is_refused(folder):
    tiny_decoder(latent_channels=4).save_pretrained(folder / FAST_DECODER)
    write_record(folder)
    with pytest.raises(OpadError, match="it reads 4 channels, and the student's latents have 80"):
        _ = loaded(folder).fast_decoder
    other = AutoencoderTiny(
        latent_channels=80, encoder_block_out_channels=(8,) * 3, num_encoder_blocks=(1, 1, 1),
        decoder_block_out_channels=(8,) * 3, num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    other.save_pretrained(folder / FAST_DECODER)
    write_record(folder)
    with pytest.raises(OpadError, match="it enlarges 4 times, and 8 latents are 64 pixels"):
        _ = loaded(folder).fast_decoder


def test_a_configuration_of_another_network_is_refused(folder):
    config = folder / FAST_DECODER / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "AutoencoderKL"}))
    write_record(folder)
    with pytest.raises(OpadError, match="it is a AutoencoderKL, not an AutoencoderTiny"):
        _ = loaded(folder).fast_decoder


def test_a_decoder_that_lacks_weights_is_refused(folder):
    tensors = load_file(folder / FAST_DECODER / WEIGHTS)
    del tensors["decoder.layers.0.bias"]
    save_file(tensors, folder / FAST_DECODER / WEIGHTS, metadata={"format": "pt"})
    write_record(folder)
    with pytest.raises(OpadError, match=r"lacks 1 tensors of a AutoencoderTiny, the first is decoder\.layers\.0\.bias"):
        _ = loaded(folder).fast_decoder


def test_a_base_without_one_says_why(base):
    assert base.no_fast_decoder == "the base 'nano' has no fast decoder here"  # the random base has nano's name
    nano = load_base("nano", device="cpu")
    assert nano.folder == SHIPPED
    assert nano.no_fast_decoder == NO_FAST_DECODER


def test_full_size_has_the_published_architecture(tmp_path):
    """TAESD's published file has 9,793,292 bytes: 2,445,063 float32 weights and the header."""
    base = FullSizeBase(tmp_path, torch.device("meta"))
    assert base.no_fast_decoder is None
    assert sum(p.numel() for p in base.fast_decoder.parameters()) == 2_445_063
    assert decode(base.fast_decoder, torch.zeros(1, 4, 64, 64, device="meta")).shape == (1, 3, 512, 512)
