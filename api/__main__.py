"""Run the REST service with uvicorn at OPAD_HOST and OPAD_PORT: `python -m api`."""

import contextlib
import gc
import sys

import uvicorn

from api.app import create_app
from api.domain.denied_words import DeniedWords
from api.domain.environment import end_with, read_settings
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from api.image_check import ImageCheck


def make_server(settings: Settings) -> uvicorn.Server:
    """Make the server. When it is asked to stop, event streams end; other requests have 15 s to finish."""
    app = create_app(settings, is_stopping=lambda: server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=settings.believed_proxies,
            timeout_graceful_shutdown=15,
        )
    )
    return server


def main() -> int:
    settings = read_settings("database_url", "redis_url", "s3_endpoint")
    try:
        DeniedWords.read(settings.denied_words)
    except OSError as error:
        end_with(f"OPAD_DENIED_WORDS names {settings.denied_words}, which cannot be read: {error.strerror}")
    try:
        ImageCheck(settings)
    except ValueError as error:
        end_with(str(error))
    configure_logs(settings.log_level)
    server = make_server(settings)
    gc.freeze()  # a full collection scanned every imported object: 0.1 s in the middle of a request
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped
        server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
