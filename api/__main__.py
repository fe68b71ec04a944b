"""`python -m api`: the REST service under uvicorn, at OPAD_HOST and OPAD_PORT."""

import contextlib
import gc
import sys

import uvicorn

from api.app import create_app
from api.domain.logs import configure_logs
from api.domain.settings import Settings


def make_server(settings: Settings) -> uvicorn.Server:
    """Streams of events end when it is asked to stop; other requests have 15 s to be answered."""
    app = create_app(settings, is_stopping=lambda: server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=500,
            timeout_graceful_shutdown=15,
        )
    )
    return server


def main() -> int:
    settings = Settings()
    configure_logs(settings.log_level)
    server = make_server(settings)
    gc.freeze()  # a full collection looked through all that was imported: 0.1 s, in the middle of somebody's request
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
        server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
