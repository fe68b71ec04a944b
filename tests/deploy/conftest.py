from tests.job_life import make_job, sessions  # noqa: F401  pytest finds fixtures by their names here
