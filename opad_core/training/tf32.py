"""The precision of float32 matrix products while a concept is learned."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from opad_core.bases.loading import Base


@contextmanager
def tf32_products(base: Base) -> Iterator[None]:
    """Let float32 matrix products round their factors to TF32 while a base in half precision learns on CUDA.

    They are the products of learned parameters. TF32 has 10 bits after the leading one, as many as float16, and runs on
    tensor cores. PyTorch has one setting for the whole process; it is restored afterwards.
    """
    if base.device.type != "cuda" or base.dtype == torch.float32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
