"""Migrate the database, create the bucket, and create the first admin key, which is printed only once."""

import os

from api.domain.database import make_sessions
from api.domain.environment import end_with, read_settings
from api.domain.errors import Conflict
from api.domain.keys import ensure_first_admin_key
from api.domain.storage import Storage
from migrations.run import migrate


def main() -> None:
    settings = read_settings("database_url", "s3_endpoint")
    try:
        migrate(settings.sqlalchemy_url)
    except Conflict as error:
        end_with(str(error))
    Storage(settings).ensure_bucket()
    with make_sessions(settings).begin() as session:
        key = ensure_first_admin_key(session)
    if key is None:
        print("admin key    was printed at the first start; another, in the reconciler's container:")
        print("             python -m worker.cli key create --scopes admin")
        return
    print(f"admin key    {key}  (shown this once; copy it now)")
    if address := os.environ.get("OPAD_ADDRESS"):
        print(f"dashboard    {address}/dashboard  (sign in with the key)")
        print(f"api          {address}/docs")


if __name__ == "__main__":
    main()
