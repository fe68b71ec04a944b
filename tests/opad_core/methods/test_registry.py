import dataclasses

import pytest

from opad_core.bases.loading import SHIPPED
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OpadError
from opad_core.methods.custom_diffusion import CustomDiffusionConfig
from opad_core.methods.opad.config import preset
from opad_core.methods.registry import METHODS, method_config
from opad_core.methods.train import new_training


@pytest.fixture(scope="module")
def nano():
    return read_manifest(SHIPPED)


@pytest.mark.parametrize("method", METHODS)
def test_a_name_gives_the_method_of_that_name(base, references, method):
    config = method_config(method, base.manifest)
    assert type(config) is METHODS[method]
    assert new_training(base, references, "dog", config, seed=0).method.name == method


@pytest.mark.parametrize("name", ["default", "paper"])
def test_opad_learns_with_the_preset_of_the_base(nano, name):
    assert method_config("opad", nano, preset=name) == preset(name, nano.presets)


def test_another_method_has_its_published_values_on_a_base_at_full_size(nano):
    full_size = dataclasses.replace(nano, name="sd-turbo", presets={})
    assert method_config("custom_diffusion", full_size) == CustomDiffusionConfig()


def test_another_method_learns_on_nano_from_the_same_prompts_as_opad_for_as_long_as_its_rates_were_searched(nano):
    config = method_config("custom_diffusion", nano)
    default = preset("default", nano.presets)
    assert config.iterations == 430
    assert (config.templates, config.batch_size) == (default.templates, default.batch_size)
    assert len(config.templates) == 20
    assert (config.class_images, config.lambda_kv_preservation, config.lambda_prior) == (64, 1.0, 1.0)
    assert (config.lr, config.lr_token) == (0.008, 0.015)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "opad"])
def test_images_are_not_augmented_on_nano_by_any_method(nano, method):
    config = method_config(method, nano)
    assert (config.flip_probability, config.canvas_probability, config.crop_scale) == (0.0, 0.0, (1.0, 1.0))


def test_an_unknown_method_and_a_preset_of_opad_are_refused(nano):
    with pytest.raises(OpadError, match="unknown method 'cones'; known methods are opad, custom_diffusion, "):
        method_config("cones", nano)
    with pytest.raises(OpadError, match="the preset 'paper' belongs to the method opad; lora has only the preset"):
        method_config("lora", nano, preset="paper")
