from tests.job_life import (  # noqa: F401  pytest finds fixtures by their names here
    base_folder,
    make_job,
    notifications,
    queue_training,
    quick,
    sessions,
    start_process,
)
