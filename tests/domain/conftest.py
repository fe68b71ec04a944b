from tests.job_life import base_folder, make_job, queue_training, quick, sessions, start_process  # noqa: F401
