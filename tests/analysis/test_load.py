"""Loading: every documented column holds what the study and the histories say, whatever state the sweep is in."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from analysis import frames, load
from analysis.frames import COLUMNS, for_parquet
from sweeps.ledger import LedgerError, read_history


def read(ledger):
    return load(ledger.name, ledger.root)


def test_a_trial_becomes_a_row(write_ledger, made):
    """Params, seed, size, epochs and the test metric of one finished trial stand in their columns."""
    trial = made(
        (0.2, 0.7, 0.6),
        reason="ran all its 3 epochs",
        params={"model": "vimh_cnn", "model.optimizer.lr": 0.01, "model.net.auxiliary_hidden_size": 16},
        metrics={"test/avg_acc": 0.65},
        seed=7,
        parameters=1234,
        max_epochs=3,
        seconds=12.0,
    )
    sweep = read(write_ledger([trial]))
    row = sweep.trials.iloc[0]
    assert list(sweep.trials)[: len(COLUMNS)] == list(COLUMNS)
    expected = {"number": 0, "state": "COMPLETE", "verdict": "finished", "reason": "ran all its 3 epochs", "value": 0.7}
    expected |= {
        "best_seen": 0.7,
        "best_epoch": 2,
        "epochs": 3,
        "max_epochs": 3,
        "seconds": 12.0,
        "parameters": 1234,
        "seed": 7,
    }
    expected |= {"model": "vimh_cnn", "model.optimizer.lr": 0.01, "model.net.auxiliary_hidden_size": 16, "test/avg_acc": 0.65}
    assert row[list(expected)].to_dict() == expected
    assert row["ended"] - row["started"] == pd.Timedelta(seconds=12)
    assert sweep.searched == ["model", "model.optimizer.lr", "model.net.auxiliary_hidden_size"]
    assert (sweep.metric, sweep.mode, sweep.target, sweep.test_metric) == ("val/avg_acc", "max", 1, "test/avg_acc")


def test_history_is_long_with_a_column_a_metric(write_ledger, made):
    sweep = read(write_ledger([made((0.2, 0.7)), made((0.1,), "outranked", "1 of 2", gradients=False)]))
    assert list(sweep.history)[:3] == ["number", "epoch", "seconds"]
    assert list(sweep.history)[-1] == "verdict"
    assert sweep.history[["number", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1]]
    assert sweep.history["val/avg_acc"].tolist() == [0.2, 0.7, 0.1]
    assert sweep.history["verdict"].tolist() == ["", "finished", "outranked"]
    assert sweep.history["grad/snr"].isna().tolist() == [False, False, True]


def test_only_complete_trials_have_a_value(write_ledger, made):
    """A pruned trial's last value, which optuna keeps as its value, is of too few epochs to stand beside finished ones."""
    kinds = ["finished", "spent", "outranked", "broken", "failed", "running"]
    ledger = write_ledger([made((0.4, 0.5, 0.3), kind, "why") for kind in kinds])
    with ledger.lock():
        sweep = read(ledger)
    assert sweep.trials["verdict"].tolist() == kinds
    assert sweep.trials["value"].isna().tolist() == [False, False, True, True, True, True]
    assert sweep.trials["best_seen"].tolist() == [0.5] * 6
    assert sweep.complete["number"].tolist() == [0, 1]


def test_rejected_trials_stand_apart(write_ledger, made):
    rejected = made((), "rejected", "constraint parameters <= 10", params={"model": "vimh_mlp"})
    sweep = read(write_ledger([made((0.5,)), rejected, made((0.6,))]))
    assert sweep.trials["number"].tolist() == [0, 2]
    assert sweep.rejected[["number", "reason", "model"]].to_numpy().tolist() == [[1, "constraint parameters <= 10", "vimh_mlp"]]


def test_a_running_trial_is_measured_by_its_history(write_ledger, made):
    ledger = write_ledger([made((0.5, 0.6), "running", seconds=8.0)])
    with ledger.lock():
        row = read(ledger).trials.iloc[0]
    assert (row["verdict"], row["epochs"], row["seconds"], row["best_seen"]) == ("running", 2, 8.0, 0.6)
    assert pd.isna(row["ended"])
    assert read(ledger).trials["verdict"].tolist() == ["interrupted"]  # nobody runs the sweep


def test_retries_and_continuations_are_asked_for_on_top(write_ledger, made):
    ledger = write_ledger([made((0.5,)), made((), "failed", "ValueError: no")], target=2)
    assert read(ledger).target == 2
    ledger.study().enqueue_trial({}, user_attrs={"retries": 1})
    assert read(ledger).target == 3


def test_a_torn_last_line_is_left_out(write_ledger, made):
    ledger = write_ledger([made((0.5, 0.6))])
    with ledger.trial(0).history.open("a") as file:
        file.write("3,9.0,0.")
    sweep = read(ledger)
    assert sweep.history["epoch"].tolist() == [1, 2]
    assert sweep.problems == ()


def test_a_damaged_history_is_named_and_the_others_are_read(write_ledger, made):
    ledger = write_ledger([made((0.5,)), made((0.6,))])
    ledger.trial(0).history.write_text("epoch,seconds,val/avg_acc,verdict\n1,zero,0.5,\n")
    sweep = read(ledger)
    assert sweep.history["number"].tolist() == [1]
    assert len(sweep.problems) == 1
    assert "trials/0000/history.csv is damaged" in sweep.problems[0]


def test_a_trial_without_history_still_has_its_row(write_ledger, made):
    ledger = write_ledger([made((), "failed", "RuntimeError: no"), made((0.4, 0.5))])
    ledger.trial(1).history.unlink()
    sweep = read(ledger)
    assert sweep.history.empty
    assert sweep.trials["best_seen"].tolist()[1] == 0.5
    assert sweep.trials["epochs"].tolist() == [0, 2]


@pytest.mark.parametrize(("mode", "best", "epoch"), [("max", 0.6, 3), ("min", 0.2, 2)])
def test_best_so_far_follows_the_mode_and_passes_over_nan(write_ledger, made, mode, best, epoch):
    sweep = read(write_ledger([made((0.5, 0.2, 0.6, math.nan, 0.3))], mode=mode))
    assert sweep.trials.loc[0, ["best_seen", "best_epoch"]].tolist() == [best, epoch]
    running = sweep.curves["best"].tolist()
    assert running == ([0.5, 0.5, 0.6, 0.6, 0.6] if mode == "max" else [0.5, 0.2, 0.2, 0.2, 0.2])


def test_the_best_of_equals_is_the_earlier_trial(write_ledger, made):
    sweep = read(write_ledger([made((0.5,)), made((0.7,)), made((0.7,))], mode="max"))
    assert sweep.complete["number"].tolist() == [1, 2, 0]


def test_a_searched_parameter_named_like_a_column_keeps_both(write_ledger, made):
    sweep = read(write_ledger([made((0.5,), params={"seed": 3}, seed=3)]))
    assert sweep.searched == ["searched.seed"]
    assert sweep.trials[["seed", "searched.seed"]].iloc[0].tolist() == [3, 3]


def test_the_first_shadow_verdict_counts(write_ledger, made):
    shadow = [
        {"verdict": "broken", "reason": "late", "epoch": 5, "numbers": {}},
        {"verdict": "spent", "reason": "early", "epoch": 3, "numbers": {}},
    ]
    row = read(write_ledger([made((0.5,) * 6, shadow=shadow)])).trials.iloc[0]
    assert row[["shadow_verdict", "shadow_reason", "shadow_epoch"]].tolist() == ["spent", "early", 3]


def test_a_sweep_without_trials_has_every_column(write_ledger):
    sweep = read(write_ledger([], target=5))
    assert sweep.trials.empty
    assert {name: str(kind) for name, kind in sweep.trials.dtypes.items()} == COLUMNS
    assert list(sweep.history) == ["number", "epoch", "seconds", "verdict"]
    assert sweep.complete.empty


def test_parquet_takes_a_parameter_of_mixed_types(write_ledger, made, tmp_path):
    choices = [{"optimizer": 1}, {"optimizer": "adam"}, {}]
    sweep = read(write_ledger([made((0.5,), params=params) for params in choices]))
    for_parquet(sweep.trials).to_parquet(tmp_path / "trials.parquet")
    back = pd.read_parquet(tmp_path / "trials.parquet")
    assert back["optimizer"].fillna("gap").tolist() == ["1", "adam", "gap"]
    assert back["overrides"].iloc[0].tolist() == ["experiment=vimh", "optimizer=1", "seed=1"]


def test_a_misspelt_sweep_lists_the_near_ones(write_ledger, made, tmp_path):
    write_ledger([made((0.5,))], name="quickstart")
    with pytest.raises(LedgerError, match=r"no sweep 'quikstart' in .*Did you mean quickstart\?"):
        load("quikstart", tmp_path)


def test_a_missing_study_is_named(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    (ledger.directory / "study.db").unlink()
    with pytest.raises(LedgerError, match=r"study\.db is missing"):
        read(ledger)


def test_a_study_that_is_no_database_is_named(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    (ledger.directory / "study.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(LedgerError, match=r"study\.db cannot be opened as an SQLite database"):
        read(ledger)


def test_a_study_without_its_metric_is_refused(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    study = ledger.study()
    study._storage.set_study_user_attr(study._study_id, "mode", "max")
    from sqlalchemy import text

    with ledger.storage.engine.begin() as connection:
        connection.execute(text("DELETE FROM study_user_attributes WHERE key = 'metric'"))
    with pytest.raises(LedgerError, match=r"does not say which metric it optimises \(it has: mode\)"):
        read(ledger)


def test_a_damaged_search_space_is_named(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    ledger.space_file.write_text("search: {trials: 3\n")
    with pytest.raises(LedgerError, match=r"space\.yaml cannot be read"):
        read(ledger)


def test_what_is_read_grows_with_the_trials_and_no_faster(write_ledger, make_search, monkeypatch):
    opened = Counter()
    monkeypatch.setattr(frames, "read_history", lambda path: opened.update([path]) or read_history(path))
    asked = []

    def ask(*arguments):
        asked.append(arguments[2])

    counts = []
    for trials in (20, 60):
        ledger = write_ledger(make_search(trials), name=f"of-{trials}")
        opened.clear()
        asked.clear()
        event.listen(Engine, "before_cursor_execute", ask)
        sweep = read(ledger)
        event.remove(Engine, "before_cursor_execute", ask)
        assert len(sweep.trials) + len(sweep.rejected) == trials
        assert set(opened.values()) == {1}
        assert len(opened) <= trials
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0  # statements
