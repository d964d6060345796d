"""Freed memory is kept: allocated again, it costs no page faults."""

import os
import platform
import subprocess
import sys

from hfcourse.pipeline.memory import CHOICES

SCRIPT = """
import resource, sys
import torch
from hfcourse.pipeline.memory import keep_freed_memory

print(keep_freed_memory())
for step in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment) -> tuple[bool, int]:
    """(what the function says, page faults of allocating 128 MiB for the third time)"""
    plain = {name: value for name, value in os.environ.items() if name not in CHOICES}
    out = subprocess.run([sys.executable, "-c", SCRIPT], env=plain | environment, capture_output=True, text=True)
    said, faults = out.stdout.split()
    return said == "True", int(faults)


def test_what_was_freed_is_there_for_the_next_step():
    said, faults = run()
    assert said == (platform.libc_ver()[0] == "glibc")
    assert (faults < 100) == said


def test_a_choice_is_respected():
    said, faults = run(MALLOC_MMAP_THRESHOLD_="1048576")
    assert not said
    assert faults > 50  # at least one a huge page of 2 MiB
