"""`python -m bench.same_tensors COMMIT`: check that the current code learns the same tensors as an earlier commit.

Both train `examples/striped_mug` with one thread and the same seed, the earlier commit in its own worktree. The hash
covers names, shapes and bytes of all tensors of a bundle, but not its header. It depends on the processor and the torch
version, so compare only runs on one machine.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ITERATIONS = ["--iterations", "30", "--collaborative-iterations", "10"]


def learned(tree: Path, out: Path) -> str:
    """Train in a checkout and return the hash of the bundle's tensors."""
    command = [sys.executable, "-m", "opad_core", "train", "--images", "examples/striped_mug", "--class", "mug",
               *ITERATIONS, "--seed", "7", "--device", "cpu", "--out", str(out)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=sys.stderr)
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(out / "concept.safetensors").items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    commit = parser.parse_args().commit
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "earlier"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), commit], cwd=here, check=True)
        try:
            hashes = {commit: learned(tree, Path(folder) / "a"), "now": learned(here, Path(folder) / "b")}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=here, check=True)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, one thread")
    for name, value in hashes.items():
        print(f"{value} {name}")
    return int(len(set(hashes.values())) > 1)


if __name__ == "__main__":
    sys.exit(main())
