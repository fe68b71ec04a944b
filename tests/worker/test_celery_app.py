import subprocess
import sys

import pytest

from worker.celery_app import create_app


def test_the_celery_worker_loads_no_torch():
    """Its child is forked, so it cannot use CUDA, and the memory would be occupied while nothing trains."""
    script = (
        "import sys, worker.celery_app, worker.host, worker.reconcile; print({'torch', 'opad_core'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"


def test_a_message_is_acknowledged_before_the_work_and_no_result_is_stored(settings):
    conf = create_app(settings).conf
    assert (conf.task_acks_late, conf.worker_disable_prefetch, conf.result_backend) == (False, True, None)
    assert conf.task_ignore_result


def test_a_missing_broker_address_is_named(settings):
    with pytest.raises(ValueError, match="OPAD_REDIS_URL is not set"):
        create_app(settings.model_copy(update={"redis_url": None}))
