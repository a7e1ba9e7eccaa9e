"""Memory that tensors leave is there for the next ones: pages are not mapped anew at each step."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from resformer.training.memory import keep_freed_memory

torch.set_num_threads(1)
kept = keep_freed_memory()

def step():
    held = [torch.ones(2**20) for _ in range(30)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step(), step()
before = faults()
for _ in range(5):
    step()
print(int(kept), faults() - before)
"""


def kept_and_faults(**variables: str) -> tuple[bool, int]:
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    kept, faults = run.stdout.split()
    return bool(int(kept)), int(faults)


def test_a_step_reuses_the_pages_of_the_one_before():
    pytest.importorskip("resource")
    kept, faults = kept_and_faults()
    if not kept:
        pytest.skip("no glibc here, or somebody chose")
    overruled, many = kept_and_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert not overruled
    assert many > 5 * 30 * 2**22 // os.sysconf("SC_PAGE_SIZE") // 2  # 30 tensors of 4 MiB, five times
    assert faults < many / 20
