import os
import subprocess
import sys

import pytest

ASK = """
import torch
from worker.inference.__main__ import leave_a_core
before = torch.get_num_threads()
leave_a_core()
print(before, torch.get_num_threads())
"""


def threads(**environment):
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    answer = subprocess.run([sys.executable, "-c", ASK], env=kept | environment, check=True, capture_output=True)
    return tuple(map(int, answer.stdout.split()))


def test_the_model_leaves_a_core_to_others():
    before, after = threads()
    assert after == max(1, before - 1)


@pytest.mark.parametrize("count", ["1", "2"])
def test_omp_num_threads_is_respected(count):
    assert threads(OMP_NUM_THREADS=count) == (int(count), int(count))
