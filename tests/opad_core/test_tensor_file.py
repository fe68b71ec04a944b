import json

import pytest
import torch
from safetensors.torch import save

from opad_core.tensor_file import header_of, read_header

DATA = save({"a": torch.zeros(3)}, metadata={"manifest": "{}"})


def test_the_header_names_tensors_and_metadata():
    header = header_of(DATA, max_bytes=1000)
    assert header == {"__metadata__": {"manifest": "{}"}, "a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}


def test_the_tensors_begin_after_it():
    _, first = read_header(lambda start, end: DATA[start:end], max_bytes=1000)
    assert DATA[first:] == bytes(12)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "missing or too large"),
        (DATA[:7], "missing or too large"),
        ((1 << 40).to_bytes(8, "little") + DATA[8:], "missing or too large"),
        (DATA[:20], "missing or too large"),
        ((4).to_bytes(8, "little") + b"nope", "Expecting value"),
        ((2).to_bytes(8, "little") + json.dumps([]).encode(), "is not a JSON object"),
    ],
)
def test_bytes_without_a_header_are_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        header_of(data, max_bytes=1000)


def test_a_header_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="too large"):
        header_of(DATA, max_bytes=20)
