"""What the converting process makes of a pickle. The process itself is in `test_convert`."""

import io
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch

from opad_core.bases.fetch.unpickle import Outcome, outcome

MOST = 1 << 16
STORAGE = object()


def outcome_of(pickled):
    return outcome(io.BytesIO(pickled), io.BytesIO(), MOST)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class ClaimedTensor:
    """A tensor of a million numbers whose storage holds one."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (STORAGE, 0, (1 << 20,), (1,), False, OrderedDict())


class ClaimingPickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, "0", "cpu", 1 << 20) if value is STORAGE else None


def test_named_tensors_are_converted():
    numbers = {"f": torch.zeros(3), "h": torch.zeros(2, 2).half(), "b": torch.zeros((), dtype=torch.bfloat16)}
    assert outcome_of(saved(numbers)) == Outcome.CONVERTED


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {"scale": 1.0},
        {1: torch.zeros(3)},
        {"count": torch.zeros(3, dtype=torch.int32)},
        {"sparse": torch.eye(3).to_sparse()},
        {"nowhere": torch.zeros(3, device="meta")},
        {"stream": io.BytesIO()},  # a class that weights_only does not allow
    ],
)
def test_anything_else_is_refused(content):
    assert outcome_of(saved(content)) == Outcome.NOT_TENSORS


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_damaged(share):
    whole = saved({"scale": torch.zeros(3)})
    assert outcome_of(whole[: int(share * len(whole))]) == Outcome.DAMAGED


def test_the_pickle_of_another_program_is_damaged():
    assert outcome_of(pickle.dumps({"scale": 1.0})) == Outcome.DAMAGED


def test_more_numbers_than_expected_are_refused():
    assert outcome_of(saved({"x": torch.zeros(MOST // 4)})) == Outcome.TOO_LARGE


def test_a_view_that_repeats_one_number_a_trillion_times_is_refused():
    view = saved({"x": torch.zeros(1).expand(1 << 40)})
    assert len(view) < MOST
    assert outcome_of(view) == Outcome.TOO_LARGE


def test_a_compressed_file_is_refused():
    """Zeros shrink a thousand times, and PyTorch's reader would unpack them."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"x": torch.zeros(MOST // 8)}))) as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
    assert outcome_of(packed.getvalue()) == Outcome.TOO_LARGE


def test_a_tensor_that_claims_more_than_its_storage_is_refused():
    claim, packed = io.BytesIO(), io.BytesIO()
    ClaimingPickler(claim, 2).dump({"x": ClaimedTensor()})
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", claim.getvalue())
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(4))
    assert outcome_of(packed.getvalue()) == Outcome.DAMAGED


def test_the_process_sets_its_limits():
    """Memory is counted from what PyTorch's libraries take, and nobody but root can start another process."""
    code = (
        "import resource as r; from opad_core.bases.fetch import unpickle; unpickle._limit_resources(1 << 20); "
        "print([r.getrlimit(getattr(r, 'RLIMIT_' + n))[1] for n in ('CPU', 'FSIZE', 'CORE', 'NOFILE', 'NPROC')]); "
        "bytearray(1 << 28)\n"
        "try: bytearray(3 << 29)\n"
        "except MemoryError: print('limited')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[600, 2097168, 0, 8, 0]", "limited"]
