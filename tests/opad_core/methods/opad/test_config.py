import dataclasses

import pytest

from opad_core.bases.captions import TEMPLATES
from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.methods.opad.config import PRESETS, OpadConfig, preset, settings_of
from opad_core.training.config import override

# Field, source of the published value, then the values of paper and default on sd-turbo, and of both on nano. A setting
# that changes has to change here, too.
TABLE = [
    ("iterations", "paper, table 5", 1000, 1000, 1000, 230),
    ("collaborative_iterations", "inferred: unpublished", 300, 300, 300, 20),
    ("batch_size", "setting", 2, 2, 4, 4),
    ("lr_student", "setting", 2e-05, 2e-05, 0.003, 0.006),
    ("lr_teacher", "setting", 1e-05, 1e-05, 0.008, 0.016),
    ("lr_token", "setting", 1e-05, 1e-05, 0.005, 0.01),
    ("lr_discriminator", "setting", 0.0001, 0.0001, 0.0001, 0.0001),
    ("weight_decay", "setting", 0.01, 0.01, 0.01, 0.01),
    ("token_weight_decay", "setting", 0.01, 0.01, 0.0, 0.0),
    ("lr_decay", "ours", 0.0, 0.0, 0.0, 0.3),
    ("clip_norm", "setting", 1.0, 1.0, 1.0, 1.0),
    ("ema_decay", "ours", 0.0, 0.0, 0.0, 0.98),
    ("initializer_word", "setting", "", "", "", ""),
    ("initializer_lookup", "setting", "entry", "word", "word", "word"),
    ("lambda_adv", "setting", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.02, 0.02, 0.02)),
    ("lambda_id", "setting", 1.0, 1.0, 1.0, 0.02),
    ("lambda_mse", "setting", 1.0, 1.0, 1.0, 1.0),
    ("lambda_swd", "setting", 0.1, 0.1, 0.1, 0.01),
    ("lambda_kv_preservation", "ours", 0.0, 0.0, 0.0, 2.0),
    ("swd_levels", "setting", 5, 5, 2, 2),
    ("swd_projections", "setting", 128, 128, 8, 8),
    ("swd_patch", "setting", 11, 11, 11, 11),
    ("guidance", "setting", 7.5, 7.5, 7.5, 1.0),
    ("teacher_timestep_range", "setting", (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.4, 1.0)),
    ("target_timestep_range", "setting", (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.6, 1.0)),
    ("target_weight", "setting", "abar", "abar", "abar", "uniform"),
    ("max_target_timestep", "ours", 1.0, 1.0, 1.0, 1.0),
    ("shared_text_encoder", "paper; what False means is inferred", True, True, True, True),
    ("teacher_first", "paper; what True means is inferred", False, False, False, False),
    ("eval_every", "ours", 0, 0, 0, 30),
    ("patience", "ours", 0, 0, 0, 2),
    ("min_gain", "ours", 0.0, 0.0, 0.0, 0.008),
    ("max_references", "ours", 0, 0, 0, 0),
    ("keep_aspect", "setting", False, False, False, True),
    ("flip_probability", "setting", 0.5, 0.5, 0.5, 0.0),
    ("canvas_probability", "setting", 0.66, 0.66, 0.66, 0.0),
    ("canvas_fill", "setting", "gray", "gray", "gray", "gray"),
    ("canvas_scale", "setting", (170 / 512, 1.0), (170 / 512, 1.0), (170 / 512, 1.0), (170 / 512, 1.0)),
    ("far_below", "setting", 307 / 512, 307 / 512, 307 / 512, 307 / 512),
    ("crop_scale", "setting", (614 / 512, 715 / 512), (614 / 512, 715 / 512), (614 / 512, 715 / 512), (1.0, 1.0)),
    ("scene_share", "ours", 0.0, 0.0, 0.0, 0.5),
    ("scene_captions", "ours", False, False, False, True),
    ("size_words", "setting", True, True, False, False),
    ("canvas_for_discriminators", "setting", True, False, True, False),
    ("real_label", "setting", 1.0, 1.0, 1.0, 1.0),
    ("augmentation_cache", "ours", 0, 0, 0, 100),
    ("normalize_backbones", "setting", False, False, False, True),
    ("discriminator_resize", "setting", "area", "area", "area", "bicubic"),
    ("identity_resize", "setting", "bilinear", "bilinear", "bilinear", "bicubic"),
    ("reuse_features", "setting", False, True, False, True),
    ("decode_crop", "ours", 1.0, 1.0, 1.0, 1.0),
    ("dinov2_size", "setting", 0, 0, 0, 0),
    ("swd_unit_range", "setting", False, False, False, True),
    ("collaboration", "paper, sec. 10", "strict", "strict", "strict", "gated"),
    ("samples", "inferred: unpublished", 100, 100, 100, 64),
    ("kept_share", "inferred: unpublished", 0.5, 0.5, 0.5, 0.5),
    ("reference_share", "inferred: unpublished", 0.5, 0.5, 0.5, 0.5),
]  # fmt: skip
PLAIN_TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the weird {}",
)
"""Templates of nano's default. They omit words like "small" and "dark", which the nano base takes literally."""


@pytest.fixture(scope="module")
def nano():
    return load_base("nano", device="cpu").manifest.presets


def test_every_setting_of_both_presets_has_the_value_in_the_table(nano):
    columns = [preset(name, base_presets) for base_presets in ({}, nano) for name in ("paper", "default")]
    expected = {name: tuple(values) for name, _, *values in TABLE}
    fields = [field.name for field in dataclasses.fields(OpadConfig) if field.name != "templates"]
    assert {name: tuple(getattr(config, name) for config in columns) for name in fields} == expected
    assert [config.templates for config in columns] == [(), (), (), PLAIN_TEMPLATES]


def test_every_setting_names_its_source():
    published = {setting.name: setting.source for setting in settings_of("paper", {})}
    assert published == {name: source for name, source, *_ in TABLE} | {"templates": "setting"}


def test_a_setting_tells_who_set_it(nano):
    """On sd-turbo `default` differs from the published setting in three fields, each with a reason."""
    at_full_size = {s.name: s.set_by for s in settings_of("default", {}) if s.set_by != "published"}
    assert at_full_size == dict.fromkeys(
        ("initializer_lookup", "canvas_for_discriminators", "reuse_features"), "preset"
    )
    assert all(s.source.startswith("ours: ") for s in settings_of("default", {}) if s.set_by == "preset")
    on_nano = {s.name: s.set_by for s in settings_of("default", nano)}
    assert (on_nano["lr_student"], on_nano["reuse_features"], on_nano["lr_discriminator"]) == (
        "base", "preset", "published",
    )  # fmt: skip


def test_the_training_prompts_are_the_published_25():
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 25
    assert not [template for template in TEMPLATES if "close" in template]
    assert {"a photo of a cool {}", "a photo of a small {}"} <= set(TEMPLATES)


def test_an_unknown_preset_or_setting_is_named():
    assert set(PRESETS) == {"paper", "default"}
    with pytest.raises(OpadError, match="unknown preset 'best'; known presets are paper, default"):
        preset("best", {})
    with pytest.raises(OpadError, match="unknown setting 'lr_studnet'"):
        override(OpadConfig(), {"lr_studnet": 1e-4})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"collaborative_iterations": -1}, "collaborative_iterations must be at least 0, got -1"),
        (
            {"teacher_timestep_range": (0.5, 0.5)},
            r"teacher_timestep_range must be two increasing numbers in \[0, 1\], got \(0.5",
        ),
        ({"target_timestep_range": (-0.1, 1.0)}, "target_timestep_range must be two increasing numbers"),
        ({"target_timestep_range": (0.0, 1.1)}, "target_timestep_range must be two increasing numbers"),
        ({"max_references": -1}, "max_references and augmentation_cache must be at least 0, got -1 and 0"),
        ({"augmentation_cache": -1}, "got 0 and -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_every": -1}, "eval_every and patience must be at least 0, got -1 and 0"),
        ({"patience": -1}, "got 0 and -1"),
        ({"min_gain": -0.1}, "min_gain must be at least 0, got -0.1"),
        ({"decode_crop": 0.0}, r"decode_crop must be in \(0, 1\], got 0.0"),
        ({"decode_crop": 1.1}, "got 1.1"),
        (
            {"target_timestep_range": (0.6, 1.0), "max_target_timestep": 0.5},
            r"max_target_timestep must be in \[0.6, 1\], got 0.5",
        ),
        ({"max_target_timestep": 1.1}, "got 1.1"),
        ({"scene_share": 1.0}, r"scene_share must be in \[0, 1\), got 1.0"),
        ({"scene_share": -0.1}, "got -0.1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"ema_decay": -0.1}, "got -0.1"),
    ],
)
def test_a_value_out_of_range_is_refused(changes, sentence):
    with pytest.raises(OpadError, match=sentence):
        override(OpadConfig(), changes)


def test_the_ends_of_the_ranges_are_allowed():
    allowed = {
        "iterations": 1, "collaborative_iterations": 0, "batch_size": 1, "decode_crop": 1.0, "ema_decay": 0.0,
        "target_timestep_range": [0.0, 1.0], "max_target_timestep": 1.0, "scene_share": 0.0,
    }  # fmt: skip
    assert override(OpadConfig(), allowed).target_timestep_range == (0.0, 1.0)
    assert (
        override(OpadConfig(), {"target_timestep_range": (0.6, 1.0), "max_target_timestep": 0.6}).max_target_timestep
        == 0.6
    )
