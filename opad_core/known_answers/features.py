"""Checks of the feature networks: do they find two views of one object more alike than two objects?"""

import torch
import torch.nn.functional as F

from opad_core.bases.loading import Base
from opad_core.known_answers.answer import Answer, answer, skipped
from opad_core.known_answers.photos import Photos, all_pixels
from opad_core.networks.feature_networks import Backbone

CHECKS = {
    "dino": "DINO tells objects apart",
    "dinov2": "DINOv2 tells objects apart",
    "identity": "identity tokens tell objects apart",
}
"""Names of the checks, by the attribute of the base."""
MARGIN = 0.05
"""Least difference of the mean cosines of centered features. Nano has 0.15 (DINO), 0.39 and 0.85."""


@torch.no_grad()
def same_object(base: Base, photos: list[Photos], network: str) -> Answer:
    """Compare the cosines of one network's features between photos of one object and of different objects."""
    check = CHECKS[network]
    if len(photos) < 2 or any(len(photo.images) < 2 for photo in photos):
        return skipped(check, "it needs photos of two objects, at least two of each; name a folder with --images")
    backbone: Backbone = getattr(base, network)
    pixels = all_pixels(base, photos)
    features = torch.cat([backbone(x, resize_mode="bicubic", normalize=True).flatten(1) for x in pixels.split(1)])
    features = F.normalize(features - features.mean(0), dim=-1)
    owner = torch.tensor([i for i, photo in enumerate(photos) for _ in photo.images], device=features.device)
    cosines, same = features @ features.T, owner[:, None] == owner
    others = ~torch.eye(len(owner), dtype=torch.bool, device=features.device)
    within, between = float(cosines[same & others].mean()), float(cosines[~same].mean())
    nearest = cosines.masked_fill(~others, -2).argmax(1)
    found = float((owner[nearest] == owner).float().mean())
    return answer(
        check,
        within > between + MARGIN,
        f"cosines are {within:.2f} within and {between:.2f} between objects; {found:.0%} of the photos have their "
        "nearest neighbor in their own object",
        wrong=f"cosines should differ by more than {MARGIN}. The weights or the preprocessing of this network are not "
        "the published ones, so its loss pulls in a wrong direction; fetch the base again",
    )
