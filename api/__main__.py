"""`python -m api`: the REST service under uvicorn, at OPAD_HOST and OPAD_PORT."""

import logging

import structlog
import uvicorn

from api.app import create_app
from api.domain.settings import Settings


def main() -> None:
    settings = Settings()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=level,
        access_log=False,
        server_header=False,
        limit_concurrency=500,
        timeout_graceful_shutdown=15,
    )


if __name__ == "__main__":
    main()
