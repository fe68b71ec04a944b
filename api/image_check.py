"""Score uploaded and generated images with a classifier, from 0 to 1, and flag or refuse the unfit ones.

`OPAD_IMAGE_CHECK` is the policy: `off` scores nothing, `flag` stores and returns the score, `refuse` refuses the
request. `OPAD_IMAGE_SCORER` names the classifier (`api.domain.image_scorer`).
"""

from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.decoder import CleanImage
from api.domain.engine_answer import Generated
from api.domain.errors import Invalid
from api.domain.image_scorer import Scorer, load_scorer
from api.domain.settings import Settings
from api.uploads import describe


class ImageCheck:
    def __init__(self, settings: Settings) -> None:
        """Load the classifier. Raises ValueError if it cannot be loaded."""
        self._policy = settings.image_check
        self._limit = settings.image_check_limit
        self._scorer: Scorer | None = None if self._policy == "off" else load_scorer(settings.image_scorer)

    def flags(self, score: float | None) -> bool:
        return score is not None and score >= self._limit

    async def check_references(self, files: Sequence[UploadFile], images: Sequence[CleanImage]) -> list[float | None]:
        """Return the score of each reference, or None if the check is off. Raises Invalid for refused references."""
        scores = await self._scores([image.png for image in images])
        refused = [index for index, score in enumerate(scores) if self._refuses(score)]
        if refused:
            names = ", ".join(describe(index, files[index].filename) for index in refused)
            raise Invalid(
                f"{names}: refused by the image check of this installation; send other photos",
                "reference_refused",
                errors=[{"field": f"images[{index}]", "message": "is refused by the image check"} for index in refused],
            )
        return scores

    async def check_generated(self, generated: Generated) -> list[float | None]:
        """Score generated images in the same way. If one is refused, none is returned or stored."""
        scores = await self._scores(generated.images)
        refused = [seed for seed, score in zip(generated.seeds, scores, strict=True) if self._refuses(score)]
        if refused:
            seeds = ", ".join(map(str, refused))
            raise Invalid(
                f"the image of seed {seeds} is refused by the image check of this installation; "
                "use another seed or other words",
                "image_refused",
                seeds=refused,
            )
        return scores

    def _refuses(self, score: float | None) -> bool:
        return self._policy == "refuse" and self.flags(score)

    async def _scores(self, files: Sequence[bytes]) -> list[float | None]:
        scorer = self._scorer
        if scorer is None:
            return [None] * len(files)
        return [round(await run_in_threadpool(scorer, file), 4) for file in files]
