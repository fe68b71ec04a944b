"""The settings of the service: addresses, limits and policies. The method's settings are presets of `opad_core`."""

import ipaddress
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from api.domain.provenance import Marks

Preset = Literal["default", "paper"]
"""The names of the presets in `opad_core.methods.opad.config`; the api does not import it."""
Method = Literal["opad", "custom_diffusion"]
"""The methods of `opad_core.methods.registry` whose concepts are key/value concepts, which the service exports and
generates in mixed batches."""
DecoderName = Literal["full", "fast"]
"""The decoders of a base in `opad_core.generation.generator`."""
MAX_REFERENCES = 100
"""The same number as `MAX_REFERENCES` of `opad_core.reference_images`."""


_REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")


def default_home() -> Path:
    """Return `/var/lib/opad` for root, else the XDG data folder. Raises ValueError for a user without a home folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/opad")
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "opad"
    except RuntimeError as error:  # HOME is not set, and this uid has no passwd entry
        raise ValueError("OPAD_HOME is not set and this user has no home folder; set it to a folder") from error


class Settings(BaseSettings):
    """Settings from the environment (`OPAD_...`) and `.env`. `.env.example` lists every field.

    With the embedded servers `database_url`, `redis_url` and `s3_endpoint` are None; `opad up` sets them for the
    processes it starts.
    """

    model_config = SettingsConfigDict(env_prefix="OPAD_", env_file=".env", extra="ignore")

    home: Path = Field(default_factory=default_home)
    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = None
    """The store's address in links for clients; None if it is `s3_endpoint`."""
    s3_access_key: str = "opad"
    s3_secret_key: SecretStr = SecretStr("")
    s3_bucket: str = "opad"
    s3_region: str = "us-east-1"
    s3_proxy: str | None = None
    """The HTTP proxy in front of the store; HTTPS_PROXY and its like are for addresses of others."""
    s3_ca_file: Path | None = None
    """The certificate authorities of the store, as PEM; None means certifi's."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str | None = None
    """The address of the proxy in front, for instance `https://example.org/opad`; None without one."""
    trusted_proxies: str | None = None
    """Addresses and networks whose X-Forwarded-Proto and X-Forwarded-For are believed; `*` is everyone. None is this
    machine if `public_url` names a proxy, else nobody: any program here could send these headers."""
    engine_urls: Annotated[list[str], NoDecode] = []
    """The engines, for instance `["http://engine:8100"]` or `["unix:/run/opad/engine.sock"]`.
    `["dns+http://engine:8100"]` means every address of that name."""
    base: str = "nano"
    """The name of a base or the path of its folder."""
    bases_dir: Path | None = None
    """The folder of fetched bases; None is `bases` in `home`."""
    device: str = "auto"
    precision: Literal["auto", "float32", "half"] = "auto"
    """The precision of the frozen networks in trainer and engine. Trained parameters are always float32.
    `precision_for` of `opad_core` says what `auto` means."""
    compile: bool = True
    """An engine compiles its networks in the background, and a trainer on CUDA before its first iteration."""

    decoder: DecoderName = "full"
    """The decoder of requests that name none. `fast` counts only where the base has a fast decoder."""

    trains: Annotated[list[Preset], NoDecode] = []
    """The presets that this host trains, for a GPU that is too small for the others. Empty means all."""
    lease_seconds: float = Field(default=60, gt=0)
    heartbeat_seconds: float = Field(default=10, gt=0)
    storage_retry_seconds: float = Field(default=900, ge=0)
    """How long a trainer retries a store that does not answer before its attempt fails."""
    reconcile_seconds: float = Field(default=15, gt=0)
    poll_seconds: float = Field(default=5, gt=0)
    check_base_after_seconds: float = Field(default=120, ge=0)
    """How long a trainer host has had no job before it checks the weights of the base, which it does once."""
    checkpoint_seconds: float = Field(default=60, ge=0)
    max_attempts: int = Field(default=5, ge=1)

    consent: Literal["ask", "policy"] = "ask"
    """`ask`: each new concept needs the uploader's statement. `policy`: an agreement with the users replaces it."""

    provenance: Marks | None = None
    """How images say that they were generated; None is what `default_marks` returns for the base's resolution."""
    c2pa_cert: Path | None = None
    """The certificates that sign images, as PEM; None is `c2pa/certificate.pem` in `home`."""
    c2pa_key: Path | None = None
    """The private key of the first certificate, as PEM; None is `c2pa/key.pem` in `home`. Only engines need it."""
    verify_without_key: bool = False
    """`POST /v1/verify` answers without an API key."""

    denied_words: Path | None = None
    """A file with one word or phrase per line. A prompt with one of them is refused."""
    image_check: Literal["off", "flag", "refuse"] = "off"
    image_check_limit: float = Field(default=0.8, ge=0, le=1)
    image_scorer: str = "api.domain.image_scorer:open_nsfw"
    """`module:function` that takes an image file and returns a score from 0 to 1."""
    keep_images_days: int = Field(default=0, ge=0)
    keep_references_days: int = Field(default=0, ge=0)
    keep_failed_uploads_days: int = Field(default=30, ge=0)
    keep_events_days: int = Field(default=90, ge=0)
    """Days after which `api.domain.retention` removes these; 0 is never."""

    min_references: int = 3
    max_references: int = 5
    """How many references a concept is trained on, within 1-100."""
    max_upload_mb: int = Field(default=12, ge=1)
    heic: bool = True
    """Reads HEIC photos, where `pillow-heif` is installed."""
    body_seconds: float = Field(default=30, gt=0)
    """How long the next piece of a request's body may take to arrive."""
    requests_per_minute: int = Field(default=6000, ge=0)
    images_per_minute: int = Field(default=6000, ge=0)
    max_concepts: int = Field(default=1000, ge=0)
    training_minutes_per_day: int = Field(default=0, ge=0)
    """Limits of a key without limits of its own; 0 is no limit."""
    webhooks_to_private_addresses: bool = False
    """Allows private addresses, any port and plain HTTP: for an installation whose users may reach its network."""
    generate_timeout_seconds: float = Field(default=10, gt=0)
    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = "INFO"

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and not value.strip() and info.field_name != "s3_secret_key":
            raise ValueError("is empty; give it a value, or remove it from the environment and from .env")
        return value

    @field_validator("engine_urls", "trains", mode="before")
    @classmethod
    def _parse_list(cls, value: Any) -> Any:
        if not isinstance(value, str) or not value.strip():
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f'is {value!r}, which is not a list in JSON; write for instance ["{value}"]') from error

    @field_validator("engine_urls")
    @classmethod
    def _are_engines(cls, value: list[str]) -> list[str]:
        for url in value:
            if not re.match(r"unix:/|(dns\+)?https?://[^/]", url):
                raise ValueError(f"names {url!r}; write http://host:8100, dns+http://name:8100 or unix:/path")
        return value

    @field_validator("home", "bases_dir", "denied_words", "s3_ca_file", "c2pa_cert", "c2pa_key", "base")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        """Replace a leading `~`, which no shell does in .env. `base` may be a path too."""
        if not str(value).startswith("~"):
            return value
        try:
            return type(value)(os.fspath(Path(value).expanduser()))
        except RuntimeError as error:
            raise ValueError(f"is {str(value)!r}, but there is no such home folder; write the whole path") from error

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        """Return the address as `postgresql://`, from which `postgres://` and SQLAlchemy's form differ only in name."""
        if value is None:
            return None
        address, known = re.subn(r"^postgres(ql)?(\+psycopg)?://", "postgresql://", value)
        try:
            make_url(address)
        except (ArgumentError, ValueError):
            known = 0
        if not known:
            raise ValueError("is no address of a database; write postgresql://user:password@host:5432/opad")
        return address

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(_REDIS_SCHEMES):
            raise ValueError(f"does not begin with {', '.join(_REDIS_SCHEMES)}; write redis://:password@host:6379/0")
        return value

    @field_validator("s3_endpoint", "s3_public_endpoint", "s3_proxy")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError(f"is {value!r}; write an address that begins with https:// or http://")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_public(cls, value: str | None) -> str | None:
        """Return the address without a slash at its end."""
        if value is None:
            return None
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~-]+)*/?", value):
            raise ValueError(f"is {value!r}; write an address such as https://example.org or https://example.org/opad")
        if own := re.search(r"//[^/]+/(v1|dashboard|docs|static)\b", value):
            raise ValueError(f"is {value!r}; leave out /{own[1]}, which is a path of the service itself")
        return value.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        for item in value.split(",") if value is not None and value != "*" else ():
            try:
                ipaddress.ip_network(item.strip())
            except ValueError as error:
                raise ValueError(
                    f"contains {item.strip()!r}; write addresses and networks, such as 10.0.0.5,10.1.0.0/16, or *"
                ) from error
        return value

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f"is {value!r}; use auto, cpu, cuda, or cuda:1 for the second GPU")
        return value

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        """A trainer stops after three quarters of its lease; one late heartbeat must not cost the job."""
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"OPAD_LEASE_SECONDS={self.lease_seconds:g} is too short for OPAD_HEARTBEAT_SECONDS="
                f"{self.heartbeat_seconds:g}; make it at least twice as long"
            )
        return self

    @model_validator(mode="after")
    def _references_are_a_range(self) -> Self:
        if not 1 <= self.min_references <= self.max_references <= MAX_REFERENCES:
            raise ValueError(
                f"OPAD_MIN_REFERENCES={self.min_references} and OPAD_MAX_REFERENCES={self.max_references} are not a "
                f"range within 1-{MAX_REFERENCES}; make the first at least 1 and at most the second"
            )
        return self

    def reference_count(self, noun: str) -> str:
        """Return `3-5 photos` for `photo`, or `1 photo` where no other number is allowed."""
        least, most = self.min_references, self.max_references
        return f"{least if least == most else f'{least}-{most}'} {noun}{'s' * (most > 1)}"

    @property
    def upload_bytes(self) -> int:
        """Return the size limit of an upload's body: two files more than allowed, as room for the form."""
        return (self.max_references + 2) * self.max_upload_mb * 1024**2

    @property
    def believed_proxies(self) -> str:
        """Return the addresses whose forwarded headers are believed, as uvicorn reads them."""
        return self.trusted_proxies or ("127.0.0.1,::1" if self.public_url else "")

    @property
    def bases(self) -> Path:
        """Return the folder where `python -m opad_core fetch` installs bases."""
        return self.bases_dir or self.home / "bases"

    @property
    def signing_certificates(self) -> Path:
        return self.c2pa_cert or self.home / "c2pa" / "certificate.pem"

    @property
    def signing_key(self) -> Path:
        return self.c2pa_key or self.home / "c2pa" / "key.pem"

    @cached_property
    def sqlalchemy_url(self) -> str:
        """Return the database URL for SQLAlchemy's psycopg 3 dialect."""
        if self.database_url is None:
            raise ValueError("OPAD_DATABASE_URL is not set; start the embedded servers with `opad up` or set it")
        return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
