import numpy as np
import pytest
import torch

from opad_core.methods.opad.losses import (
    discriminator_loss,
    generator_loss,
    identity_loss,
    latent_loss,
    ms_swd,
    rgb_to_lab,
    swd_filters,
)
from opad_core.methods.reconstruction import reconstruction_loss


def test_reconstruction_counts_only_the_valid_cells():
    prediction = torch.zeros(1, 2, 2, 2)
    target = torch.tensor([[[[1.0, 5], [5, 5]], [[2, 5], [5, 5]]]])
    mask = torch.tensor([[[[1.0, 0], [0, 0]]]])
    assert reconstruction_loss(prediction, target, mask).tolist() == [5.0]  # (1 + 4) / 1 cell


def test_identity_is_one_minus_the_mean_cosine_of_the_tokens():
    features = torch.tensor([[[1.0, 0], [3, 4]]])
    target = torch.tensor([[[2.0, 0], [4, -3]]])
    assert identity_loss(features, target).tolist() == pytest.approx([0.5])  # cosines 1 and 0


def test_latent_loss_is_half_the_mean_square():
    assert latent_loss(torch.full((1, 1, 1, 2), 3.0), torch.tensor([[[[1.0, 3.0]]]])).tolist() == [1.0]  # .5 * 4 / 2


def test_an_undecided_discriminator_costs_ln_two():
    undecided = torch.zeros(1, 2)
    assert generator_loss(undecided).tolist() == pytest.approx([0.693147], abs=1e-6)
    assert discriminator_loss(undecided, undecided).tolist() == pytest.approx([0.693147], abs=1e-6)


def test_a_fooled_discriminator_has_a_high_loss_and_the_student_a_low_one():
    says_real, says_fake = torch.tensor([[0.0, 20.0]]), torch.tensor([[20.0, 0.0]])
    assert generator_loss(says_real).item() < 1e-6 < 19 < generator_loss(says_fake).item()
    assert discriminator_loss(says_real, says_fake).item() < 1e-6
    assert discriminator_loss(says_fake, says_real).item() == pytest.approx(20.0, abs=1e-4)


def test_a_smoothed_label_asks_for_less_than_certainty():
    sure, undecided = torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)
    # ln(1 + e^-2) = .126928 and ln(1 + e^2) = 2.126928 for the real image, ln 2 for the generated one, halved
    expected = 0.5 * (0.9 * 0.126928 + 0.1 * 2.126928 + 0.693147)
    assert discriminator_loss(sure, undecided, real_label=0.9).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),  # the well-known Lab values of the sRGB primaries
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.5, 0.5, 0.5), (53.39, 0.0, 0.0)),
        # below both thresholds: 116 * (7.787 * 0.02 / 12.92 + 16 / 116) - 16 = 1.398
        ((0.02, 0.02, 0.02), (1.398, 0.0, 0.0)),
    ],
)
def test_lab_of_known_colors(rgb, lab):
    assert rgb_to_lab(torch.tensor(rgb).view(1, 3, 1, 1)).flatten().tolist() == pytest.approx(lab, abs=0.02)


def slow_ms_swd(x, y, *, levels, projections, patch, seed):
    """MS-SWD from the paper's description with plain loops, for [3, n, n] arrays in [0, 1]; returns one number."""
    generator = torch.Generator().manual_seed(seed)
    taps = np.array([1, 4, 6, 4, 1]) / 16

    def mirrored(image, margin):
        return np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")

    def halved(image):
        padded, n = mirrored(image, 2), image.shape[1]
        return np.array(
            [[[sum(taps[a] * taps[b] * padded[c, i + a, j + b] for a in range(5) for b in range(5))
               for j in range(0, n, 2)] for i in range(0, n, 2)] for c in range(3)]
        )  # fmt: skip

    total = 0.0
    for level in range(levels):
        if level:
            x, y = halved(x), halved(y)
        filters = torch.randn(projections, 3, patch, patch, generator=generator).double().numpy()
        labs = [rgb_to_lab(torch.from_numpy(image)[None].double())[0].numpy() for image in (x, y)]
        for f in filters:
            f = f / np.sqrt((f**2).sum())
            sorted_pair = []
            for lab in labs:
                padded, n = mirrored(lab, patch // 2), lab.shape[1]
                sorted_pair.append(
                    np.sort([(f * padded[:, i : i + patch, j : j + patch]).sum() for i in range(n) for j in range(n)])
                )
            total += np.abs(sorted_pair[0] - sorted_pair[1]).mean() / (levels * projections)
    return total


def test_ms_swd_equals_a_slow_version_written_with_loops():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, 12, 12))
    fast = ms_swd(
        torch.from_numpy(x)[None].float(), torch.from_numpy(y)[None].float(),
        swd_filters(2, 3, 5, generator=torch.Generator().manual_seed(4)),
    )  # fmt: skip
    slow = slow_ms_swd(x, y, levels=2, projections=3, patch=5, seed=4)
    assert fast.tolist() == pytest.approx([slow], rel=1e-4)  # float32 against float64


def test_ms_swd_ignores_positions_but_not_colors():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    filters = swd_filters(1, 16, 1, generator=torch.Generator().manual_seed(1))

    def distance(x, y):
        return ms_swd(x, y, filters).item()

    assert distance(image, image.flip(-1)) == pytest.approx(0, abs=1e-4)
    assert distance(image, image * 0.5) > 1
