from tests.job_life import (  # noqa: F401  pytest finds fixtures by their names here
    base_folder,
    make_job,
    queue_training,
    quick,
    rings,
    sessions,
    start_process,
)
