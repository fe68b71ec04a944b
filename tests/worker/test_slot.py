import signal
import subprocess
import sys

import psutil

from tests.job_life import wait_until
from worker.slot import stop_trainer, take_slot, trainer_pid

HOLD = """
import sys
from pathlib import Path
from worker.slot import take_slot
with take_slot(Path(sys.argv[1])) as slot:
    print("taken" if slot else "busy", flush=True)
    sys.stdin.read()
"""


def test_only_one_process_holds_the_slot_and_the_next_can_take_it(tmp_path):
    with take_slot(tmp_path) as first:
        assert first is not None
        with take_slot(tmp_path) as second:
            assert second is None
    with take_slot(tmp_path) as third:
        assert third is not None
        assert third.host == first.host, "a host keeps its name"


def test_two_hosts_have_different_names(tmp_path):
    with take_slot(tmp_path / "a") as a, take_slot(tmp_path / "b") as b:
        assert a.host != b.host


def test_a_killed_holder_leaves_the_slot_free(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"taken\n"
    with take_slot(tmp_path) as slot:
        assert slot is None
    holder.kill()
    holder.wait()
    with take_slot(tmp_path) as slot:
        assert slot is not None


def test_the_slot_is_held_until_the_trainer_that_inherited_it_has_ended(tmp_path):
    script = HOLD.replace(
        "    print(",
        "    import subprocess\n"
        "    trainer = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=[slot.fd])\n"
        "    slot.record_trainer(trainer.pid)\n"
        "    print(",
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"taken\n"
    trainer = psutil.Process(trainer_pid(tmp_path))
    assert trainer.ppid() == holder.pid
    holder.kill()
    holder.wait()
    assert trainer_pid(tmp_path) == trainer.pid
    trainer.kill()
    wait_until(lambda: trainer_pid(tmp_path) is None, seconds=10, what="the slot's release")


def test_a_trainer_is_asked_to_stop_also_if_it_has_just_ended(tmp_path):
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with take_slot(tmp_path) as slot:
        slot.record_trainer(trainer.pid)
        stop_trainer(tmp_path)
        assert trainer.wait(timeout=10) == -signal.SIGTERM
        stop_trainer(tmp_path)  # the slot still has its id
