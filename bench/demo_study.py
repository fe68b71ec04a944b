"""Seed a user study with votes, to test the dashboard's pages. The images are altered photos of `examples/`."""

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from api.domain.storage import Storage, study_image_key
from api.domain.tables import Study, StudyGroup, StudyImage, StudyVote

PROMPTS = ("{} on the beach", "{} in the snow", "{} at night")
ALTERED: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "opad": ("OPAD", ImageOps.mirror),
    "custom_diffusion": ("Custom Diffusion", lambda image: image.filter(ImageFilter.GaussianBlur(0.7))),
    "lora": ("LoRA", lambda image: ImageEnhance.Color(image).enhance(0.4)),
    "textual_inversion": ("Textual Inversion", lambda image: image.filter(ImageFilter.GaussianBlur(2))),
}
_LIKED = (8, 4, 3, 1)
"""How often each method is chosen, in their order."""


def seed_demo_study(db: Session, storage: Storage, owner_id: UUID, folders: Sequence[Path]) -> UUID:
    """Add a study of the concepts in `folders`, on which three people have voted. Return its id."""
    random_numbers = random.Random(0)
    methods = [{"name": name, "label": label} for name, (label, _) in ALTERED.items()]
    study = Study(id=uuid7(), owner_id=owner_id, title="Objects and scenes", methods=methods, source_sha256="0" * 64)
    db.add(study)
    db.flush()
    for folder in folders:
        noun = (folder / "class.txt").read_text().strip()
        photos = [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))]
        for position, photo in enumerate(photos, start=1):
            db.add(_image(storage, study.id, folder.name, position, photo))
        for number, prompt in enumerate(PROMPTS):
            group = StudyGroup(
                id=uuid4(), study_id=study.id, position=1 + number + len(PROMPTS) * folders.index(folder),
                concept=folder.name, class_noun=noun, prompt=prompt.format(f"a {noun}"),
            )  # fmt: skip
            db.add(group)
            db.flush()
            images = []
            for position, (method, (_, alter)) in enumerate(ALTERED.items(), start=1):
                image = _image(storage, study.id, folder.name, position, alter(photos[number]))
                image.group_id, image.method = group.id, method
                images.append(image)
            db.add_all(images)
            db.flush()
            for voter in ("Ana", "Ben", "Chloe"):
                (chosen,) = random_numbers.choices(images, _LIKED)
                db.add(StudyVote(group_id=group.id, image_id=chosen.id, voter=voter))
    db.flush()
    return study.id


def _image(storage: Storage, study_id: UUID, concept: str, position: int, image: Image.Image) -> StudyImage:
    file = io.BytesIO()
    image.save(file, "PNG")
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    image_id = uuid4()
    key = study_image_key(study_id, image_id)
    storage.put_once(key, file.getvalue(), sha256)
    return StudyImage(id=image_id, study_id=study_id, concept=concept, position=position, key=key, sha256=sha256)
