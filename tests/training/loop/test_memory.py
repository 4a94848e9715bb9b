import platform
import subprocess
import sys

import pytest

GROWS = """
import sys, torch
from roost_training.loop import memory
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
if sys.argv[1] == "keep":
    memory.keep_freed()
before = resident()
made = torch.ones(50_000_000)
del made
print(resident() - before)
"""
"""Prints by how many MiB a process has grown that makes 200 million bytes and frees them."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize(("asked", "least", "most"), [("keep", 150, 250), ("leave", -1, 50)])
def test_a_process_keeps_what_it_freed_where_it_was_asked_to(asked, least, most):
    ended = subprocess.run([sys.executable, "-c", GROWS, asked], check=True, capture_output=True, text=True)
    assert least < float(ended.stdout) < most
