"""Checks of the noise schedules and prediction types, from the scheduler's files alone."""

import torch

from opad_core.bases.loading import Base
from opad_core.known_answers.answer import Answer, answer
from opad_core.known_answers.expected import BETAS, Expected

NEAR = 1e-5
"""Relative difference of two tables of cumulative alphas that rounding explains: a product of 1,000 float32 factors."""


def noise_schedule(base: Base) -> Answer:
    """Compare the noise schedules of teacher and student with Stable Diffusion's."""
    first, last, steps = BETAS
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    expected = (1 - betas).cumprod(0)
    largest = 0.0
    for role in ("teacher", "student"):
        abar, _ = base.schedule(role)
        same_length = abar.shape == expected.shape
        largest = max(largest, float((abar.double() / expected - 1).abs().max()) if same_length else float("inf"))
    return answer(
        "noise schedule",
        largest < NEAR,
        f"teacher and student differ from Stable Diffusion's schedule by at most {largest:.1g} of a noise level",
        wrong="noise would be removed in other amounts than the UNets learned, and images come out gray or grainy; "
        "the scheduler files are not the published ones, fetch the base again",
    )


def prediction_types(base: Base, expected: Expected) -> Answer:
    """Compare what the UNets predict, as their scheduler files say, with what is published."""
    found = tuple(base.schedule(role)[1] for role in ("teacher", "student"))
    return answer(
        "prediction types",
        found == expected.prediction_types,
        f"the teacher predicts {found[0]}, the student {found[1]}",
        wrong=f"published are {' and '.join(expected.prediction_types)}. A UNet that is read with the other type "
        "generates noise; the scheduler files are not the published ones, fetch the base again",
    )
