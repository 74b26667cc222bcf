"""The table of predictions: every sample of a split once, in parameter units, and in agreement with the measured metrics."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lhtx.checkpoints import load_weights
from lhtx.compose import build_datamodule, build_task, compose, configure
from lhtx.data.dataset import open_dataset
from lhtx.data.parameters import dequantise
from lhtx.errors import CheckpointError, ConfigError
from lhtx.evaluate import compose_evaluation
from lhtx.predict import main, predict, summary
from lhtx.train import train


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """Trains a tiny network, once for each list of overrides: its directory and its metrics."""
    made: dict[tuple[str, ...], tuple[Path, dict[str, float]]] = {}

    def get(*more: str) -> tuple[Path, dict[str, float]]:
        if more not in made:
            output = tmp_path_factory.mktemp("run")
            data = [] if "data=cifar10" in more else [*small_data, "model=vimh_mlp"]
            overrides = [*data, f"paths.output_dir={output}", "debug=limit", "threads=1", *more]
            overrides += ["trainer.max_epochs=1", "trainer.limit_test_batches=null", "trainer.enable_progress_bar=false"]
            made[more] = output, train(compose(overrides))
        return made[more]

    return get


@pytest.fixture
def prediction(tmp_path):
    """Composes the prediction of a run's last checkpoint into `tmp_path`."""

    def cfg(output: Path, *more: str):
        overrides = [f"ckpt_path={output}/checkpoints/last.ckpt", f"paths.output_dir={tmp_path / 'out'}", *more]
        return compose_evaluation([*overrides, "trainer.enable_progress_bar=false"], "predict")

    return cfg


CLASSIFICATION = ("data.batch_size=7",)
REGRESSION = (
    *("experiment=vimh_normalized_regression", "model=vimh_mlp", "callbacks=checkpoints"),
    *("optimized_metric=val/avg_mae", "optimized_mode=min"),
)


def test_the_table_agrees_with_the_test_of_the_run(run, prediction, tmp_path):
    output, metrics = run(*CLASSIFICATION)
    table = predict(prediction(output))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "predictions.csv"), table, check_dtype=False, rtol=1e-6)
    heads = ("note_number", "log10_decay_time")
    suffixes = ("true", "predicted", "true_class", "predicted_class", "confidence")
    assert list(table.columns) == ["sample", *(f"{head}_{suffix}" for head in heads for suffix in suffixes)]
    for head in heads:
        right = (table[f"{head}_true_class"] == table[f"{head}_predicted_class"]).mean()
        assert right == pytest.approx(metrics[f"test/{head}_acc"], abs=1e-6)
        assert f"{right:.4f} right" in summary(table, prediction(output).dataset)


def test_rows_are_the_samples_of_the_files_in_parameter_units(run, prediction):
    output, _ = run(*CLASSIFICATION)
    cfg = prediction(output, "split=val", "data.batch_size=11")
    table = predict(cfg)
    datamodule = build_datamodule(cfg)
    datamodule.setup()
    assert table["sample"].tolist() == datamodule.split.validation.tolist()
    dataset = open_dataset(Path(cfg.data.data_dir), test=False)
    for number, (head, parameter) in enumerate(dataset.info.parameters.items()):
        if head in dataset.info.varying:
            stored = dataset.train.labels([number])[table["sample"], 0]
            expected = dequantise(stored, parameter.minimum, parameter.maximum)
            np.testing.assert_allclose(table[f"{head}_true"], expected, atol=1e-5)
            centres = parameter.minimum + table[f"{head}_predicted_class"] * parameter.step
            np.testing.assert_allclose(table[f"{head}_predicted"], centres, atol=1e-5)


def test_predictions_are_those_of_the_network(run, prediction):
    output, _ = run(*CLASSIFICATION)
    cfg = prediction(output)
    table = predict(cfg)
    cfg = configure(cfg)
    datamodule, task = build_datamodule(cfg), build_task(cfg)
    load_weights(task, cfg.ckpt_path)
    task.eval()
    datamodule.setup()
    batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.test_dataloader()]
    with torch.no_grad():
        logits = torch.cat([task(batch)["note_number"] for batch in batches])
    assert table["note_number_predicted_class"].tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(table["note_number_confidence"], logits.softmax(1).amax(1), rtol=1e-5)


def test_regression_heads_predict_between_classes_and_have_no_confidence(run, prediction, tmp_path):
    output, metrics = run(*REGRESSION)
    table = predict(prediction(output, "out=table.parquet"))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "table.parquet"), table)
    assert "note_number_confidence" not in table
    error = (table["note_number_true"] - table["note_number_predicted"]).abs().mean()
    assert error == pytest.approx(metrics["test/note_number_mae"], rel=1e-4)
    right = (table["note_number_true_class"] == table["note_number_predicted_class"]).mean()
    assert right == pytest.approx(metrics["test/note_number_acc"], abs=1e-6)
    assert (table["note_number_predicted"] % 1 != 0).any()


def test_named_classes_have_their_names_in_the_table(run, prediction, image_files):
    output, _ = run("data=cifar10", "model=cifar10_convnext_123k", f"paths.data_dir={image_files}")
    cfg = prediction(output)
    table = predict(cfg)
    (head,) = cfg.dataset.heads
    assert len(table) == 20
    names = cfg.dataset.class_names[head]
    for which in ("true", "predicted"):
        assert table[f"{head}_{which}_name"].tolist() == [names[place] for place in table[f"{head}_{which}_class"]]
    assert "mean absolute error" not in summary(table, cfg.dataset)


@pytest.mark.parametrize("options", [CLASSIFICATION, REGRESSION])
def test_outputs_that_are_no_numbers_are_no_class(run, prediction, tmp_path, options):
    output, _ = run(*options)
    broken = tmp_path / "broken"
    shutil.copytree(output, broken)
    checkpoint = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)
    for name, tensor in checkpoint["state_dict"].items():
        if name.startswith("net.") and tensor.is_floating_point():
            tensor.fill_(torch.nan)
    torch.save(checkpoint, broken / "checkpoints" / "last.ckpt")
    cfg = prediction(broken)
    table = predict(cfg)
    assert (table["note_number_predicted_class"] == -1).all()
    assert table["note_number_predicted"].isna().all()
    assert "0.0000 right, nan mean absolute error" in summary(table, cfg.dataset)


def test_what_cannot_be_predicted_is_refused(run, prediction):
    output, _ = run(*CLASSIFICATION)
    with pytest.raises(ConfigError, match=r"out is 'table\.xlsx'; expected a name that ends in \.csv or \.parquet"):
        predict(prediction(output, "out=table.xlsx"))
    with pytest.raises(ConfigError, match="split is 'train'"):
        prediction(output, "split=train")
    with pytest.raises(ConfigError, match=r"data\.split_seed is 3"):
        predict(prediction(output, "data.split_seed=3"))
    with pytest.raises(CheckpointError, match="another network"):
        predict(prediction(output, "model.net.lin1_size=9"))


def test_the_command_line_prints_a_summary(run, tmp_path, monkeypatch, capsys):
    output, metrics = run(*CLASSIFICATION)
    arguments = [f"ckpt_path={output}/checkpoints/last.ckpt", f"paths.output_dir={tmp_path}", "out=here.csv"]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, "trainer.enable_progress_bar=false"])
    main()
    printed = capsys.readouterr().out
    assert f"note_number       {metrics['test/note_number_acc']:.4f} right" in printed
    assert f"predictions: {tmp_path / 'here.csv'}" in printed
    assert json.loads((output / "metrics.json").read_text()).keys() == metrics.keys()  # the run is as it was
    monkeypatch.setattr(sys, "argv", ["predict", "split=test"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "which checkpoint?" in capsys.readouterr().err
