"""Seconds and memory on whatever device there is; a GPU is waited for."""

import time
from collections.abc import Callable

import torch

from references.process_memory import memory


def seconds(function: Callable[[], object]) -> float:
    """Wall seconds of a call, until the device has done it."""
    wait()
    begin = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - begin


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_mb() -> float:
    """MB: the most that tensors held on the GPU since `reset_peak`, or this process, ever, on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else memory("VmHWM")
