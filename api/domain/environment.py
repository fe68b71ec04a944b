"""Read the settings of a program, and keep the variables of other software away from its connections."""

import io
import os
import re
import sys
from pathlib import Path
from typing import Any, Never

from pydantic import ValidationError

from api.domain.commands import runnable
from api.domain.settings import Settings

_FOREIGN = re.compile(r"PG[A-Z]+|(AWS|BOTO|CELERY|CELERYD|KOMBU|WEED)_\w+|WEB_CONCURRENCY")
"""Variables of the libraries beneath our connections: libpq, boto3, Celery, SeaweedFS and uvicorn."""
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SECRET = ("database_url", "redis_url", "s3_secret_key")
"""Settings whose value may contain a password, so no message shows it."""


def read_settings(*needed: str, **given: Any) -> Settings:
    """Return the settings. The entry points of our programs call this first.

    `given` comes from the command line and replaces settings; `needed` must not be None. An unusable setting ends the
    program with a sentence and status 2. Variables of other software are removed from the environment.
    """
    ignore_foreign_variables()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        end_with(*(_sentence(detail, given) for detail in error.errors(include_url=False)))
    except UnicodeDecodeError as error:
        end_with(f"the file .env is not UTF-8 text: {error.reason}; save it as UTF-8")
    except OSError as error:
        end_with(f"the file .env cannot be read: {error.strerror}; change its permissions, or remove it")
    except ValueError as error:  # of a default, which pydantic passes on as it is
        end_with(str(error))
    for name in needed:
        if getattr(settings, name) is None:
            end_with(f"OPAD_{name.upper()} is not set; start the embedded servers with `opad up` or set it")
    return settings


def ignore_foreign_variables() -> None:
    """Remove the variables that would change our connections beside our settings.

    libpq reads PGOPTIONS and PGSERVICE, and Celery prefers CELERY_BROKER_URL to the address that it is given. Variables
    that name certificates stay if they can be used: they say which authorities this machine trusts.
    """
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        del os.environ[name]
    for name in _CERTIFICATES:
        if name in os.environ and not Path(os.environ[name]).exists():
            del os.environ[name]


def accept_any_file_name() -> None:
    """Let standard output take names that are not UTF-8, which Linux allows and Python cannot encode."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def end_with(*sentences: str) -> Never:
    """End the program with these sentences on standard error and status 2, as argparse does for its options."""
    for sentence in sentences:
        print(f"opad: {runnable(sentence)}", file=sys.stderr)
    raise SystemExit(2)


def _sentence(detail: Any, given: dict[str, Any]) -> str:
    """Return what is wrong with a setting and what to do. `detail` is one of pydantic's errors."""
    reason = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:  # of several settings, which the message names
        return str(reason)
    name = str(detail["loc"][0])
    shown = f"--{name}" if name in given else f"OPAD_{name.upper()}"
    if detail["type"] == "value_error":
        return f"{shown} {reason}"
    value = "" if name in _SECRET else f" is {detail['input']!r}"
    return f"{shown}{value}: {reason[:1].lower()}{reason[1:]}; correct it in the environment or in .env"
