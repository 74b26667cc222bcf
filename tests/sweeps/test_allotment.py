"""What a trial's process sees and may hold: its threads, its devices, its memory. Real processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from itertools import count

import pytest

from sweeps.allotment import MemoryWatch
from sweeps.failures import classify
from sweeps.process import TrialProcess

MODULE = """
import json, os, time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Look(Callback):
    '''Writes down what the process sees.'''

    def __init__(self, file):
        self.file = Path(file)

    def on_fit_start(self, trainer, pl_module):
        seen = {"devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "omp": os.environ["OMP_NUM_THREADS"]}
        seen |= {"threads": torch.get_num_threads(), "interop": torch.get_num_interop_threads()}
        self.file.write_text(json.dumps(seen | {"accelerator": type(trainer.accelerator).__name__}))


class Hog(Callback):
    '''Holds so many MiB, in this process or in one that it forks.'''

    def __init__(self, mib, fork=False):
        self.mib, self.fork = mib, fork

    def on_train_epoch_start(self, trainer, pl_module):
        if not self.fork or os.fork() == 0:
            block = np.ones(self.mib * 2**17)
            time.sleep(600 if self.mib else 0)
        else:
            os.wait()
"""


@pytest.fixture
def assignment(tmp_path, vimh_dataset, monkeypatch):
    """A function: more overrides → a trial of one epoch whose callbacks `probe.Look` and `probe.Hog` can be imported."""
    (tmp_path / "probe.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))

    numbers = count()

    def make(*overrides):
        directory = tmp_path / f"trial{next(numbers)}"
        directory.mkdir()
        data = ["model=vimh_mlp", f"data.data_dir='{vimh_dataset}'", "data.generate=null", "logger=none"]
        chosen = [*data, "trainer.accelerator=cpu", "trainer.max_epochs=1", *overrides]
        return {"number": 0, "overrides": chosen, "directory": str(directory)}

    return make


def end_of(process, message):
    """How the trial ends."""
    process.start(message)
    while (said := process.next())["kind"] == "report":
        pass
    return said


def hog(mib, fork=False):
    return f"+callbacks.hog={{_target_: probe.Hog, mib: {mib}, fork: {str(fork).lower()}}}"


@pytest.fixture
def look(tmp_path):
    """An override, with which a trial writes down what its process sees; and a function that reads it."""
    file = tmp_path / "seen.json"
    return f"+callbacks.look={{_target_: probe.Look, file: '{file}'}}", lambda: json.loads(file.read_text())


def check_killed(failed):
    assert failed["kind"] == "failed"
    held = failed["error"].removeprefix("killed: it held ").removesuffix(" of the 600 MiB that it was allotted")
    assert 600 < (float(held.split()[0]) * {"MiB": 1, "GiB": 1024}[held.split()[1]]) < 1300
    assert classify("failed", failed["error"]) == "oom"


def test_a_trial_sees_and_holds_what_it_was_allotted_and_no_more(assignment, look, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    override, seen = look
    process = TrialProcess(threads=2, memory=600 * 2**20)
    try:
        assert end_of(process, assignment("threads=2", override, hog(0)))["kind"] == "finished"
        assert seen() == {"devices": "", "omp": "2", "threads": 2, "interop": 2, "accelerator": "CPUAccelerator"}
        start = time.monotonic()
        check_killed(end_of(process, assignment(hog(700))))
        assert time.monotonic() - start < 120
    finally:
        process.close()


@pytest.mark.slow
def test_a_trial_with_a_gpu_sees_those_that_ray_gave_it_and_its_children_s_memory_counts(assignment, look, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # as Ray sets it for an actor with a GPU
    override, seen = look
    process = TrialProcess(threads=1, gpu=True, memory=600 * 2**20)
    try:
        assert end_of(process, assignment("threads=1", override))["kind"] == "finished"
        assert (seen()["devices"], seen()["threads"]) == ("5", 1)
        check_killed(end_of(process, assignment(hog(700, fork=True))))
    finally:
        process.close()


def test_pages_that_processes_share_count_once(tmp_path):
    """Four forks of a process that holds 200 MiB, as data-loader workers are, hold little more than it does alone."""
    code = """
        import os, signal, sys, time
        block = bytearray(os.urandom(1)) * (200 * 2**20)
        for _ in range(4):
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        print("ready", flush=True)
        time.sleep(60)
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert program.stdout.readline() == "ready\n"
        assert MemoryWatch(program.pid, 300 * 2**20).exceeded() is None
        held = MemoryWatch(program.pid, 150 * 2**20).exceeded()
        assert 200 <= held / 2**20 < 250
    finally:
        os.killpg(program.pid, 9)
        program.wait()
        program.stdout.close()
    assert MemoryWatch(program.pid, 1).exceeded() is None  # a group that is gone holds nothing


def test_it_looks_now_and_then_only(monkeypatch):
    looks = []
    monkeypatch.setattr("sweeps.allotment._members", lambda group: looks.append(group) or [])
    watch, unlimited = MemoryWatch(1, 1), MemoryWatch(2, None)
    for _ in range(100):
        assert watch.exceeded() is unlimited.exceeded() is None
    assert looks == [1]
