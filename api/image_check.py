"""Whether a picture is fit to be learned or shown: a score from 0 to 1 by a classifier, and what follows from it.

`OPAD_IMAGE_CHECK` says what follows: off, nothing is scored; flag, the score is kept and told; refuse, the request is
refused. Which classifier it is says `OPAD_IMAGE_SCORER` (`api.domain.image_scorer`).
"""

import base64
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.domain.errors import Invalid
from api.domain.image_scorer import Scorer, load_scorer
from api.domain.settings import Settings
from api.engine_client import Generated
from api.uploads import CleanImage, describe


class ImageCheck:
    def __init__(self, settings: Settings) -> None:
        """Raises ValueError when the classifier that is wanted cannot be loaded."""
        self._policy = settings.image_check
        self._limit = settings.image_check_limit
        self._scorer: Scorer | None = None if self._policy == "off" else load_scorer(settings.image_scorer)

    def flags(self, score: float | None) -> bool:
        return score is not None and score >= self._limit

    async def check_references(self, files: Sequence[UploadFile], images: Sequence[CleanImage]) -> list[float | None]:
        """A score for each, None where nothing is scored. Raises Invalid for photos that the policy refuses."""
        scores = await self._scores([image.png for image in images])
        refused = [index for index, score in enumerate(scores) if self._refuses(score)]
        if refused:
            names = ", ".join(describe(index, files[index].filename) for index in refused)
            raise Invalid(
                f"{names}: refused by the image check of this installation; send other pictures",
                "reference_refused",
                errors=[{"field": f"images[{index}]", "message": "is refused by the image check"} for index in refused],
            )
        return scores

    async def check_generated(self, generated: Generated) -> list[float | None]:
        """The same for pictures that were drawn: one that is refused is shown and kept by nobody."""
        scores = await self._scores([base64.b64decode(data) for data in generated.images] if self._scorer else [])
        refused = [seed for seed, score in zip(generated.seeds, scores, strict=False) if self._refuses(score)]
        if refused:
            seeds = ", ".join(map(str, refused))
            raise Invalid(
                f"the picture of seed {seeds} is withheld by the image check of this installation; "
                "use another seed or other words",
                "image_refused",
                seeds=refused,
            )
        return scores or [None] * len(generated.images)

    def _refuses(self, score: float | None) -> bool:
        return self._policy == "refuse" and self.flags(score)

    async def _scores(self, files: Sequence[bytes]) -> list[float | None]:
        scorer = self._scorer
        if scorer is None:
            return [None] * len(files)
        return [round(await run_in_threadpool(scorer, file), 4) for file in files]
