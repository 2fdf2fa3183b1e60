from __future__ import annotations

import subprocess
import sys

import numpy as np


def test_peak_of_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    large = np.ones(300 * 2**20, np.uint8)
    program = """
import numpy as np
from labkit.grading.sandbox.limits import peak_memory
before = peak_memory()
np.ones(100 * 2**20, np.uint8)
print(before, peak_memory())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 150 * 2**20 < large.nbytes
    assert 90 * 2**20 < after - before < 110 * 2**20
