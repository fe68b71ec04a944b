import json
import subprocess
import sys

import pytest

from api.domain import keys
from api.domain.redaction import redacted

KEY = keys.mint().text
LINES = {
    f"got {KEY} from them": "got opk_live_[hidden] from them",
    "headers {'authorization': 'Bearer abcdefghijkl'}": "headers {'authorization': 'Bearer [hidden]'}",
    "signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw": "signed with whsec_[hidden]",
    "connect postgresql://opad:p4ss@db:5432/opad failed": "connect postgresql://opad:[hidden]@db:5432/opad failed",
    "GET http://s3/o?X-Amz-Credential=opad%2F2026&X-Amz-Signature=0af3&x=1": (
        "GET http://s3/o?X-Amz-Credential=[hidden]&X-Amz-Signature=[hidden]&x=1"
    ),
    "conninfo host=db password=hunter2 user=opad": "conninfo host=db password=[hidden] user=opad",
    "job 0198c0de-7e57-7000-8000-000000000002 at step 40": "job 0198c0de-7e57-7000-8000-000000000002 at step 40",
    "redis+socket:///run/opad/redis.sock?virtual_host=0": "redis+socket:///run/opad/redis.sock?virtual_host=0",
}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_secrets_are_hidden_and_the_rest_is_shown(line: str) -> None:
    assert redacted(line) == LINES[line]


def test_what_lies_deeper_and_what_is_private_by_its_name_is_hidden_too() -> None:
    assert redacted({"prompt": "my child", "sent": [KEY, 7], "deep": {"cookie": "opad=1"}}) == {
        "prompt": "[hidden]",
        "sent": ["opk_live_[hidden]", 7],
        "deep": {"cookie": "[hidden]"},
    }


SCRIPT = f"""
import logging, structlog
from api.domain.logs import configure_logs
configure_logs("INFO")
with structlog.contextvars.bound_contextvars(request_id="r1", job_id="j1"):
    structlog.get_logger().info("told", url="postgresql://opad:p4ss@db/opad")
    logging.getLogger("httpx").warning("sent %s", "Bearer {KEY}")
    try:
        raise ValueError("{KEY}")
    except ValueError:
        structlog.get_logger().exception("broke")
"""


def test_no_line_of_a_process_has_a_secret_and_each_has_its_ids() -> None:
    written = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stderr
    assert KEY not in written
    assert "p4ss" not in written
    lines = [json.loads(line) for line in written.splitlines()]
    assert [(line["request_id"], line["job_id"]) for line in lines] == [("r1", "j1")] * 3
