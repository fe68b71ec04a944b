from tests.job_life import (  # noqa: F401
    base_folder,
    make_job,
    queue_training,
    quick,
    rings,
    sessions,
    start_process,
)
