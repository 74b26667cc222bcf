"""The benchmarks of the platform run, from their first line to their last, on work of no length."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ("platform", "platform, fused", "warm pool", "Ray, reused actors", "stock Ray Tune", "plain Optuna")


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_throughput_compares_all_that_the_environment_holds_and_says_what_it_leaves_out():
    text = run("benchmarks.throughput", "--quick")
    rows = {name: next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name) for name in LOCAL}
    assert all(float(row.split()[0]) > 0 for row in rows.values())
    assert rows["warm pool"].split()[6] == rows["stock Ray Tune"].split()[7] == "1.00"  # to itself
    assert "Syne Tune: left out; needs an environment of its own" in text
    assert "faster than stock Ray Tune: " in text


@pytest.mark.slow
def test_a_forked_trial_finds_nothing_of_a_careless_one_and_a_reset_process_something():
    text = run("benchmarks.trial_process", "--quick")
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("left behind"))
    table = {line[:28].strip(): line[28:] for line in lines[start + 1 :]}
    assert {name for name, row in table.items() if row[44:].strip() != "–"} == set()
    assert {"patched class", "threads", "exit handlers"} <= {name for name, row in table.items() if "careless" in row[22:44]}


@pytest.mark.slow
def test_driver_scaling_prints_a_row_for_each_sweep():
    text = run("benchmarks.driver_scaling", "--quick", "--cases", "random")
    rows = [line.split() for line in text.splitlines() if line.startswith("study, random")]
    assert [row[4] for row in rows] == ["10", "20"]
    assert all(float(row[5]) > 0 for row in rows)


@pytest.mark.slow
def test_fused_training_is_measured_for_every_network():
    text = run("benchmarks.fused", "--quick")
    rows = [line for line in text.splitlines() if line.startswith(("MLP", "CNN"))]
    assert [row.split()[2] for row in rows] == ["11,204", "63,930", "9,850"]
    assert all(float(row.split()[-4]) > 0 for row in rows)
