"""A driver killed before any one of its writes: resumed, the sweep ends as if nothing had happened."""

from __future__ import annotations

import re
import shutil
from functools import partial

import pytest
import torch

from sweeps import ledger as ledger_module
from sweeps import study as study_module
from sweeps.creation import create_ledger
from sweeps.database import StudyDatabase
from sweeps.ledger import History, Ledger, read_history
from sweeps.recorded import recorded
from sweeps.space import load_space
from sweeps.storage import Journal, StudyJournal
from sweeps.study import SweepStudy

SPACE = """
description: A test's space.
trial: [experiment=vimh]
objective: OBJECTIVE
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
search: {trials: 5, seed: 3, sampler: random, start_with: [{model.optimizer.lr: 0.01}, {model.optimizer.lr: 0.02}]}
stopping: {SCHEDULER, guard: {mode: act, patience: 2, min_gain: 0.01}}
budget: {epochs: 1000, prices: {cpu: 2}}
"""
ENDS = {
    "scheduler: asha, grace_epochs: 1, reduction_factor: 2": ["finished", "outranked", "spent", "finished", "outranked"],
    "scheduler: hyperband, grace_epochs: 1, reduction_factor: 2": ["finished", "finished", "spent", "finished", "outranked"],
    "scheduler: median, grace_epochs: 1, min_trials: 2": ["finished", "finished", "spent", "finished", "outranked"],
    # The third is among the best two, until the fourth comes; then the best two go on.
    "scheduler: constant, cutoff_epochs: 1, top_k: 2": ["outranked", "outranked", "spent", "finished", "outranked"],
    # The second and the fifth make way for copies of the first or the fourth; the third is spent an epoch later.
    "scheduler: pbt, interval_epochs: 2, quantile: 0.4, perturb: [model.optimizer.lr], resample_probability: 0": (
        ["finished", "outranked", "spent", "finished", "outranked", "finished", "finished"]
    ),
}
"""How the trials below end under each scheduler."""
ONE, TWO = "{metric: val/avg_acc, mode: max}", "[{metric: val/avg_acc, mode: max}, {metric: parameters, mode: min}]"
CASES = [*((scheduler, ONE) for scheduler in ENDS), (next(iter(ENDS)), TWO)]
STATES = {"finished": "COMPLETE", "spent": "COMPLETE", "outranked": "PRUNED"}
EPOCHS = 4
COURSES = [  # each trial's objective by epoch, and whether its gradient is noise
    ([0.5, 0.6, 0.7, 0.8], False),
    ([0.4, 0.5, 0.6, 0.7], False),  # outranked at the first rung
    ([0.6, 0.6, 0.6, 0.6], True),  # spent after its third epoch
    ([0.65, 0.7, 0.8, 0.9], False),
    ([0.1, 0.1, 0.1, 0.1], False),  # outranked
    ([0.1, 0.2, 0.9, 0.8], False),  # under pbt a copy, whose own epochs are the last two
    ([0.1, 0.2, 0.8, 0.9], False),
]


class Killed(BaseException):
    """What stands for SIGKILL: nothing in the driver may catch it."""


class Fuse:
    """Raises `Killed` before the write that `limit` says (from 1); counts all of them without a limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed, self.count, self.limit = False, 0, None
        for home in (StudyDatabase, StudyJournal):
            for name in ("add", "write", "set_study_system_attr"):
                self.guard(monkeypatch, home, name)
        self.guard_lines(monkeypatch)
        for module in (ledger_module, study_module):
            self.guard(monkeypatch, module, "write_atomically")
        self.guard(monkeypatch, History, "_csv")

    def guard(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def write(*arguments, **keywords):
            if self.armed:
                self.count += 1
                if self.count == self.limit:
                    self.armed = False
                    raise Killed(name)
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, write)

    def guard_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a journal is told at once may have come to the disk in part."""
        original = Journal.append_logs

        def append(journal: Journal, lines: list) -> None:
            for line in lines if self.armed else ():
                self.count += line is not lines[0]  # before the first one is before the write
                if self.count == self.limit:
                    self.armed = False
                    original(journal, lines[: lines.index(line)])
                    raise Killed("append_logs")
            original(journal, lines)

        monkeypatch.setattr(Journal, "append_logs", append)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {1 + (case[1] == TWO)} objectives")
def template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Ledger:
    directory = tmp_path_factory.mktemp("template")
    (directory / "fault.yaml").write_text(SPACE.replace("SCHEDULER", request.param[0]).replace("OBJECTIVE", request.param[1]))
    ledger = Ledger("fault", directory / "runs")
    create_ledger(ledger, load_space(directory / "fault.yaml"))
    return ledger


@pytest.fixture
def fresh(template: Ledger, tmp_path, storage: str):
    """A function: a name → a copy of the ledger in which nothing has run."""

    def make(name: str) -> Ledger:
        ledger = Ledger(template.name, tmp_path / name)
        if storage == "sqlite":
            shutil.copytree(template.root, ledger.root)
        else:
            create_ledger(ledger, load_space(template.root.parent / "fault.yaml"))
        return ledger

    return make


@pytest.fixture
def drive(save_last):
    return partial(run_all, save_last)


def run_all(save_last, ledger: Ledger, checkpoints: dict[int, int]) -> None:
    """Run what is left, one trial after another; `checkpoints` (epoch by trial) outlive the driver, as the trials' files do."""
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 1)
    while proposal := study.propose():
        number = proposal["number"]
        study.begin(number)
        ran = [trial.number for trial in study.study.get_trials(deepcopy=False) if "overrides" in trial.user_attrs]
        replaced = study.study.get_trials(deepcopy=False)[number].user_attrs.get("replaces")
        # A kill may change the order of the copies, but not what becomes of each.
        values, noise = COURSES[ran.index(number) if replaced is None else {1: 5, 4: 6}[ran.index(replaced)]]
        metrics = {"train/loss": 1.0, "grad/evidence": 0.5 if noise else -0.1, "grad/epoch_mean": 1.0}
        done, seconds, verdict = checkpoints.get(number, 0), 0.0, None
        start = ledger.trial(number).start_checkpoint
        if start.exists() and not done:
            done = torch.load(start, weights_only=True)["epoch"] + 1
        if done:
            verdict = study.report(number, message(done, 0.0, {**metrics, "val/avg_acc": values[done - 1]}, repeated=True))
        while done < EPOCHS and verdict is None:
            done, seconds = done + 1, seconds + 1.0
            verdict = study.report(number, message(done, seconds, {**metrics, "val/avg_acc": values[done - 1]}))
            checkpoints[number] = done
            if study.space.stopping.scheduler == "pbt":
                save_last(ledger.trial(number), done)
        if verdict is None:
            study.finish(number, {"metrics": {"test/avg_acc": 0.1}, "seconds": seconds})
    trained = {path: read_history(path) for path in ledger.trials_directory.glob("*/history.csv")}
    assert study.account.used.epochs == sum(len(rows) for rows in trained.values())
    cost = sum(rows[-1]["seconds"] for rows in trained.values() if rows) * 2 / 3600
    assert study.account.used.cost == pytest.approx(cost)


def message(epoch, seconds, metrics, repeated=False):
    return {
        "epoch": epoch,
        "max_epochs": EPOCHS,
        "parameters": 7,
        "seconds": seconds,
        "metrics": metrics,
        "repeated": repeated,
    }


def outcome(ledger: Ledger) -> list[tuple]:
    """All that a sweep found, of the trials that ran: what was killed while it was being proposed may leave a row."""
    found: list[tuple] = []
    trials = ledger.study().get_trials()
    ran = [trial.number for trial in trials if "overrides" in trial.user_attrs]

    def place(number: int) -> int:
        return ran.index(number)

    for trial in trials:
        if trial.user_attrs["verdict"]["verdict"] == "rejected":
            continue
        history = [
            {name: cell for name, cell in row.items() if name != "seconds"}
            for row in read_history(ledger.trial(trial.number).history)
        ]
        notes = {name: trial.user_attrs.get(name) for name in ("verdict", "epochs", "metrics", "parameters")}
        copy = [place(trial.user_attrs[name]) for name in ("replaces", "exploits") if name in trial.user_attrs]
        if copy:
            rates = [each.params["model.optimizer.lr"] for each in (trial, trials[trial.user_attrs["exploits"]])]
            notes |= {"copy": copy, "to_epochs": trial.user_attrs["to_epochs"], "factor": round(rates[0] / rates[1], 6)}
        if "donor" in trial.user_attrs["verdict"]["numbers"]:  # it is told by its number, which the rows of kills shift
            notes["verdict"]["numbers"]["donor"] = place(trial.user_attrs["verdict"]["numbers"]["donor"])
            notes["verdict"]["reason"] = re.sub(r"of trial \d+", "of another", notes["verdict"]["reason"])
            history[-1]["verdict"] = re.sub(r"of trial \d+", "of another", history[-1]["verdict"])
        found.append((trial.state.name, trial.values, recorded(trial), notes, history))
    return sorted(found, key=lambda row: row[3].get("copy", []))


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


def uninterrupted(fresh, drive, fuse: Fuse) -> tuple[list[tuple], int]:
    """The outcome without a kill, and how many writes it took."""
    ledger = fresh("reference")
    fuse.armed = True
    drive(ledger, {})
    fuse.armed = False
    return outcome(ledger), fuse.count


def check(fresh, drive, fuse: Fuse, points: slice, ends: list[str]) -> None:
    expected, writes = uninterrupted(fresh, drive, fuse)
    found = [(state, notes["verdict"]["verdict"]) for state, _, _, notes, _ in expected]
    assert found == [(STATES[end], end) for end in ends]
    for limit in range(1, writes + 1)[points]:
        ledger, checkpoints = fresh(f"killed{limit}"), {}
        fuse.count, fuse.limit, fuse.armed = 0, limit, True
        with pytest.raises(Killed) as killed:
            drive(ledger, checkpoints)
        drive(ledger, checkpoints)
        assert outcome(ledger) == expected, f"killed before write {limit}: {killed.value}"
        rates = [trial.params["model.optimizer.lr"] for trial in ledger.study().get_trials() if "epochs" in trial.user_attrs]
        assert {0.01, 0.02} <= set(rates), f"killed before write {limit}: a trial to start with was lost"


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> list[str]:
    return ENDS[request.node.callspec.params["template"][0]]


def test_a_kill_before_some_writes(fresh, drive, fuse, ends):
    check(fresh, drive, fuse, slice(3, None, 31), ends)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_a_kill_before_any_write(fresh, drive, fuse, ends, part, storage):
    check(fresh, drive, fuse, slice(part, None, 6), ends)


OUT_OF_MEMORY = """
description: A test's space.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space: {data.batch_size: {power_of_two: [8, 256]}}
search: {trials: 2, seed: 3, start_with: [{data.batch_size: 256}, {data.batch_size: 32}]}
stopping: {scheduler: fifo}
"""


def run_large_batches(ledger: Ledger) -> list[tuple]:
    """Run what is left; a batch of more than 64 runs out of memory. What came of it, each trial that ran by its batch."""
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 1)
    while proposal := study.propose():
        number = proposal["number"]
        study.begin(number)
        if study.study.get_trials()[number].params["data.batch_size"] > 64:
            study.fail(number, {"error": "MemoryError: "})
        else:
            study.report(number, message(1, 1.0, {"val/avg_acc": 0.5, "train/loss": 1.0}))
            study.finish(number, {"metrics": {}, "seconds": 1.0})
    ran = [trial for trial in study.study.get_trials() if trial.user_attrs["verdict"]["verdict"] != "rejected"]
    return sorted((trial.params["data.batch_size"], trial.state.name, trial.user_attrs["verdict"]["reason"]) for trial in ran)


@pytest.mark.parametrize("points", [slice(2, None, 9), pytest.param(slice(None), marks=pytest.mark.slow)])
def test_a_trial_that_ran_out_of_memory_is_run_once_more_wherever_the_driver_is_killed(fuse, tmp_path, points):
    (tmp_path / "memory.yaml").write_text(OUT_OF_MEMORY)

    def fresh(name: str) -> Ledger:
        ledger = Ledger("memory", tmp_path / name)
        create_ledger(ledger, load_space(tmp_path / "memory.yaml"))
        return ledger

    reference = fresh("reference")
    fuse.armed = True
    expected = run_large_batches(reference)
    fuse.armed, writes = False, fuse.count
    assert expected == [
        (32, "COMPLETE", "ended by itself after epoch 1"),
        (128, "FAIL", "MemoryError: (not run again with half the batch: that has been done)"),
        (256, "FAIL", "MemoryError: (run once more with data.batch_size=128)"),
    ]
    for limit in range(1, writes + 1)[points]:
        ledger = fresh(f"killed{limit}")
        fuse.count, fuse.limit, fuse.armed = 0, limit, True
        with pytest.raises(Killed):
            run_large_batches(ledger)
        assert run_large_batches(ledger) == expected, f"killed before write {limit}"
