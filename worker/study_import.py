"""Import a user study from a folder that `python -m opad_core tables --study` wrote.

The folder may come from anyone. Nothing outside it is read. Each image is decoded in a process of its own
(`api.decode`) and stored without its metadata, which could name the method. If one part is unfit, nothing is stored.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID, uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from api.decoder import CannotStart, CleanImage, decoded
from api.domain import audit
from api.domain.database import Sessions
from api.domain.errors import Conflict, Invalid, NotFound, Unavailable
from api.domain.storage import Storage, study_image_key, study_prefix
from api.domain.tables import Owner, Study, StudyGroup, StudyImage
from api.domain.text_rules import name_as_read, noun_as_read, prompt_as_read

STUDY = "study.json"
MAX_STUDY_BYTES = 8 << 20
MAX_GROUPS = 1000
MAX_METHODS = 9
"""One key of the keyboard for each."""
MAX_REFERENCES = 100
MAX_IMAGES = 10_000
MAX_FILE_BYTES = 12 << 20
MAX_BYTES = 2 << 30
"""All images together."""

Name = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(name_as_read)]
File = Annotated[str, Field(min_length=1, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Method(_Part):
    name: Name
    label: Name


class _Concept(_Part):
    name: Name
    class_noun: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(noun_as_read)]
    references: list[File] = Field(min_length=1, max_length=MAX_REFERENCES)


class _Group(_Part):
    concept: Name
    prompt: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(prompt_as_read)]
    images: dict[Name, File]


class _Study(_Part):
    """The contents of `study.json`."""

    format: Literal[1]
    title: Name
    methods: list[_Method] = Field(min_length=2, max_length=MAX_METHODS)
    concepts: list[_Concept] = Field(min_length=1, max_length=MAX_GROUPS)
    groups: list[_Group] = Field(min_length=1, max_length=MAX_GROUPS)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        methods, concepts = {one.name for one in self.methods}, {one.name for one in self.concepts}
        if len(methods) < len(self.methods) or len(concepts) < len(self.concepts):
            raise ValueError("two methods or two concepts have one name")
        for number, group in enumerate(self.groups, start=1):
            if group.concept not in concepts:
                raise ValueError(f"group {number} names a concept that is not described")
            if group.images.keys() != methods:
                raise ValueError(f"group {number} needs exactly one image of each method")
        return self


@dataclass(frozen=True)
class Imported:
    id: UUID
    title: str
    groups: int
    images: int


def import_study(
    folder: Path, *, owner_name: str, sessions: Sessions, storage: Storage, say: Callable[[str], None]
) -> Imported:
    """Store a study and its images, and return what was stored.

    Raises Invalid for a folder that cannot be used, Conflict if the owner has imported the same files before, NotFound
    for an unknown owner, and StorageUnavailable.
    """
    home = folder.resolve()
    study = _read_study(home)
    names = list(dict.fromkeys(_files_of(study)))
    if len(names) > MAX_IMAGES:
        raise Invalid(f"{STUDY} names {len(names)} images, at most {MAX_IMAGES}; nothing was imported", "too_many")
    files = [_inside(home, name) for name in names]
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise Invalid(f"the images are larger than {MAX_BYTES >> 30} GiB together; nothing was imported", "too_large")
    source_sha256 = _hash_of([_inside(home, STUDY), *files])
    with sessions() as db:
        owner_id = db.scalar(select(Owner.id).where(Owner.name == owner_name))
        if owner_id is None:
            raise NotFound(f"there is no owner {owner_name!r}; `opad key create --owner NAME` makes one", "no_owner")
        known = select(Study).where(Study.owner_id == owner_id, Study.source_sha256 == source_sha256)
        if (before := db.scalar(known)) is not None:
            raise _imported_before(before.title)
    say(f"checking {len(files)} images")
    with tempfile.TemporaryDirectory(prefix="opad-study-") as spool:
        hashes = dict(zip(names, asyncio.run(_clean(names, files, Path(spool))), strict=True))
        rows = _rows(study, owner_id, source_sha256, hashes)
        for image in rows.images:
            storage.put_once(image.key, (Path(spool) / image.sha256).read_bytes(), image.sha256)
    try:
        with sessions.begin() as db:
            db.add(rows.study)
            db.flush()
            db.add_all(rows.groups)
            db.flush()
            db.add_all(rows.images)
            db.flush()
            study_id = rows.study.id
            audit.record(db, action="study.import", object_id=study_id, outcome="created", owner_id=owner_id)
    except IntegrityError as error:  # another import of the same folder was faster
        storage.delete_prefix(study_prefix(rows.study.id))
        raise _imported_before(study.title) from error
    return Imported(study_id, study.title, len(rows.groups), len(rows.images))


def _imported_before(title: str) -> Conflict:
    return Conflict(
        f"these files were imported before as the study {title!r}; delete that one to start again without its votes",
        "imported_before",
    )


def _read_study(home: Path) -> _Study:
    file = _inside(home, STUDY, most=MAX_STUDY_BYTES)
    try:
        return _Study.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = shown(".".join(map(str, first["loc"])))
        said = "is not 1, the format that this version reads" if place == "format" else f"{first['msg']}"
        raise Invalid(f"{STUDY}: {place or 'it'}: {said}; nothing was imported", "no_study") from error


def _files_of(study: _Study) -> list[str]:
    references = [name for concept in study.concepts for name in concept.references]
    return references + [name for group in study.groups for name in group.images.values()]


def _inside(home: Path, name: str, *, most: int = MAX_FILE_BYTES) -> Path:
    """Return the path of a regular file inside the folder. Raises Invalid, also for a link that leads outside."""
    try:
        file = (home / name).resolve()
        is_file = file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, with a null, or a loop of links
        is_file = False
    if not is_file:
        raise Invalid(f"there is no file {shown(name)} in {shown(home)}; nothing was imported", "no_file")
    if not file.is_relative_to(home):
        raise Invalid(f"{shown(name)} is outside of {shown(home)}; nothing was imported", "outside")
    if file.stat().st_size > most:
        raise Invalid(f"{shown(name)} is larger than {most >> 20} MB; nothing was imported", "too_large")
    return file


def shown(name: Path | str) -> str:
    """Return a name for a message, without characters that change a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(name))


def _hash_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


async def _clean(names: list[str], files: list[Path], spool: Path) -> list[str]:
    """Decode the images and write them to `spool` under their hashes. Raises Invalid for the first unfit one."""
    slots = asyncio.Semaphore(os.cpu_count() or 1)

    async def clean(name: str, file: Path) -> str:
        async with slots:
            try:
                with file.open("rb") as stream:
                    image = await decoded(stream, heic=False)
            except CannotStart as error:
                raise Unavailable("images cannot be decoded here; `opad doctor` says why", "decoder") from error
        if not isinstance(image, CleanImage):
            raise Invalid(f"{shown(name)} {image}; nothing was imported", "bad_image")
        (spool / image.sha256).write_bytes(image.png)
        return image.sha256

    return await asyncio.gather(*map(clean, names, files))


@dataclass(frozen=True)
class _Rows:
    study: Study
    groups: list[StudyGroup]
    images: list[StudyImage]


def _rows(study: _Study, owner_id: UUID, source_sha256: str, hashes: dict[str, str]) -> _Rows:
    study_id = uuid7()

    def image(concept: str, position: int, file: str, group_id: UUID | None, method: str | None) -> StudyImage:
        image_id = uuid4()
        return StudyImage(
            id=image_id, study_id=study_id, concept=concept, position=position, group_id=group_id, method=method,
            key=study_image_key(study_id, image_id), sha256=hashes[file],
        )  # fmt: skip

    nouns = {concept.name: concept.class_noun for concept in study.concepts}
    images = [
        image(concept.name, position, file, None, None)
        for concept in study.concepts
        for position, file in enumerate(concept.references, start=1)
    ]
    groups = []
    for number, described in enumerate(study.groups, start=1):
        group = StudyGroup(
            id=uuid4(), study_id=study_id, position=number, concept=described.concept,
            class_noun=nouns[described.concept], prompt=described.prompt,
        )  # fmt: skip
        groups.append(group)
        images += [
            image(described.concept, position, described.images[method.name], group.id, method.name)
            for position, method in enumerate(study.methods, start=1)
        ]
    methods = [method.model_dump() for method in study.methods]
    row = Study(id=study_id, owner_id=owner_id, title=study.title, methods=methods, source_sha256=source_sha256)
    return _Rows(row, groups, images)
