"""What training needs, imported without what it does not."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from sweeps.light_imports import import_torchmetrics

import_torchmetrics()
import sweeps.trial, torchmetrics

sweeps.trial.preload()
print([name for name in ("scipy.signal", "scipy.stats", "pandas", "ray", "matplotlib") if name in sys.modules])
import scipy.signal

print(scipy.signal.find_peaks([0, 1, 0])[0].tolist(), scipy.signal.__spec__.name)
"""


@pytest.mark.slow
def test_the_server_of_trials_does_without_a_quarter_of_the_imports_and_scipy_is_whole() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[1] scipy.signal"]
