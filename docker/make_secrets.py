"""Generate the passwords of the compose stack once, in a volume that only its containers mount, and its signing key.

Only the user of our images can read `secrets.env`. PostgreSQL's user reads its password as a member of our group. The
key with which engines sign images is in a volume of its own, which only engines mount.
"""

import os
import secrets
from pathlib import Path

from api.domain.credentials import make_credentials

FOLDER = Path("/run/opad")
SIGNING_FOLDER = Path("/run/opad-signing")


def main() -> None:
    make_credentials(FOLDER / "c2pa-certificate.pem", SIGNING_FOLDER / "c2pa-key.pem")
    environment = FOLDER / "secrets.env"
    if environment.exists():
        return
    database, broker, store = (secrets.token_urlsafe(24) for _ in range(3))
    _write(FOLDER / "postgres-password", database, mode=0o640)
    _write(FOLDER / "redis.conf", f"requirepass {broker}\n", mode=0o600)
    _write(
        environment,
        f"OPAD_DATABASE_URL=postgresql://opad:{database}@postgres:5432/opad\n"
        f"OPAD_REDIS_URL=redis://:{broker}@redis:6379/0\n"
        f"OPAD_S3_SECRET_KEY={store}\n"
        f"AWS_SECRET_ACCESS_KEY={store}\n",
        mode=0o600,
    )


def _write(path: Path, text: str, *, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    new.replace(path)


if __name__ == "__main__":
    main()
