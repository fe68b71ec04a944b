"""What the service gives back beside states: downloads."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from api.schemas import Out

Layout = Literal["opad", "diffusers", "kohya", "textual_inversion"]


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
    url: str = Field(description="hands out the file to anyone who has it, until `expires_at`; needs no key")
    expires_at: datetime
    sha256: str
    size: int = Field(description="bytes")
    trigger: str = Field(description="what stands for the thing in a prompt, in other tools too")
    relative_error: float | None = Field(
        description="what the rank of a LoRA lost of what was learned, 0 to 1; null where nothing is approximated"
    )
