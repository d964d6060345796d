"""Freed memory is kept, up to a limit, where the C library is glibc."""

import os
import platform
import subprocess
import sys

import pytest

from hfcourse.pipeline.memory import CHOICES

SCRIPT = """
import ctypes, resource
from hfcourse.pipeline.memory import keep_freed_memory

said = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p], None


def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20


def kept(mebibytes: int, blocks: int) -> int:
    before, size = resident(), mebibytes * 2**20
    held = [libc.malloc(size) for _ in range(blocks)]
    for block in held:
        libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(size))
    for block in held:
        libc.free(block)
    return resident() - before


print(said, kept(50, 3), kept(30, 5), kept(30, 20))
"""


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is changed, nor to be seen")


def run(**environment) -> tuple[bool, list[int]]:
    """(what the function says, MiB that are kept of blocks too large, of five, and of too many)"""
    plain = {name: value for name, value in os.environ.items() if name not in CHOICES}
    out = subprocess.run([sys.executable, "-c", SCRIPT], env=plain | environment, capture_output=True, text=True)
    said, *kept = out.stdout.split()
    return said == "True", [int(size) for size in kept]


def test_what_was_freed_is_kept_up_to_a_limit():
    said, (large, five, many) = run()
    assert said == (platform.libc_ver()[0] == "glibc")
    assert large < 5
    assert (145 <= five <= 155) == said
    assert many < 256


def test_a_choice_is_respected():
    said, kept = run(MALLOC_MMAP_THRESHOLD_="1048576")
    assert not said
    assert max(kept) < 5
