"""Response bodies of downloads, stored images and erasures."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from api.generate_schemas import GenerateIn
from api.schemas import Out

Layout = Literal["opad", "diffusers", "kohya", "textual_inversion", "teacher"]


class DownloadOut(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "concept_id": "0198c0de-7e57-7000-8000-000000000001",
                    "version": 1,
                    "layout": "kohya",
                    "filename": "my-mug-v1-kohya.safetensors",
                    "url": "https://s3.example.org/opad/exports/7d86….safetensors?X-Amz-Expires=900&…",
                    "expires_at": "2026-11-22T21:15:00Z",
                    "sha256": "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
                    "size": 1048576,
                    "trigger": "<concept> mug",
                    "relative_error": 0.031,
                }
            ]
        }
    )

    concept_id: UUID
    version: int
    layout: Layout
    filename: str
    url: str = Field(description="a link that works without a key until `expires_at`")
    expires_at: datetime
    sha256: str
    size: int = Field(description="bytes")
    trigger: str = Field(description="the words that stand for the concept in a prompt, also in other tools")
    relative_error: float | None = Field(
        description="share of the trained weights that the LoRA's rank loses, 0 to 1; null if nothing is approximated"
    )


class StoredImage(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0198c0de-7e57-7000-8000-000000000003",
                    "concept_id": "0198c0de-7e57-7000-8000-000000000001",
                    "concept_name": "my mug",
                    "version": 1,
                    "settings": {
                        "concept_id": "0198c0de-7e57-7000-8000-000000000001",
                        "concept": None,
                        "prompt": "a photo of <concept> on a beach",
                        "seed": 7,
                        "count": 1,
                        "untouched": False,
                        "format": "png",
                        "decoder": "full",
                        "store": False,
                    },
                    "url": "https://s3.example.org/opad/images/….png?X-Amz-Expires=900&…",
                    "expires_at": "2026-11-22T21:15:00Z",
                    "sha256": "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
                    "size": 9213,
                    "check_score": None,
                    "created_at": "2026-11-22T21:00:00Z",
                }
            ]
        }
    )

    id: UUID
    concept_id: UUID
    concept_name: str
    version: int | None = Field(description="version of the concept; null for the untouched base")
    settings: GenerateIn = Field(description="a body for `POST /v1/generate` that generates the image again")
    url: str = Field(description="a link that works without a key until `expires_at`")
    expires_at: datetime
    sha256: str
    size: int = Field(description="bytes")
    check_score: float | None = Field(description="score of the image check, 0 to 1; null if it is off")
    created_at: datetime


class ImagePage(Out):
    items: list[StoredImage]
    next: str | None = Field(description="pass it as `cursor` to get the next page; null on the last page")


class ErasureReceipt(Out):
    """The receipt of an erasure, which cannot be undone."""

    concept_id: UUID
    name: str
    erased_at: datetime
    references: list[str] = Field(description="SHA-256 of each photo, as it was stored")
    bundles: list[str] = Field(description="SHA-256 of each version")
    exports: list[str] = Field(description="SHA-256 of each version's file in another tool's layout")
    shared: list[str] = Field(description="SHA-256 of files that another concept uses too, which stay")
    images: list[UUID] = Field(description="ids of the stored images")
    jobs: list[UUID]
    checkpoints: int
    objects: int = Field(
        description="files deleted in the object store: photos, versions, exports, images, previews, …"
    )
    engines_cleared: int = Field(description="engines that deleted their copies in memory and on disk")
    engines_unreachable: int = Field(description="engines that may keep a copy in memory until they restart")
