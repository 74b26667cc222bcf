"""A promoted trial composes to the trial's own config, says where it comes from, and replaces nobody else's file."""

from __future__ import annotations

import pytest
import yaml

from lhtx.compose import compose
from sweeps.errors import SweepError
from sweeps.promote import differences, experiment, plain, promote

SPACE = """
search: {trials: 3, seed: 3, start_with: [{model.optimizer.lr: 0.01, model: vimh_mlp}]}
stopping: {scheduler: fifo}
"""
PARAMETERS = """  model: [vimh_mlp, vimh_cnn]
  data.target_width: {uniform: [0.5, 2.0]}
"""


@pytest.fixture
def ledger(make_ledger, open_study, run_trial):
    ledger = make_ledger(PARAMETERS + SPACE, name="mine")
    study = open_study(ledger)
    for values in ([0.25, 0.5], [0.75, 0.5], [0.3, 0.3]):
        run_trial(study, values)
    return ledger


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    return tmp_path / "configs"


def composed(configs, name):
    return plain(compose([f"hydra.searchpath=['file://{configs}']", f"experiment={name}"]))


def test_the_best_trial_becomes_an_experiment_of_the_same_config(ledger, configs, console):
    file = promote(ledger, None, None, console, configs)
    assert file == configs / "experiment" / "mine.yaml"
    trial = ledger.study().get_trials()[1]
    assert composed(configs, "mine") == plain(compose(trial.user_attrs["overrides"]))
    text = file.read_text()
    assert text.startswith(
        "# @package _global_\n# Promoted from the sweep mine, trial 1: val/avg_acc 0.75, test/avg_acc 0.4.\n"
    )
    assert f"complete (finished at epoch 2), trained {trial.datetime_start:%Y-%m-%d} at " in text.splitlines()[2]
    assert "train it again: python -m lhtx.train experiment=mine" in console.file.getvalue()


def test_another_trial_under_another_name(ledger, configs, console):
    promote(ledger, 0, "first", console, configs)
    found = yaml.safe_load((configs / "experiment" / "first.yaml").read_text())
    assert found["model"] == {"optimizer": {"lr": 0.01}}
    assert "override /model" in found["defaults"][-1]
    assert composed(configs, "first")["model"]["optimizer"]["lr"] == 0.01


def test_only_a_file_of_the_same_sweep_is_replaced(ledger, configs, console):
    file = promote(ledger, 0, None, console, configs)
    promote(ledger, None, None, console, configs)
    assert "trial 1:" in file.read_text()
    file.write_text("# @package _global_\n# by hand\n")
    with pytest.raises(SweepError, match=r"mine\.yaml exists and is not of this sweep: choose another name with --as"):
        promote(ledger, None, None, console, configs)
    assert "by hand" in file.read_text()


@pytest.mark.parametrize(
    ("number", "name", "message"), [(9, None, "Trial 9 .* does not exist"), (0, "a/b", "cannot be named 'a/b'")]
)
def test_what_cannot_be_promoted_is_refused(ledger, configs, console, number, name, message):
    with pytest.raises(SweepError, match=message):
        promote(ledger, number, name, console, configs)
    assert list((configs / "experiment").iterdir()) == []


def test_only_a_complete_trial_is_promoted(make_ledger, open_study, run_trial, report_epoch, configs, console):
    ledger = make_ledger("stopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    run_trial(study, [0.5])
    study.propose()
    report_epoch(study, 1, 1, float("nan"))
    study.propose()
    study.begin(2)
    study.fail(2, {"error": "ValueError: no"})
    study.propose()
    for number, ended in (
        (1, r"ended as broken \(not finite: .*\)"),
        (2, r"ended as failed \(ValueError: no\)"),
        (3, "has not ended"),
    ):
        with pytest.raises(SweepError, match=f"^Trial {number} of the sweep 'test' {ended}, and only COMPLETE ones .*: 0\\.$"):
            promote(ledger, number, None, console, configs)
    assert list((configs / "experiment").iterdir()) == []


def test_a_refusal_lists_the_first_of_many_trials(make_ledger, open_study, run_trial, configs, console):
    ledger = make_ledger("search: {trials: 30}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    for _ in range(22):
        run_trial(study, [0.5])
    study.propose()
    with pytest.raises(SweepError, match=r"promoted: 0, 1, .* 18, 19 and 2 more\.$"):
        promote(ledger, 22, None, console, configs)


def test_without_a_value_there_is_no_best(make_ledger, configs, console):
    with pytest.raises(SweepError, match="No trial of the sweep 'test' has a value yet"):
        promote(make_ledger(), None, None, console, configs)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=vimh_mlp", "data.target_width=0.5", "seed=3"],
        ["experiment=vimh_soft_target", "model=vimh_cnn", "trainer=cpu", "logger=none", "tags=[a,b]"],
        ["experiment=vimh", "~logger", "+callbacks.bomb={_target_: bomb.Bomb, armed: false}", "callbacks.bomb.armed=true"],
        ["experiment=vimh", "model.optimizer={lr: 0.5}", "model.optimizer.weight_decay=1e-05", "optimized_metric='train/loss'"],
        ["experiment=vimh", "paths.data_dir='${paths.root_dir}/else where'", "data.augmentation=null", "task_name='007'"],
    ],
)
def test_an_experiment_does_what_overrides_do(configs, overrides):
    wanted = plain(compose(overrides))
    (configs / "experiment" / "same.yaml").write_text(f"# @package _global_\n{experiment(overrides)}")
    assert differences(wanted, composed(configs, "same")) == []


def test_what_a_file_cannot_say_is_refused():
    with pytest.raises(SweepError, match=r"'~model\.scheduler' has no counterpart"):
        experiment(["~model.scheduler"])


def test_differences_are_named_by_their_keys():
    one = {"a": {"b": 1, "c": [1]}, "d": None}
    assert differences(one, {"a": {"b": 1.0, "c": [1]}, "e": 2}) == ["a.b", "d", "e"]
    assert differences(one, one) == []
