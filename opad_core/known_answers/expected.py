"""What is known of each base that has a name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """Facts that are written in a base's published files, and that the code or its settings rely on."""

    vocabulary: str
    """Key in `token_ids.json`."""
    pad_id: int
    """Token that fills short prompts. SD 2.x learned with "!", not with CLIP's end token as nano did."""
    prediction_types: tuple[str, str]
    """What the teacher and the student predict."""


EXPECTED = {
    "nano": Expected(vocabulary="nano", pad_id=1083, prediction_types=("v_prediction", "v_prediction")),
    "sd-turbo": Expected(vocabulary="clip", pad_id=0, prediction_types=("v_prediction", "epsilon")),
    "sd-turbo-2.1-base": Expected(vocabulary="clip", pad_id=0, prediction_types=("epsilon", "epsilon")),
    "nitro-1-sd": Expected(vocabulary="clip", pad_id=0, prediction_types=("epsilon", "epsilon")),
}
"""By the name in the manifest. SD 2.1 predicts v, SD 2.1-base and SD-Turbo the noise (their scheduler_config.json)."""

BETAS = (0.00085, 0.012, 1000)
"""First and last beta and the number of steps of Stable Diffusion's "scaled linear" schedule."""
