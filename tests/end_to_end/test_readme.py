"""Every command that the README shows, run in a copy of the project, in an order in which each finds what it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.faults.nodes import Nodes
from benchmarks.recipes import STATED

PROJECT = Path(__file__).resolve().parent.parent.parent
README = (PROJECT / "README.md").read_text()
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "data", "runs", "logs", "__pycache__", ".*_cache", ".hypothesis")

STEPS = [
    "make sweep NAME=quickstart",
    "make resume NAME=quickstart",
    "make extend NAME=quickstart TRIALS=+10",
    "make status NAME=quickstart",
    "make reproduce NAME=quickstart TRIAL=0",
    "make promote NAME=quickstart",
    "make submit NAME=quickstart AS=far ADDRESS=…",
    "make validate NAME=quickstart",
    "make debug NAME=quickstart",
    "make report NAME=quickstart",
    'make train ARGS="experiment=vimh model=vimh_cnn data.target_width=1.0"',
    'make evaluate ARGS="ckpt_path=logs/train/runs/…/checkpoints/best.ckpt"',
    'make predict ARGS="ckpt_path=logs/train/runs/…/checkpoints/best.ckpt"',
    'make diagram ARGS="model=vimh_cnn"',
    "make suite NAME=digits",
    "python -m lhtx.train $(cat runs/quickstart/trials/0000/overrides.txt)",
    "python -m benchmarks.recipes",
    "python -m benchmarks.throughput",
    "make bench",
    "make faults",
    "make help",
    "make test",
    "make test-slow",
]


def shown() -> set[str]:
    """The commands in the README's code: blocks and inline."""
    code = re.findall(r"`((?:make|python) [^`]+)`", README)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL))
    return {*code, *(line.split("#")[0].strip() for line in blocks.splitlines() if line)}


def test_the_steps_are_the_commands_that_the_readme_shows():
    assert shown() == set(STEPS)


def test_the_recipes_table_states_what_the_benchmark_checks():
    rows = re.findall(r"^\| `([\w ]+)` \|.*\| ([\d.]+) \|$", README, flags=re.MULTILINE)
    assert {name: float(value) for name, value in rows} == {name: value for name, (_, value) in STATED.items()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the same .venv."""
    directory = tmp_path_factory.mktemp("newcomer") / "project"

    def ignore(folder: str, names: list[str]) -> set[str]:
        return NOT_COPIED(folder, names) if Path(folder) == PROJECT else {"__pycache__"}

    shutil.copytree(PROJECT, directory, ignore=ignore)
    (directory / ".venv").symlink_to(PROJECT / ".venv")
    return directory


def runnable(step: str, copy: Path, nodes: Nodes) -> str:
    """The step as it is typed here: the cluster's address or the newest run for `…`; tests are collected only, as this one is
    among them; benchmarks are short, and of the faults, which another test makes, it is one."""
    if "ADDRESS=…" in step:
        return f"{step.replace('…', nodes.address)} ARGS='--cluster-runs {nodes.there}'"
    if step == "make faults":
        return f"{step} ARGS='--only interrupted'"
    if "…" in step:
        newest = max((copy / "logs/train/runs").iterdir())
        step = step.replace("…", newest.name)
    if step.startswith("make test"):
        return f"{step} ARGS=--collect-only"
    if step == "python -m benchmarks.throughput":
        return f"{step} --quick --only platform 'warm pool'"
    return f"{step} ARGS=--quick" if step == "make bench" else step


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_step_does_what_it_says(copy, nodes):
    # Without what a make round this test would hand down: its flags and variables.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS"}
    }
    environment["PATH"] = f"{PROJECT / '.venv' / 'bin'}:{os.environ['PATH']}"
    outputs = {}
    for step in STEPS:
        done = subprocess.run(
            ["bash", "-c", runnable(step, copy, nodes)],
            cwd=copy,
            env=environment if "ADDRESS" not in step else {**environment, **nodes.token},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
        outputs[step] = done.stdout
    assert "24 of 24 trials ended" in outputs["make sweep NAME=quickstart"]
    assert "Best trials by val/avg_acc" in outputs["make sweep NAME=quickstart"]
    assert "all 24 trials have ended" in outputs["make resume NAME=quickstart"]
    assert "34 of 34 trials ended" in outputs["make extend NAME=quickstart TRIALS=+10"]
    assert (copy / "runs/quickstart/report/index.html").stat().st_size > 100_000
    assert (copy / "runs/quickstart/results.parquet").exists()
    newest = max((copy / "logs/train/runs").iterdir())  # the replay of trial 0
    recorded = copy / "runs/quickstart/trials/0000/metrics.json"
    if recorded.exists():  # it finished
        assert (newest / "metrics.json").read_text() == recorded.read_text()
