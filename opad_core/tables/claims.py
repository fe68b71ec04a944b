"""The paper's claims about directions, and what the runs say of each."""

from dataclasses import dataclass

from opad_core.tables.intervals import Interval
from opad_core.tables.rows import GENTLE, RIVALS


@dataclass(frozen=True)
class Claim:
    """The first row scores higher than the second."""

    sentence: str
    source: str
    """A table of the paper's supplement."""
    better: str
    worse: str
    score: str = "identity"
    better_result: str = "1"
    worse_result: str = "1"
    """A number of steps, or the name of a stage."""


def verdict(found: Interval | None) -> str:
    """Return "reproduced" or "not reproduced" if the interval of the difference excludes 0, else "undecided".

    One concept, or one seed for each concept, decides nothing.
    """
    if found is None or found.concepts < 2 or found.runs < 2 * found.concepts or found.low <= 0 <= found.high:
        return "undecided"
    return "reproduced" if found.low > 0 else "not reproduced"


_PARTS = {
    "no-discriminators": "The discriminators raise",
    "no-teacher": "The teacher raises",
    "no-dino": "The DINO discriminator raises",
    "no-dinov2": "The DINOv2 discriminator raises",
    "no-clip": "The CLIP discriminator raises",
    "no-id": "L_id raises",
    "no-mse": "L_mse raises",
    "no-swd": "MS-SWD raises",
}


_WORSE_TEXT_FIT = ("custom_diffusion", "dreambooth", "lora", "textboost")
"""The methods whose CLIP-T in one step is below OPAD's in table 5."""


def _all_claims() -> list[Claim]:
    claims = []
    for name, label in RIVALS.items():
        sentences = {"identity": f"OPAD has a higher identity than {label}"}
        if name in _WORSE_TEXT_FIT:
            sentences["text_fit"] = f"OPAD fits the text better than {label}"
        for score, sentence in sentences.items():
            claims.append(Claim(sentence, "table 5", "opad", name, score))
            told = f"{sentence} with the same information"
            claims.append(Claim(told, "table 5", "opad", f"{name}-informed", score))
            if name in GENTLE:
                claims.append(Claim(f"{told}, gentle", "table 5", "opad", f"{name}-gentle", score))
            claims.append(Claim(f"{told}, both at their best rates", "table 5", "opad-best", f"{name}-informed", score))
    claims.append(
        Claim(
            "OPAD has a higher identity than Custom Diffusion with the same information and seconds",
            "table 5", "opad", "custom_diffusion-seconds",
        )
    )  # fmt: skip
    informed = "custom_diffusion-informed"
    in_one_step = "OPAD in one step has a higher identity than Custom Diffusion on the teacher in 25"
    raises = "The collaborative stage raises the {}'s identity"
    claims += [
        Claim(in_one_step, "table 5", "opad", "teacher-first", worse_result="teacher-alone"),
        Claim("Custom Diffusion fits the text better in 25 steps", "table 5", informed, informed, "text_fit", "25"),
        Claim("It learns more from all times than from the last", "table 5", informed, "custom_diffusion-times-1"),
        Claim(raises.format("student"), "table 3", "opad", "opad", worse_result="before"),
        Claim(raises.format("teacher"), "table 3", "opad", "opad", "identity", "teacher", "teacher-before"),
    ]
    claims += [Claim(f"{text} identity", "table 9", "opad", name) for name, text in _PARTS.items()]
    return [
        *claims,
        Claim("Learning together beats teacher first in identity", "table 6", "opad", "teacher-first"),
        Claim("Teacher first fits the text better", "table 6", "teacher-first", "opad", "text_fit"),
        Claim("The shared text encoder raises identity", "table 6", "opad", "no-shared-text-encoder"),
        Claim("Several photos beat one in identity", "table 8", "opad", "one-shot"),
    ]


CLAIMS = _all_claims()
