"""A driver killed before any one of its writes: resumed, the sweep ends as if nothing had happened."""

from __future__ import annotations

import shutil

import pytest
from optuna.storages import RDBStorage

from sweeps import ledger as ledger_module
from sweeps import study as study_module
from sweeps.creation import create_ledger
from sweeps.ledger import History, Ledger, read_history
from sweeps.recorded import recorded
from sweeps.space import load_space
from sweeps.study import SweepStudy

SPACE = """
description: A test's space.
trial: [experiment=vimh]
objective: OBJECTIVE
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
search: {trials: 5, seed: 3, sampler: random, start_with: [{model.optimizer.lr: 0.01}, {model.optimizer.lr: 0.02}]}
stopping: {SCHEDULER, guard: {mode: act, patience: 2, min_gain: 0.01}}
"""
ENDS = {
    "scheduler: asha, grace_epochs: 1, reduction_factor: 2": ["finished", "outranked", "spent", "finished", "outranked"],
    "scheduler: hyperband, grace_epochs: 1, reduction_factor: 2": ["finished", "finished", "spent", "finished", "outranked"],
    "scheduler: median, grace_epochs: 1, min_trials: 2": ["finished", "finished", "spent", "finished", "outranked"],
    # The third is among the best two, until the fourth comes; then the best two go on.
    "scheduler: constant, cutoff_epochs: 1, top_k: 2": ["outranked", "outranked", "spent", "finished", "outranked"],
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
]


class Killed(BaseException):
    """What stands for SIGKILL: nothing in the driver may catch it."""


class Fuse:
    """Raises `Killed` before the write that `limit` says (from 1); counts all of them without a limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed, self.count, self.limit = False, 0, None
        for name in (
            "create_new_trial",
            "set_trial_param",
            "set_trial_system_attr",
            "set_trial_user_attr",
            "set_trial_intermediate_value",
            "set_trial_state_values",
        ):
            self.guard(monkeypatch, RDBStorage, name)
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


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {1 + (case[1] == TWO)} objectives")
def template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Ledger:
    directory = tmp_path_factory.mktemp("template")
    (directory / "fault.yaml").write_text(SPACE.replace("SCHEDULER", request.param[0]).replace("OBJECTIVE", request.param[1]))
    ledger = Ledger("fault", directory / "runs")
    create_ledger(ledger, load_space(directory / "fault.yaml"))
    return ledger


@pytest.fixture
def fresh(template: Ledger, tmp_path):
    """A function: a name → a copy of the ledger in which nothing has run."""

    def make(name: str) -> Ledger:
        shutil.copytree(template.root, tmp_path / name)
        return Ledger(template.name, tmp_path / name)

    return make


def drive(ledger: Ledger, checkpoints: dict[int, int]) -> None:
    """Run what is left, one trial after another; `checkpoints` (epoch by trial) outlive the driver, as the trials' files do."""
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 1)
    while proposal := study.propose():
        number = proposal["number"]
        study.begin(number)
        ran = [trial.number for trial in study.study.get_trials(deepcopy=False) if "overrides" in trial.user_attrs]
        values, noise = COURSES[ran.index(number)]
        metrics = {"train/loss": 1.0, "grad/evidence": 0.5 if noise else -0.1, "grad/epoch_mean": 1.0}
        done, seconds, verdict = checkpoints.get(number, 0), 0.0, None
        if done:
            verdict = study.report(number, message(done, 0.0, {**metrics, "val/avg_acc": values[done - 1]}, repeated=True))
        while done < EPOCHS and verdict is None:
            done, seconds = done + 1, seconds + 1.0
            verdict = study.report(number, message(done, seconds, {**metrics, "val/avg_acc": values[done - 1]}))
            checkpoints[number] = done
        if verdict is None:
            study.finish(number, {"metrics": {"test/avg_acc": 0.1}, "seconds": seconds})


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
    found = []
    for trial in ledger.study().get_trials():
        if trial.user_attrs["verdict"]["verdict"] == "rejected":
            continue
        history = [
            {name: cell for name, cell in row.items() if name != "seconds"}
            for row in read_history(ledger.trial(trial.number).history)
        ]
        notes = {name: trial.user_attrs.get(name) for name in ("verdict", "epochs", "metrics", "parameters")}
        found.append((trial.state.name, trial.values, recorded(trial), notes, history))
    return found


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


def uninterrupted(fresh, fuse: Fuse) -> tuple[list[tuple], int]:
    """The outcome without a kill, and how many writes it took."""
    ledger = fresh("reference")
    fuse.armed = True
    drive(ledger, {})
    fuse.armed = False
    return outcome(ledger), fuse.count


def check(fresh, fuse: Fuse, points: slice, ends: list[str]) -> None:
    expected, writes = uninterrupted(fresh, fuse)
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


def test_a_kill_before_some_writes(fresh, fuse, ends):
    check(fresh, fuse, slice(3, None, 31), ends)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_a_kill_before_any_write(fresh, fuse, ends, part):
    check(fresh, fuse, slice(part, None, 6), ends)
