import json
import subprocess
import sys

SCRIPT = """
import logging, structlog
from api.domain.logs import configure_logs
configure_logs("INFO")
structlog.get_logger().info("job.claimed", job_id="j1", attempt=2)
structlog.get_logger().debug("job.whispered")
logging.getLogger("celery").warning("lost %s", "broker")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("trainer.broke")
"""


def test_each_change_is_one_json_line_whoever_logs_it():
    written = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in written.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("job.claimed", "info"),
        ("lost broker", "warning"),
        ("trainer.broke", "error"),
    ]
    assert (lines[0]["job_id"], lines[0]["attempt"]) == ("j1", 2)
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert written.stdout == ""


def test_a_disk_too_full_for_a_line_ends_no_program():
    going_on = SCRIPT + 'print("went on")'
    with open("/dev/full", "w") as full:
        written = subprocess.run([sys.executable, "-c", going_on], stdout=subprocess.PIPE, stderr=full, text=True)
    assert written.stdout == "went on\n"
