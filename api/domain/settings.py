"""Where things are. What the method does is a preset of `opad_core`, never a setting."""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Preset = Literal["default", "paper"]
"""Of `opad_core.methods.opad.config`, which the api does not import."""
MOST_REFERENCES = 100
"""`MAX_REFERENCES` of `opad_core.training.references`."""


def default_home() -> Path:
    """`/var/lib/opad` for root, else the XDG data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/opad")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "opad"


class Settings(BaseSettings):
    """Read from the environment (`OPAD_...`) and `.env`; every field is listed in `.env.example`.

    The three addresses `database_url`, `redis_url` and `s3_endpoint` are None when the embedded servers are wanted;
    `opad up` fills them in for the processes it starts.
    """

    model_config = SettingsConfigDict(env_prefix="OPAD_", env_file=".env", extra="ignore")

    home: Path = Field(default_factory=default_home)
    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = None
    """Where clients reach the store, for the links they are given; None when that is `s3_endpoint`."""
    s3_access_key: str = "opad"
    s3_secret_key: SecretStr = SecretStr("")
    s3_bucket: str = "opad"
    s3_region: str = "us-east-1"

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    engine_urls: list[str] = []
    """Engines the api may ask, for instance `["http://engine:8100"]` or `["unix:/run/opad/engine.sock"]`;
    `["dns+http://engine:8100"]` means every address of that name."""
    base: str = "nano"
    """Name of a shipped base or the path of a base folder."""
    device: str = "auto"
    precision: Literal["float32", "half"] = "float32"
    """Of the frozen networks, in trainer and engine; what is learned is float32 either way."""

    trains: list[Preset] = []
    """Presets that a trainer here takes jobs of, for hosts whose GPU is too small for the others; none named is all."""
    lease_seconds: float = Field(default=60, gt=0)
    heartbeat_seconds: float = Field(default=10, gt=0)
    storage_retry_seconds: float = Field(default=900, ge=0)
    """How long a trainer waits for a store that is away before its attempt is given up."""
    reconcile_seconds: float = Field(default=15, gt=0)
    poll_seconds: float = Field(default=5, gt=0)
    checkpoint_seconds: float = Field(default=60, ge=0)
    max_attempts: int = Field(default=5, ge=1)

    consent: Literal["ask", "policy"] = "ask"
    """Whether each concept needs its sender's statement, or an agreement with the users stands for it."""

    denied_words: Path | None = None
    """A file with one word or phrase on each line; a prompt that has one is refused."""
    image_check: Literal["off", "flag", "refuse"] = "off"
    image_check_limit: float = Field(default=0.8, ge=0, le=1)
    image_scorer: str = "api.domain.image_scorer:open_nsfw"
    """`module:function`, which takes a picture's file and gives a score from 0 to 1."""
    keep_images_days: int = Field(default=0, ge=0)
    keep_references_days: int = Field(default=0, ge=0)
    keep_failed_uploads_days: int = Field(default=30, ge=0)
    keep_events_days: int = Field(default=90, ge=0)
    """What `api.domain.retention` removes after so many days; 0 is never."""

    min_references: int = 3
    max_references: int = 5
    """How many photos a concept is learned from, within 1-100."""
    max_upload_mb: int = Field(default=12, ge=1)
    body_seconds: float = Field(default=30, gt=0)
    """How long the next piece of a request's body may take to come."""
    requests_per_minute: int = Field(default=6000, ge=0)
    images_per_minute: int = Field(default=6000, ge=0)
    max_concepts: int = Field(default=1000, ge=0)
    training_minutes_per_day: int = Field(default=0, ge=0)
    """Limits of a key that has none of its own; 0 is no limit."""
    webhooks_to_private_addresses: bool = False
    """Also to any port and by plain HTTP: for an installation whose users may reach what it reaches."""
    generate_timeout_seconds: float = Field(default=10, gt=0)
    log_level: str = "INFO"

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        """A trainer lets go after three quarters of its lease; one late heartbeat must not cost the job."""
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"OPAD_LEASE_SECONDS={self.lease_seconds:g} is too short for OPAD_HEARTBEAT_SECONDS="
                f"{self.heartbeat_seconds:g}; make it at least twice as long"
            )
        return self

    @model_validator(mode="after")
    def _references_are_a_range(self) -> Self:
        if not 1 <= self.min_references <= self.max_references <= MOST_REFERENCES:
            raise ValueError(
                f"OPAD_MIN_REFERENCES={self.min_references} and OPAD_MAX_REFERENCES={self.max_references} are not a "
                f"range within 1-{MOST_REFERENCES}; make the first at least 1 and at most the second"
            )
        return self

    def reference_count(self, noun: str) -> str:
        """Return `3-5 photos` for `photo`, or `1 photo` where no other number is allowed."""
        least, most = self.min_references, self.max_references
        return f"{least if least == most else f'{least}-{most}'} {noun}{'s' * (most > 1)}"

    @property
    def upload_bytes(self) -> int:
        """Return the limit of a body with photos: room for two more than allowed, for the form around them."""
        return (self.max_references + 2) * self.max_upload_mb * 1024**2

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The database address in the form that SQLAlchemy's psycopg 3 dialect reads."""
        if self.database_url is None:
            raise ValueError("OPAD_DATABASE_URL is not set; start the embedded servers with `opad up` or set it")
        return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
