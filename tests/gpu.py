"""A GPU that is not there, for code that asks PyTorch what a GPU has and loads nothing onto it."""

import torch


def pretend_gpu(monkeypatch, *, free, total, fraction=1.0):
    """Let PyTorch report one GPU with this much memory, in bytes; the process may use a fraction of it."""
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "a pretended GPU",
        "mem_get_info": (free, total),
        "get_per_process_memory_fraction": fraction,
        "memory_reserved": 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, answer=answer: answer)
