"""Training runs: what they leave behind, bit-identical repetition and resuming, the debug modes, the command line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from omegaconf import OmegaConf

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from lhtx.errors import CheckpointError, ConfigError
from lhtx.runs import table
from lhtx.train import main, train


def weights(directory: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_checkpoint(directory / "checkpoints" / f"{name}.ckpt")["state_dict"]


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_same_metrics(a: dict[str, float], b: dict[str, float]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name] and not (math.isnan(a[name]) and math.isnan(b[name]))] == []


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """One run of three epochs with dropout, soft targets and gradient clipping."""
    output = tmp_path_factory.mktemp("finished")
    return output, train(compose(long_run(small_data, output)))


def long_run(small_data: list[str], output: Path, *more: str) -> list[str]:
    return [
        *small_data,
        f"paths.output_dir={output}",
        *("experiment=vimh", "trainer=cpu", "logger=none", "threads=1", "trainer.max_epochs=3"),
        *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
        *("model.net.conv1_channels=4", "model.net.conv2_channels=4", "model.net.fc_hidden=16", "model.net.dropout=0.3"),
        "model.scheduler={_target_:torch.optim.lr_scheduler.ReduceLROnPlateau,_partial_:true,patience:0,threshold:0.1}",
        *more,
    ]


def test_a_run_leaves_config_metrics_and_checkpoints(finished):
    output, metrics = finished
    assert sorted(path.name for path in output.iterdir()) == ["checkpoints", "config.yaml", "metrics.json"]
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    config = OmegaConf.load(output / "config.yaml")
    assert config.dataset.head_sizes == {"note_number": 24, "log10_decay_time": 24}
    assert "${" not in (output / "config.yaml").read_text()
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert {"test/avg_acc", "val/avg_acc", "train/loss", "grad/evidence", "grad/finite"} <= metrics.keys()


def test_two_runs_give_the_same_bits(finished, small_data, tmp_path):
    output, metrics = finished
    torch.rand(3)  # what was drawn before must not matter
    assert_same_metrics(train(compose(long_run(small_data, tmp_path))), metrics)
    assert_same_bits(weights(tmp_path), weights(output))


def test_another_seed_gives_another_network(finished, small_data, tmp_path):
    train(compose(long_run(small_data, tmp_path, "seed=43", "trainer.max_epochs=1", "test=false")))
    assert not torch.equal(weights(tmp_path)["net.hidden.weight"], weights(finished[0])["net.hidden.weight"])


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(finished, small_data, tmp_path, stop_after):
    class Crash(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == stop_after and batch_idx == 1:
                raise RuntimeError("the machine went down")

    output, metrics = finished
    with pytest.raises(RuntimeError, match="the machine went down"):
        train(compose(long_run(small_data, tmp_path)), callbacks=[Crash()])
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert load_checkpoint(last)["epoch"] == stop_after - 1
    assert_same_metrics(train(compose(long_run(small_data, tmp_path, f"ckpt_path={last}"))), metrics)
    assert_same_bits(weights(tmp_path), weights(output))
    assert_same_bits(weights(tmp_path, "best"), weights(output, "best"))
    whole, resumed = load_checkpoint(output / "checkpoints" / "last.ckpt"), load_checkpoint(last)
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    assert whole["lr_schedulers"][0]["_last_lr"][0] < 1e-3  # the schedule did something
    for position, state in whole["optimizer_states"][0]["state"].items():
        assert_same_bits(resumed["optimizer_states"][0]["state"][position], state)


def test_a_resumed_run_in_double_precision_loses_none_of_it(small_data, tmp_path):
    def run(name: str, *more: str) -> Path:
        train(compose(long_run(small_data, tmp_path / name, "trainer.precision=64-true", "test=false", *more)))
        return tmp_path / name

    whole, parts = run("whole", "trainer.max_epochs=2"), run("parts", "trainer.max_epochs=1")
    run("parts", "trainer.max_epochs=2", f"ckpt_path={parts / 'checkpoints' / 'last.ckpt'}")
    assert weights(whole)["net.hidden.weight"].dtype == torch.float64
    assert_same_bits(weights(parts), weights(whole))


def test_resuming_a_finished_run_only_tests_it(finished, small_data):
    output, metrics = finished
    last = output / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    again = train(compose(long_run(small_data, output, f"ckpt_path={last}")))
    assert_same_metrics(again, metrics)
    assert last.read_bytes() == before


def test_a_run_that_goes_on_with_other_data_normalises_them_as_before(finished, small_data, tmp_path):
    output, _ = finished
    last, other = output / "checkpoints" / "last.ckpt", (f"data.data_dir={tmp_path / 'noisy'}", "data.generate.noise=0.3")
    options = ("trainer.max_epochs=4", "test=false", f"ckpt_path={last}")
    train(compose(long_run(small_data, tmp_path / "on", *other, *options)))
    files = (last, tmp_path / "on" / "checkpoints" / "last.ckpt")
    before, after = (load_checkpoint(file)["VIMHDataModule"]["input_constants"] for file in files)
    assert list(before) == ["mean", "deviation"]
    assert_same_bits(before, after)


def test_a_checkpoint_of_another_network_is_refused(finished, quiet):
    last = finished[0] / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"net\.conv1\.weight is of shape \(4, 1, 3, 3\) .* \(8, 1, 3, 3\)"):
        train(compose(quiet("other", "model.net.conv1_channels=8", f"ckpt_path={last}")))


def test_monitoring_callbacks_see_the_whole_epoch_before_last_is_written(quiet, tmp_path):
    seen = []

    class Report(Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            last = tmp_path / "run" / "checkpoints" / "last.ckpt"
            epoch = load_checkpoint(last)["epoch"] if last.exists() else None
            seen.append((epoch, set(trainer.callback_metrics)))

    train(compose(quiet("run")), callbacks=[Report()])
    assert [epoch for epoch, _ in seen] == [None, 0]
    for _, names in seen:
        assert {"train/loss", "val/loss", "val/avg_acc", "grad/snr", "grad/norm_max"} <= names


def test_what_training_raises_propagates(quiet):
    class Fault(Callback):
        def on_train_batch_end(self, *arguments):
            raise ZeroDivisionError("in the training step")

    with pytest.raises(ZeroDivisionError, match="in the training step"):
        train(compose(quiet("run")), callbacks=[Fault()])


def test_an_interrupt_stays_an_interrupt(quiet):
    class Interrupt(Callback):
        def on_train_batch_end(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(compose(quiet("run")), callbacks=[Interrupt()])


def test_a_metric_that_is_never_logged_is_refused_before_training(quiet, tmp_path):
    with pytest.raises(ConfigError, match=r"optimized_metric is 'val/accuracy'.*val/avg_acc"):
        train(compose(quiet("run", "optimized_metric=val/accuracy")))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_optimized_metric_lost_with_validation_is_an_error(quiet):
    endless = (
        "trainer.max_epochs=-1",
        "trainer.max_steps=3",
        "trainer.check_val_every_n_epoch=5",
    )  # how long it takes is not known
    with pytest.raises(ConfigError, match=r"optimized_metric is 'val/avg_acc', which this run did not log"):
        train(compose(quiet("run", *endless)))


@pytest.mark.parametrize("override", ["trainer.limit_val_batches=0", "trainer.check_val_every_n_epoch=5"])
def test_a_run_that_never_validates_is_refused_before_training(quiet, tmp_path, override):
    with pytest.raises(
        ConfigError, match=f"optimized_metric is 'val/avg_acc', and {override.split('=')[0]} is .* never validates"
    ):
        train(compose(quiet("run", override)))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("mode", ["trainer.fast_dev_run=true", "optimized_metric=train/avg_acc"])
def test_a_run_that_needs_no_validation_trains_without(quiet, mode):
    assert "train/loss" in train(compose(quiet("run", "trainer.limit_val_batches=0", "trainer.max_epochs=1", mode)))


def test_test_without_training_measures_the_given_checkpoint(finished, small_data, tmp_path):
    output, metrics = finished
    best = output / "checkpoints" / "best.ckpt"
    measured = train(compose(long_run(small_data, tmp_path, f"ckpt_path={best}", "train=false")))
    assert measured == {name: value for name, value in metrics.items() if name.startswith("test/")}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train=false"], "train=false leaves nothing to do"),
        (["threads=0"], "threads is 0, expected 1 or more"),
        (["optimized_mode=maxx"], "callbacks.best: .*ModelCheckpoint refused its configuration"),
        (["trainer.accelerator=abacus"], "trainer: lightning.Trainer refused its configuration"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_key(quiet, overrides, words):
    with pytest.raises(ConfigError, match=words):
        train(compose(quiet("run", *overrides)))


def test_threads_are_what_the_config_says(quiet):
    train(compose(quiet("run", "trainer.max_epochs=1", "test=false")))
    assert torch.get_num_threads() == 1


def test_one_loss_for_each_head_and_checkpoints_that_are_switched_off(quiet, tmp_path):
    losses = {"note_number": "Ordinal", "log10_decay_time": "CrossEntropy"}
    loss = ",".join(f"{head}:{{_target_:lhtx.losses.{name},_partial_:true}}" for head, name in losses.items())
    cfg = compose(quiet("run", "~model.loss", f"+model.loss={{{loss}}}", "trainer.enable_checkpointing=false"))
    assert 0 <= train(cfg)["test/avg_acc"] <= 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("model", ["vimh_mlp", "vimh_sdn"])
def test_the_other_models_train(small_data, tmp_path, model):
    overrides = [*small_data, f"paths.output_dir={tmp_path}", f"model={model}", "debug=limit", "threads=1"]
    metrics = train(compose([*overrides, "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]))
    assert 0 <= metrics["test/avg_acc"] <= 1


def test_the_auxiliary_branch_trains(quiet):
    cfg = compose(quiet("run", "data.auxiliary_features=[decay_time]", "model.net.auxiliary_hidden_size=8"))
    assert math.isfinite(train(cfg)["test/loss"])


@pytest.mark.parametrize("mode", ["default", "fdr", "limit", "overfit", "profiler"])
def test_debug_modes_run(small_data, tmp_path, mode):
    epochs = []

    class Count(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            epochs.append(trainer.num_training_batches)

    silent = ("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "threads=1")
    options = (f"paths.log_dir={tmp_path}", "experiment=vimh", f"debug={mode}", "data.batch_size=16")
    cfg = compose([*small_data, *silent, *options])
    metrics = train(cfg, callbacks=[Count()])
    output = Path(cfg.paths.output_dir)
    assert output.parent == tmp_path / "debug" / "runs"
    assert math.isfinite(metrics["train/loss"])
    assert math.isfinite(metrics["test/loss"])
    expected = {"default": [7], "fdr": [1], "limit": [4] * 3, "overfit": [1] * 100, "profiler": [7]}[mode]
    assert epochs == expected
    assert (output / "checkpoints" / "best.ckpt").exists() == (mode != "fdr")
    if mode == "profiler":
        assert "run_training_epoch" in (output / "fit-profile.txt").read_text()


@pytest.mark.parametrize("model", ["vimh_cnn", "vimh_mlp", "vimh_sdn"])
def test_every_model_learns_a_few_samples_by_heart(small_data, tmp_path, model):
    silent = ("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "threads=1", "callbacks=none")
    options = ("experiment=vimh", f"model={model}", "debug=overfit", "test=false", "data.generate.size=1200")
    cfg = compose([*small_data, f"paths.log_dir={tmp_path}", *options, *silent])
    assert (cfg.data.target_width, cfg.data.use_random_split) == (0, True)
    assert set(cfg.callbacks) == {"without_dropout"}
    assert train(cfg)["train/avg_acc"] > 0.9  # 60 samples, 24 classes


def test_without_a_configured_checkpoint_none_is_written(quiet, tmp_path):
    train(compose(quiet("run", "callbacks=none", "trainer.max_epochs=1")))
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_watching_callback_goes_with_checkpoints_switched_off(quiet, tmp_path):
    train(compose(quiet("run", "trainer.enable_checkpointing=false", "trainer.max_epochs=1")), callbacks=[Checkpoint()])
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_the_lowest_loss_is_the_best_epoch(quiet, tmp_path):
    losses = []

    class Losses(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["val/loss"]))

    options = (
        "optimized_metric=val/loss",
        "optimized_mode=min",
        "model.optimizer.lr=0.1",
        "trainer.max_epochs=4",
        "test=false",
    )
    train(compose(quiet("run", *options)), callbacks=[Losses()])
    assert losses.index(min(losses)) != losses.index(max(losses))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["epoch"] == losses.index(min(losses))


def test_table_puts_the_test_first_and_aligns():
    lines = table({"train/loss": 1.0, "val/avg_acc": 0.5, "test/avg_acc": 0.25}).splitlines()
    assert lines == ["  test/avg_acc  0.25", "", "  val/avg_acc   0.5", "", "  train/loss    1"]


def run_module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "lhtx.train", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_the_command_line_trains_and_says_where_the_outputs_are(quiet, tmp_path):
    done = run_module(*quiet("run", "trainer.max_epochs=1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test/avg_acc" in done.stdout
    assert done.stdout.rstrip().endswith(f"config, checkpoints, metrics and logs: {tmp_path / 'run'}")
    assert (tmp_path / "run" / "metrics.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_the_command_line_refuses_a_missing_dataset_with_status_2(tmp_path):
    overrides = [f"paths.output_dir={tmp_path / 'run'}", "data.data_dir=/nowhere/vimh", "data.generate=null"]
    done = run_module(*overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no dataset at /nowhere/vimh")
    assert "Traceback" not in done.stderr


def test_the_command_line_refuses_a_misspelt_override_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "data.target_widht=1"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Did you mean target_width" in capsys.readouterr().err
