"""`fuse` in a search space: what cannot train as one is refused by name and line, and what a sweep's life lets change."""

from __future__ import annotations

import json

import pytest

from sweeps import edits
from sweeps.creation import create_ledger
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.space import load_space
from sweeps.validation import validate

TEXT = """
description: A test's space.
trial: [data=digits, model=digits_mlp, logger=none, trainer.max_epochs=4, {overrides}]
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-1]}}
  {searched}
search: {{trials: 4}}
stopping: {{scheduler: fifo}}
fuse: {fuse}
"""
ASKING = """
from lhtx.nets import SimpleMLP


class Asking(SimpleMLP):
    def forward(self, image, auxiliary=None):
        return super().forward(image / self.lin1.weight.abs().max().item(), auxiliary)
"""


@pytest.fixture
def space(make_space):
    """A function: `fuse`, one more searched parameter and more overrides → the space."""

    def make(fuse="4", searched="data.target_width: {uniform: [0.0, 1.0]}", overrides=("trainer.limit_train_batches=4",)):
        listed = ", ".join(map(json.dumps, overrides))
        return make_space(TEXT.format(fuse=fuse, searched=searched, overrides=listed), base=False)

    return make


def refusal(check):
    with pytest.raises(SpaceError) as error:
        check()
    (problem,) = error.value.problems
    return problem.where.rsplit(":", 1)[1], problem.what


@pytest.mark.parametrize(
    ("fuse", "found"), [("0", "0"), ("yes", "yes"), ("true", "true"), ("257", "257"), ("1.5", "1.5"), ("many", "many")]
)
def test_what_is_no_number_of_trials_is_refused(space, fuse, found):
    line, what = refusal(lambda: space(fuse))
    assert line == "10"
    assert "how many trials train as one, from 1 to 256, or auto is expected" in what
    assert found in what.lower()


def test_what_trials_must_share_is_no_parameter(space, make_space):
    line, what = refusal(lambda: space(searched="data.seed: {int: [0, 9]}"))
    assert (line, "share the order of batches" in what) == ("7", True)
    line, what = refusal(lambda: space(overrides=["data.first_order=3"]))
    assert (line, "the sweep sets data.first_order" in what) == ("3", True)
    line, what = refusal(
        lambda: make_space(
            "search: {trials: 4}\nfuse: 4\n"
            "stopping: {scheduler: pbt, interval_epochs: 1, quantile: 0.5, perturb: [model.optimizer.lr], "
            "resample_probability: 0.5}\n"
        )
    )
    assert "cannot become copies of each other, as under pbt" in what


def test_a_size_that_is_searched_is_refused_at_its_line(space):
    line, what = refusal(lambda: validate(space(searched="model.net.lin1_size: {int: [8, 16]}"), samples=1))
    assert line == "7"
    assert "fuse: 4 is asked for, and model.net.lin1_size" in what


@pytest.mark.slow
def test_callbacks_that_need_a_trainer_and_networks_that_ask_for_numbers_are_refused(space, tmp_path, monkeypatch):
    early = "+callbacks.early={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"
    line, what = refusal(lambda: validate(space(overrides=[early]), samples=1))
    assert (line, "EarlyStopping" in what) == ("10", True), what
    (tmp_path / "asking.py").write_text(ASKING)
    monkeypatch.syspath_prepend(tmp_path)
    line, what = refusal(lambda: validate(space(overrides=["model.net._target_=asking.Asking"]), samples=1))
    assert (line, "item" in what) == ("10", True), what


def test_auto_takes_as_many_as_are_worth_it_or_says_why_not(space):
    found = validate(space("auto"), samples=1)
    assert found.group_size == 16
    assert "fuse: up to 16 trials train as one network" in found.notes
    found = validate(space("auto", searched="data.batch_size: {choice: [16, 32]}"), samples=1)
    assert found.group_size == 1
    assert any(note.startswith("fuse: every trial has a process of its own: data.batch_size") for note in found.notes)


@pytest.mark.parametrize(
    ("before", "after", "refused"), [("16", "8", False), ("16", "1", True), ("1", "16", True), ("auto", "auto", False)]
)
def test_how_many_may_change_while_a_sweep_lives_but_not_whether_any(space, tmp_path, console, before, after, refused):
    ledger = Ledger("test", tmp_path / "runs")
    create_ledger(ledger, space(before), group_size=16 if before == "auto" else None)
    assert ledger.space().group_size == (16 if before == "auto" else int(before))
    file = space(after).document.file
    if refused:
        with pytest.raises(SpaceError, match=r"fuse: .* → "):
            edits.settle(ledger, console)
        return
    group_size = edits.settle(ledger, console).group_size
    assert group_size == (16 if after == "auto" else int(after))
    assert ("fuse: 16 → 8" in console.file.getvalue()) == (before != after)
    assert load_space(file).fuse == (after if after == "auto" else int(after))
