import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import load_base
from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.evaluation.report import SEEDS, _diversity, report_card
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.pixels import squared
from tests.random_base import add_fast_decoder


@pytest.fixture(scope="module")
def untouched_bundle(base):
    """A concept that learned nothing: V* is the noun's row, the projections are the student's own."""
    return read_bundle(
        write_bundle(
            KeyValueAdapter.initial(base.student, base.text.embedding_of("dog")),
            method="opad",
            class_noun="dog",
            base="nano",
            base_sha256=base.manifest.sha256,
            config={},
            seed=0,
        )
    )


def test_an_image_that_repeats_a_reference_counts_as_a_copy(base, untouched_bundle):
    """The references are the student's own images at the report's prompts and seeds."""
    generator = OneStepGenerator(base)
    prompt = base.manifest.scene_prompts[0].format("<concept>")
    references = [
        Image.fromarray(generator.generate([ImageRequest(untouched_bundle, prompt, seed)])[0]) for seed in (1000, 1001)
    ]
    card = report_card(untouched_bundle, base, references)
    assert card.personalised.closest == pytest.approx(1, abs=1e-5)
    assert card.personalised.copies > 0


def test_the_card_has_every_score_for_both_students(base, untouched_bundle, references):
    card = report_card(untouched_bundle, base, references)
    figures = card.figures()
    assert figures["personalised"].keys() == figures["untouched"].keys()
    held_out = report_scenes(base, references, "dog")
    assert figures["prompts"] == [scene.format("<concept>") for scene in held_out]
    assert len(figures["seeds"]) == SEEDS
    assert all(-1 <= value <= 2 for side in ("personalised", "untouched") for value in figures[side].values())


def test_the_card_says_what_the_fast_decoder_costs_in_identity(base, untouched_bundle, references, tmp_path):
    folder = shutil.copytree(base.folder, tmp_path / "base")
    add_fast_decoder(folder)
    with_fast = load_base(str(folder), device="cpu")
    without, card = (report_card(untouched_bundle, each, references) for each in (base, with_fast))
    assert without.figures()["fast_decoder"] is None
    assert card.personalised == without.personalised  # those images are the full decoder's

    requests = [ImageRequest(untouched_bundle, prompt, seed, "fast") for prompt in card.prompts for seed in card.seeds]
    images = OneStepGenerator(with_fast).generate(requests)
    squares = [
        squared(reference, keep_aspect=True).resize((64, 64), Image.Resampling.LANCZOS) for reference in references
    ]
    network = load_embedding()
    identity = float((embed(images, network) @ embed(np.stack(squares), network).T).mean())
    # Another batch size may round a pixel to the next level, which moves a cosine by less than 1e-3.
    assert card.fast_identity == pytest.approx(identity, abs=1e-3)
    assert card.figures()["fast_decoder"] == {
        "identity": round(card.fast_identity, 4),
        "identity_cost": round(card.personalised.identity - card.fast_identity, 4),
    }
    assert abs(card.personalised.identity - card.fast_identity) > 0.01  # a random decoder draws something else


def test_the_sheet_shows_the_references_and_the_same_seeds_before_and_after(base, references):
    bundle = changed_bundle(base)
    card = report_card(bundle, base, references)
    sheet, generator = np.asarray(card.sheet), OneStepGenerator(base)

    def tile(column, row):
        """Return a tile of 160 pixels. Columns are 168 apart, rows 194, and groups of columns 24 further."""
        left, top = 28 + 168 * column + 24 * ((column > 1) + (column > 5)), 128 + 194 * row
        return sheet[top : top + 160, left : left + 160]

    last = len(card.prompts) - 1
    for row in (0, last):
        prompt = card.prompts[row]
        for first_column, asked, text in ((2, None, prompt.replace("<concept>", "dog")), (6, bundle, prompt)):
            generated = generator.generate([ImageRequest(asked, text, seed) for seed in card.seeds])
            for i, pixels in enumerate(generated):
                expected = Image.fromarray(pixels).resize((160, 160), Image.Resampling.BICUBIC)
                assert np.array_equal(tile(first_column + i, row), expected)
    assert len(card.prompts) == 3  # so that four references take two columns
    for i, reference in enumerate(references):
        height = round(80 * 160 / reference.width)  # all four are wider than their 80 pixels of height
        above = (160 - height) // 2
        expected = reference.resize((160, height), Image.Resampling.BICUBIC)
        assert np.array_equal(tile(i % 2, i // 2)[above : above + height], expected)
    assert not np.array_equal(tile(2, 0), tile(6, 0))


def changed_bundle(base):
    """Return a concept with other projections and another token than the student's, so that its images differ."""
    random = torch.Generator().manual_seed(1)
    projections = pretrained_projections(base.student).requires_grad_(False)
    for parameter in projections.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    return read_bundle(
        write_bundle(
            KeyValueAdapter(
                projections, nn.Parameter(torch.randn(base.text.encoder.config.hidden_size, generator=random))
            ),
            method="opad",
            class_noun="dog",
            base="nano",
            base_sha256=base.manifest.sha256,
            config={},
            seed=1,
        )
    )


def test_diversity_is_the_mean_distance_within_a_prompt():
    same, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    features = torch.stack([torch.stack([same, same, other]), torch.stack([same, same, same])])
    # First prompt: pairs 0, 1, 1; second prompt: 0, 0, 0.
    assert _diversity(features) == pytest.approx(2 / 6)
