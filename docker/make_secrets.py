"""One-shot: make the stack's passwords the first time, in a volume that nobody outside the stack sees."""

import os
import secrets
from pathlib import Path

FOLDER = Path("/run/opad")
OPAD_UID = 10001
"""The user of the api, trainer, engine and s3 images."""


def main() -> None:
    environment = FOLDER / "secrets.env"
    if environment.exists():
        return
    os.umask(0o077)
    database, store = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    password = FOLDER / "postgres-password"
    password.write_text(database)  # read by PostgreSQL's entry point while it is still root
    new = FOLDER / "secrets.env.new"
    new.write_text(
        f"OPAD_DATABASE_URL=postgresql://opad:{database}@postgres:5432/opad\n"
        f"OPAD_S3_SECRET_KEY={store}\n"
        f"AWS_SECRET_ACCESS_KEY={store}\n"
    )
    for path in (FOLDER, new):
        os.chown(path, OPAD_UID, OPAD_UID)
    FOLDER.chmod(0o755)
    new.replace(environment)


if __name__ == "__main__":
    main()
