"""Mark images as generated, in the way that the settings choose or that is possible."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from api.domain.provenance import Marks, Provenance, default_marks
from api.domain.settings import Settings
from worker.inference.encoding import MEDIA_TYPES, Format, encode
from worker.inference.signing import ImageSigner


@dataclass(frozen=True)
class Marking:
    marks: Marks
    signer: ImageSigner | None = None
    """None unless images are signed."""
    reason: str | None = None
    """Why images are not signed although the settings say so, in one sentence."""

    @classmethod
    def of(cls, settings: Settings, *, resolution: int) -> Self:
        """Return the marking of an engine with these settings. Without its key it marks with XMP alone."""
        wanted = settings.provenance or default_marks(resolution)
        if wanted != "signed":
            return cls(wanted)
        try:
            return cls("signed", ImageSigner(settings.signing_certificates, settings.signing_key))
        except ValueError as error:
            return cls("xmp", reason=str(error))

    def file(self, pixels: np.ndarray, image_format: Format, provenance: Provenance) -> bytes:
        """Encode `pixels`, [r, r, 3] uint8, and return the marked file."""
        encoded = encode(pixels, image_format, None if self.marks == "off" else provenance)
        return self.signer.sign(encoded, MEDIA_TYPES[image_format], provenance) if self.signer else encoded

    def facts(self) -> dict[str, Any]:
        """Return the facts of the heartbeat about marks."""
        return {"marks": self.marks, "marks_reason": self.reason}
