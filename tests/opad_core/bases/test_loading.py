import copy
import shutil

import pytest
import torch

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.random_base import write_random_base


def networks_of(base):
    return {
        "teacher": base.teacher.unet,
        "student": base.student.unet,
        "vae": base.vae,
        "text": base.text.encoder,
        "dino": base.dino,
        "dinov2": base.dinov2,
        "identity": base.identity,
    }


@pytest.mark.parametrize("precision", ["float32", "half"])
def test_networks_loaded_at_once_are_those_of_their_first_use(base, precision):
    lazy, at_once = (load_base(str(base.folder), device="cpu", precision=precision) for _ in range(2))
    at_once.load("training")
    loaded = networks_of(at_once)
    for name, network in networks_of(lazy).items():
        theirs, ours = network.state_dict(), loaded[name].state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(x, ours[key]) and x.dtype == ours[key].dtype for key, x in theirs.items())
        assert not any(p.requires_grad for p in loaded[name].parameters())
    assert torch.equal(at_once.teacher.abar, lazy.teacher.abar)


def test_nothing_is_read_again_after_a_load(tmp_path):
    own = load_base(str(write_random_base(tmp_path / "base")), device="cpu")
    own.load("training")
    before = networks_of(own)
    shutil.rmtree(tmp_path / "base" / "student")
    for part in ("teacher", "vae", "text_encoder", "discriminators", "identity"):
        shutil.rmtree(tmp_path / "base" / part)
    own.load("training")
    own.load("generation")
    assert all(network is before[name] for name, network in networks_of(own).items())
    assert OneStepGenerator(own).generate([ImageRequest(None, "a dog", 1)]).shape == (1, 64, 64, 3)


def test_an_engine_loads_no_teacher(base):
    own = load_base(str(base.folder), device="cpu")
    own.load("generation")
    assert vars(own).keys() & {"teacher", "student", "vae", "text", "dino"} == {"student", "vae", "text"}


def test_a_damaged_file_fails_the_load_with_its_name(tmp_path):
    folder = write_random_base(tmp_path / "base")
    with (folder / "discriminators/dinov2/model.safetensors").open("ab") as file:
        file.write(b"!")
    own = load_base(str(folder), device="cpu")
    with pytest.raises(OpadError, match=r"dinov2/model\.safetensors differs from the hash in its manifest"):
        own.load("training")


def test_a_missing_file_fails_the_load_with_its_name(tmp_path):
    folder = write_random_base(tmp_path / "base")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OpadError, match=r"vae/diffusion_pytorch_model\.safetensors is missing from the base"):
        load_base(str(folder), device="cpu").load("generation")


def test_a_load_leaves_pytorchs_defaults_as_they_were(base):
    """A layer that is built afterwards has random weights, and in float32."""
    load_base(str(base.folder), device="cpu", precision="half").load("training")
    weight = torch.nn.Linear(64, 64).weight
    assert weight.dtype == torch.float32
    assert 0.05 < float(weight.detach().std()) < 0.1  # uniform up to 1/8: its deviation is 0.072


def test_a_base_with_other_networks_has_none_of_the_old_ones(base):
    base.load("training")
    twin = base.with_networks(copy.deepcopy)
    pairs = [
        (twin.text.encoder, base.text.encoder), (twin.vae, base.vae), (twin.teacher.unet, base.teacher.unet),
        (twin.student.unet, base.student.unet), *zip(twin.backbones, base.backbones, strict=True),
    ]  # fmt: skip
    assert [new is old for new, old in pairs] == [False] * 7
