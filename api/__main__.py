"""`python -m api`: the REST service under uvicorn, at OPAD_HOST and OPAD_PORT."""

import uvicorn

from api.app import create_app
from api.domain.logs import configure_logs
from api.domain.settings import Settings


def main() -> None:
    settings = Settings()
    configure_logs(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=500,
        timeout_graceful_shutdown=15,
    )


if __name__ == "__main__":
    main()
