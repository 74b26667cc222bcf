"""What a user can get wrong in a run: each is one message that names the thing and what is accepted instead."""

import shlex
import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelSummary

from lhtx.callbacks import StepLog
from lhtx.compose import compose, describe, groups_text
from lhtx.errors import USER_ERRORS, CheckpointError, ConfigError
from lhtx.evaluate import compose_evaluation
from lhtx.runs import build_trainer
from lhtx.train import check_arguments, main, train


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory) -> Path:
    """The output directory of a run of one epoch."""
    output = tmp_path_factory.mktemp("finished")
    train(compose([*overrides_of(small_data), f"paths.output_dir={output}"]))
    return output


def overrides_of(small_data: list[str]) -> list[str]:
    silent = ("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "logger=none", "threads=1")
    small = ("model.net.conv1_channels=4", "model.net.conv2_channels=4", "model.net.fc_hidden=16")
    return [*small_data, *silent, *small, "trainer=cpu", "trainer.max_epochs=1"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["model.net._target_=lhtx.nets.SimpleCN"],
            ["model.net._target_ is 'lhtx.nets.SimpleCN'", "Did you mean SimpleCNN", "SimpleMLP"],
        ),
        (
            ["model.loss._target_=lhtx.losses.Ordnal"],
            ["model.loss._target_", "no 'Ordnal' in lhtx.losses. Did you mean Ordinal? Accepted: CrossEntropy, Direct"],
        ),
        (["model._target_=lhtx.task.MultiheadTask"], ["no 'task' in lhtx", "Did you mean tasks"]),
        (["model.optimizer._target_=torch.optim.AdamX"], ["no 'AdamX' in torch.optim", "Did you mean Adam"]),
        (["data._target_=nowhere.Images"], ["data._target_ is 'nowhere.Images'", "no module 'nowhere'"]),
        (["trainer._target_=lightning.Trainr"], ["no 'Trainr' in lightning", "Did you mean Trainer"]),
        (
            ["callbacks.last._target_=lhtx.callbacks.Last"],
            ["callbacks.last._target_", "no 'Last' in lhtx.callbacks", "StepLog"],
        ),
        (["+callbacks.mine={monitor:val/loss}"], ["callbacks.mine is", "expected a mapping with a _target_"]),
        (
            ["logger=csv", "logger.csv._target_=lhtx.loggers.CSV"],
            ["logger.csv._target_", "no 'CSV' in lhtx.loggers. Accepted: CSVLogger."],
        ),
        (
            ["~model.loss", "+model.loss={note_number:{_target_:lhtx.losses.CrossEntropy,_partial_:true}}"],
            ["loss has no entry for log10_decay_time"],
        ),
        (["model.head_weights={nope:1}"], ["head_weights names 'nope'", "note_number, log10_decay_time"]),
        (["model=vimh_vit", "model.net.patch_size=5"], ["patch_size 5 does not divide", "Accepted: 1, 2, 4"]),
        (["+trainer.overfit_batches=2"], ["trainer.overfit_batches", "use debug=overfit"]),
        (["ckpt_path=/nowhere/last.ckpt"], ["no checkpoint at /nowhere/last.ckpt"]),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_by_name(quiet, tmp_path, overrides, words):
    base = [o for o in quiet("run") if "vimh_vit" not in str(overrides) or not o.startswith("model.net")]
    with pytest.raises(USER_ERRORS) as error:
        train(compose([*base, *overrides]))
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_directory_is_no_checkpoint_and_those_in_it_are_named(quiet, finished):
    with pytest.raises(CheckpointError, match=rf"{finished} is a directory, expected a checkpoint.*best\.ckpt, .*last\.ckpt"):
        train(compose(quiet("run", f"ckpt_path={finished}")))


@pytest.mark.parametrize("mode", [["train=false"], ["trainer.max_epochs=2"]])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "data.split_seed=7",
            "data.split_seed is 7, and the run of .* was trained with 42 on the same data .vimh-.*; another split would",
        ),
        ("data.heads=[note_number]", "data.heads is .*; its network reads and predicts nothing else"),
    ],
)
def test_a_checkpoint_is_continued_and_measured_on_the_split_of_its_run(quiet, finished, override, words, mode):
    last = finished / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=words):
        train(compose(quiet("run", f"ckpt_path={last}", *mode, override)))


def test_other_data_than_the_run_s_are_measured_only_if_they_are_alike(quiet, finished, vimh_dataset):
    last = finished / "checkpoints" / "last.ckpt"
    other = (f"data.data_dir={vimh_dataset}", "data.generate=null", "train=false", f"ckpt_path={last}")
    with pytest.raises(CheckpointError, match=r"was trained with dataset\.channels = 1"):
        train(compose(quiet("run", *other)))


def test_a_checkpoint_without_its_run_s_config_is_not_measured_and_may_be_trained_on(quiet, finished, tmp_path):
    alone = tmp_path / "alone" / "last.ckpt"
    alone.parent.mkdir()
    alone.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match="the run's config does not lie beside the checkpoint"):
        train(compose(quiet("run", f"ckpt_path={alone}", "train=false")))
    with pytest.warns(UserWarning, match=r"config does not lie beside .*nobody can tell whether data\.split_seed"):
        metrics = train(compose(quiet("run", f"ckpt_path={alone}", "trainer.max_epochs=2")))
    assert "test/loss" in metrics


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What the command line says to `arguments` before it exits with status 2."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_an_output_directory_that_cannot_be_made_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "x"
    expected = f"error: paths.output_dir is {place}, and {tmp_path / 'file'} is a file; expected a directory that can be made"
    assert refused(monkeypatch, capsys, f"paths.output_dir={place}").startswith(expected)
    with pytest.raises(ConfigError, match="is a file"):
        train(compose([f"paths.output_dir={place}"]))


def test_an_evaluation_takes_no_option_of_what_its_run_decides(finished):
    checkpoint = f"ckpt_path={finished / 'checkpoints' / 'last.ckpt'}"
    for option in ("model=digits_vit", "data=mnist", "experiment=vimh"):
        with pytest.raises(ConfigError, match=f"{option}' was refused: the network and the data are those of the check"):
            compose_evaluation([checkpoint, option])
    assert compose_evaluation([checkpoint, "trainer=cpu", "logger=csv"]).trainer.accelerator == "cpu"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "data.augmentation={flipp: true}",
            "no key 'flipp' in data.augmentation. Did you mean flip? Accepted: crop_padding, cutout, flip. To put another "
            "mapping in the place of data.augmentation, delete it first: ~data.augmentation '+data.augmentation={…}'.",
        ),
        ("model.loss={note_number: {_partial_: true}}", "delete it first: ~model.loss '+model.loss={…}'"),
        ("data.generate={seed: 1, vary: {x: 1}}", "no key 'vary' in data.generate"),
    ],
)
def test_an_unknown_key_within_a_mapping_is_named(override, words):
    with pytest.raises(ConfigError) as error:
        compose([override])
    assert words in str(error.value)


def test_losses_of_heads_take_the_place_of_the_one_for_all_as_the_page_says(small_data):
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    given = page[page.index("~model.loss '") :].split("\n\n")[0]
    losses = describe([*small_data, *shlex.split(given.replace("\\\n", ""))]).config.model.loss
    assert {head: loss["_target_"] for head, loss in losses.items()} == {
        "note_number": "lhtx.losses.Ordinal",
        "log10_decay_time": "lhtx.losses.CrossEntropy",
    }


def test_a_callback_or_logger_that_is_null_is_off(quiet, tmp_path):
    cfg = compose(quiet("run", "logger=csv", "callbacks.step_log=null", "callbacks.model_summary=null", "logger.csv=null"))
    trainer = build_trainer(cfg)
    assert trainer.loggers == []
    assert not any(isinstance(callback, StepLog | ModelSummary) for callback in trainer.callbacks)
    assert describe(quiet("run", "callbacks.gradient_statistics=null")).metrics
    with pytest.raises(ConfigError, match="step_log is 5; expected a mapping with a _target_"):
        describe(quiet("run", "callbacks.step_log=5"))


def test_each_alternative_of_a_multirun_is_looked_at_before_the_first_runs(monkeypatch, capsys):
    assert "model=vimh_mpl, which there is not. Did you mean vimh_mlp" in refused(
        monkeypatch, capsys, "-m", "seed=1,2", "model=vimh_cnn,vimh_mpl"
    )
    assert "Ambiguous value" in refused(monkeypatch, capsys, "model=vimh_cnn,vimh_mlp")
    for good in (["-m", "model=vimh_cnn,vimh_mlp"], ["hparams_search=vimh_widths", "seed=range(0,3)"], ["--cfg", "job"]):
        check_arguments(good)


def test_help_lists_the_options_and_not_what_they_share():
    lines = groups_text().split("\n\n")
    assert "paths: default" in lines
    assert any(line.startswith("model: ") and "vimh_cnn" in line for line in lines)
    assert "_base" not in groups_text()
    assert "$" not in groups_text()  # Hydra's template would take it for a name
