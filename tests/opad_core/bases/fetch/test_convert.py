"""Convert a pickle in a process without a network. Hostile pickles are refused and leave nothing."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from opad_core.bases.fetch import no_network
from opad_core.bases.fetch.convert import convert, unet_shapes
from opad_core.bases.manifest import hash_of
from opad_core.errors import OpadError
from tests.hub_mirror import unet

SHAPES = {"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "scale": ()}

pytestmark = pytest.mark.skipif(
    no_network.command("") is None, reason="neither the kernel nor bubblewrap offers a network namespace here"
)


def state_dict():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def pickled(tmp_path):
    return tmp_path / "published.bin"


def refusal(pickled):
    """Return the message of a conversion that fails. It must leave no file."""
    before = set(pickled.parent.iterdir())
    with pytest.raises(OpadError) as refused:
        convert(pickled, pickled.parent / "network.safetensors", shapes=SHAPES, name="published.bin")
    assert set(pickled.parent.iterdir()) == before
    return str(refused.value)


def test_tensors_come_back_as_they_were_saved(pickled, tmp_path):
    saved = state_dict()
    torch.save(saved, pickled)
    convert(pickled, tmp_path / "network.safetensors", shapes=SHAPES, name="published.bin")
    found = load_file(tmp_path / "network.safetensors")
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_equal_tensors_give_equal_bytes(pickled, tmp_path):
    """The hash of a conversion is recorded, so the order in the pickle and strides must not matter."""
    saved = state_dict()
    torch.save(saved, pickled)
    convert(pickled, tmp_path / "first", shapes=SHAPES, name="published.bin")
    weight = saved["conv.weight"].to(memory_format=torch.channels_last)
    torch.save({"scale": saved["scale"], "conv.weight": weight, "conv.bias": saved["conv.bias"]}, pickled)
    convert(pickled, tmp_path / "second", shapes=SHAPES, name="published.bin")
    assert hash_of(tmp_path / "first") == hash_of(tmp_path / "second")


def test_a_unets_tensors_are_those_of_its_configuration():
    network = unet()
    assert unet_shapes(dict(network.config)) == {name: tuple(x.shape) for name, x in network.state_dict().items()}
    with pytest.raises(OpadError, match="the configuration of the UNet cannot be read: "):
        unet_shapes({"block_out_channels": [32]})


def test_a_pickle_that_runs_a_command_is_refused(pickled, tmp_path):
    torch.save(state_dict() | {"scale": RunsACommand(f"touch {tmp_path / 'was-here'}")}, pickled)
    assert refusal(pickled) == "published.bin holds more than named tensors, which could run any code; it is refused"
    assert not (tmp_path / "was-here").exists()
    torch.load(pickled, weights_only=False)  # the same file does run it when nobody stops it
    assert (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"conv.bias": None}, "it lacks 1 tensors, the first is conv.bias"),
        ({"extra": torch.zeros(1)}, "it has 1 other tensors, the first is 'extra'"),
        ({"conv.bias": torch.zeros(4)}, "conv.bias has the shape [4], not [8]"),
    ],
)
def test_other_tensors_than_the_networks_are_refused(pickled, change, sentence):
    torch.save({name: x for name, x in (state_dict() | change).items() if x is not None}, pickled)
    assert refusal(pickled) == f"published.bin is not the network that was expected: {sentence}"


def test_a_damaged_file_is_refused(pickled):
    torch.save(state_dict(), pickled)
    pickled.write_bytes(pickled.read_bytes()[:-100])
    assert refusal(pickled) == "published.bin is damaged, or no file that PyTorch writes"


def test_a_machine_that_allows_no_namespace_says_what_to_do():
    """Inside a user namespace, its root may forbid further namespaces to all that runs there."""
    code = "from opad_core.bases.fetch.convert import check_can_convert; check_can_convert('fetch it elsewhere')"
    limits = ("/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_net_namespaces")
    forbid = " && ".join([*(f"echo 0 > {limit}" for limit in limits), 'exec "$@"'])
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode != 0:
        pytest.skip("limits of namespaces cannot be set here")
    found = subprocess.run([*inside, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = (
        "a published pickle is converted only in a process without a network, and this machine allows none: "
        "install bubblewrap (bwrap), or fetch it elsewhere"
    )
    assert found.stderr.splitlines()[-1] == f"opad_core.errors.OpadError: {message}"


@pytest.mark.parametrize("by", ["itself", "bubblewrap"])
def test_the_process_reaches_no_network(by):
    """The same connection works from here, so the listener is not what is missing."""
    bubblewrap = shutil.which("bwrap")
    if by == "bubblewrap" and bubblewrap is None:
        pytest.skip("bubblewrap is not installed")
    prefix = [] if by == "itself" else [bubblewrap, *no_network._BUBBLEWRAP]
    if subprocess.run([*prefix, *no_network._python("")], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let it leave the network")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=20)"
        free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (free.returncode, free.stderr) == (0, "")
        shut = subprocess.run([*prefix, *no_network._python(code)], capture_output=True, text=True, check=False)
    assert shut.returncode == 1
    assert "Error: [Errno" in shut.stderr.splitlines()[-1]


def test_the_process_gets_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = "import os; print(dict(os.environ))"
    found = subprocess.run(
        no_network.command(code), env=no_network.environment(), capture_output=True, text=True, check=True
    )
    assert "OMP_NUM_THREADS" in found.stdout
    assert "hf_secret" not in found.stdout
