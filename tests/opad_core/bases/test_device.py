import pytest
import torch

from opad_core.__main__ import main
from opad_core.bases.loading import device_named
from opad_core.errors import UnusableDeviceError


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "command", [["generate", "--prompt", "a dog"], ["doctor", "--random-weights", "--base", "sd-turbo"]]
)
def test_a_gpu_that_is_not_there_is_one_sentence_and_status_2(tmp_path, capsys, command):
    out = ["--out", str(tmp_path)] if command[0] == "generate" else []
    assert main([*command, *out, "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"opad: --device: there is no device 'cuda': PyTorch {torch.__version__} ")
    assert line.endswith("; use auto or cpu, or install a driver and a build of PyTorch for your GPU")


def test_a_gpu_beyond_the_last_is_named():
    with pytest.raises(UnusableDeviceError, match=r"there is no device 'cuda:99'"):
        device_named("cuda:99")


@pytest.mark.parametrize("name", ["gpu", "cuda:one", ""])
def test_a_name_that_is_none_gets_the_known_ones(name):
    with pytest.raises(UnusableDeviceError, match=f"there is no device '{name}'; use auto, cpu, cuda, or cuda:1"):
        device_named(name)
