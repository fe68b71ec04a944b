"""Which rows a base has, and what they learn with."""

import dataclasses

import pytest

from opad_core.bases.loading import SHIPPED
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OpadError
from opad_core.tables.rows import ROWS, config_of, rows_on


@pytest.fixture(scope="module")
def nano():
    return read_manifest(SHIPPED)


def test_a_row_of_equal_seconds_has_more_iterations_of_the_shorter_kind(nano):
    # 430 iterations of OPAD at 0.727 s are 845 at 0.37 s
    assert config_of(ROWS["custom_diffusion-seconds"], nano).iterations == 845
    assert config_of(ROWS["custom_diffusion-informed"], nano).iterations == 430


def test_rows_with_measurements_or_settings_of_nano_are_on_nano_alone(nano):
    other = dataclasses.replace(nano, name="sd-turbo", presets={})
    assert {row.name for row in rows_on(nano)} == set(ROWS)
    without = {"custom_diffusion-seconds", "custom_diffusion-gentle", "one-photo-settings"}
    assert set(ROWS) - {row.name for row in rows_on(other)} == without
    for name, sentence in (("seconds", "was not measured"), ("gentle", "is for the base 'nano' alone")):
        with pytest.raises(OpadError, match=sentence):
            config_of(ROWS[f"custom_diffusion-{name}"], other)


def test_a_gentle_row_differs_in_its_learning_rates_alone(nano):
    gentle, informed = (config_of(ROWS[f"custom_diffusion-{name}"], nano) for name in ("gentle", "informed"))
    assert (gentle.lr, informed.lr) == (0.008, 0.08)
    assert dataclasses.replace(gentle, lr=informed.lr, lr_token=informed.lr_token) == informed


def test_the_settings_for_one_photo_have_the_iterations_of_all_photos(nano):
    one, plain, opad = (config_of(ROWS[name], nano) for name in ("one-photo-settings", "one-shot", "opad"))
    assert one.total_iterations == plain.total_iterations == opad.total_iterations
    assert (one.max_references, one.collaborative_iterations, one.real_label) == (1, 160, 0.9)
    assert (plain.max_references, opad.max_references) == (1, 0)
