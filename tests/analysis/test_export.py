"""Trials and histories as tables that other tools read back to the same values."""

from __future__ import annotations

import shlex

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.load import load


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_hold_what_was_loaded(write_ledger, make_search, tmp_path, form):
    ledger = write_ledger(make_search(6))
    out = tmp_path / "a b"
    result = CliRunner().invoke(app, ["export", "demo", "--format", form, "--out", str(out), "--root", str(ledger.root)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [str(out / f"{name}.{form}") for name in ("trials", "configurations", "history")]
    sweep = load("demo", ledger.root)
    read = pd.read_csv if form == "csv" else pd.read_parquet
    trials, history = read(out / f"trials.{form}"), read(out / f"history.{form}")
    assert list(trials) == list(sweep.trials)
    for column in ("number", "value", "epochs", "seconds"):
        assert trials[column].tolist() == pytest.approx(sweep.trials[column].tolist(), nan_ok=True)
    assert history["train/loss"].tolist() == sweep.history["train/loss"].tolist()
    overrides = [shlex.split(text) for text in trials["overrides"]] if form == "csv" else [list(x) for x in trials["overrides"]]
    assert overrides == sweep.trials["overrides"].tolist()


def test_without_a_place_they_lie_in_the_sweep_s_own_directory(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    assert CliRunner().invoke(app, ["export", "demo", "--root", str(ledger.root)]).exit_code == 0
    assert {path.name for path in ledger.export_directory.iterdir()} == {"trials.csv", "configurations.csv", "history.csv"}


def test_a_place_that_cannot_be_written_is_named(write_ledger, made, tmp_path):
    ledger = write_ledger([made((0.5,))])
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "below")
    result = CliRunner().invoke(app, ["export", "demo", "--out", out, "--root", str(ledger.root)])
    assert result.exit_code == 2
    assert "below cannot be written (Not a directory)" in result.output.replace("\n", "")
