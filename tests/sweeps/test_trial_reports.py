"""A trial trains on while its report is answered: what comes of it is the same however long the answer takes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lhtx.checkpoints import load_checkpoint
from sweeps.ledger import TrialFiles
from sweeps.trial import Assignment, Listener, TrialStopped, run_trial

BATCHES = 4
CALLBACK = f"+callbacks.batches._target_={__name__}.Batches"


class Batches(Callback):
    """Notes what is trained, and fails in an epoch if asked to."""

    seen: ClassVar[list[tuple[int, int]]] = []
    fails_in: int | None = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Batches.seen.append((trainer.current_epoch + 1, batch_idx))
        if trainer.current_epoch + 1 == Batches.fails_in:
            raise RuntimeError("the bomb went off")


class Late(Listener):
    """Ends the trial with the epoch `last`; each answer is there after so many looks for it, or when it is waited for."""

    def __init__(self, last: int | None, looks: int) -> None:
        self.epochs: list[int] = []
        self._last, self._looks, self._left = last, looks, 0

    def hear(self, report):
        self.epochs.append(report.epoch)
        self._left = self._looks

    def answered(self):
        self._left -= 1
        return self._left < 0

    def goes_on(self):
        return self.epochs[-1] != self._last


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    monkeypatch.setattr(Batches, "seen", [])
    monkeypatch.setattr(Batches, "fails_in", None)
    with torch.random.fork_rng():
        yield Batches


def checkpoint(trial: Assignment) -> dict:
    return load_checkpoint(TrialFiles(Path(trial.directory)).last_checkpoint)


@pytest.mark.parametrize("looks", [0, 2, 1000])
def test_a_trial_that_ends_leaves_the_checkpoint_of_its_last_report(trial, batches, looks):
    late, prompt = trial(0, CALLBACK, "trainer.max_epochs=4"), trial(0, "trainer.max_epochs=4", name="prompt")
    listener = Late(2, looks)
    with pytest.raises(TrialStopped):
        run_trial(late, listener)
    with pytest.raises(TrialStopped):
        run_trial(prompt, Late(2, 0))
    assert listener.epochs == [1, 2]
    assert [batch for epoch, batch in batches.seen if epoch == 3] == list(range(min(looks, BATCHES)))
    found, expected = checkpoint(late), checkpoint(prompt)
    assert found["epoch"] == 1
    assert found["global_step"] == 2 * BATCHES
    for name, weights in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], weights), name


def test_a_late_answer_changes_no_result(trial):
    late, prompt = trial(0), trial(0, name="prompt")
    assert run_trial(late, Late(None, 1000)) == run_trial(prompt, Listener())


def test_a_trial_that_goes_on_after_a_late_end_is_as_if_never_stopped(trial):
    one, whole = trial(0, "trainer.max_epochs=3"), trial(0, "trainer.max_epochs=3", name="whole")
    with pytest.raises(TrialStopped):
        run_trial(one, Late(1, 1000))
    second = Late(None, 1000)
    assert run_trial(one, second) == run_trial(whole, Listener())
    assert second.epochs == [1, 2, 3]


@pytest.mark.parametrize("looks", [0, 1000])
def test_a_trial_that_goes_on_repeats_its_report_and_may_be_ended_by_the_answer(trial, batches, looks):
    one = trial(0, CALLBACK, "trainer.max_epochs=3")
    with pytest.raises(TrialStopped):
        run_trial(one, Late(1, 1000))
    batches.seen.clear()
    again = Late(1, looks)
    with pytest.raises(TrialStopped):
        run_trial(one, again)
    assert again.epochs == [1]
    assert batches.seen == []


def test_a_failure_after_the_last_epoch_is_none(trial, batches):
    batches.fails_in = 2
    with pytest.raises(TrialStopped):
        run_trial(trial(0, CALLBACK), Late(1, 1000))
    assert batches.seen[-1] == (2, 0)
    with pytest.raises(RuntimeError, match="the bomb went off"):
        run_trial(trial(1, CALLBACK), Late(None, 1000))
