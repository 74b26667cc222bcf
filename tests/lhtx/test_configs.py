"""Every option of every config group builds what it names, and every experiment trains."""

import math
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from lhtx.compose import CONFIGS, build_datamodule, compose, configure, describe, instantiate
from lhtx.config_errors import options
from lhtx.runs import build_trainer
from lhtx.train import train

OPTIONS = options(CONFIGS)
LARGE = 2_000_000
"""Parameters above which an experiment's two batches take more than a second."""


def tiny(image_files: Path, *overrides: str) -> list[str]:
    """Overrides for tiny data, VIMH's made where it is missing, in one silent process of the CPU."""
    return [
        f"paths.data_dir={image_files}",
        *("logger=none", "threads=1", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
        *overrides,
    ]


def of_vimh(name: str) -> list[str]:
    return ["data.generate.size=200"] if name.startswith("vimh") else []


def test_the_groups_are_the_documented_ones():
    assert set(OPTIONS) - {"local"} == {
        *("data", "model", "trainer", "callbacks", "logger", "experiment", "hparams_search", "debug"),
        *("paths", "extras", "hydra"),
    }


@pytest.mark.parametrize("option", OPTIONS["data"])
def test_every_dataset_gives_a_batch(image_files, option):
    cfg = configure(compose(tiny(image_files, f"data={option}", *of_vimh(option), "data.batch_size=4")))
    datamodule = build_datamodule(cfg)
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["image"].shape == (4, cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width)
    assert batch["index"].shape == (4, len(cfg.dataset.heads))


@pytest.mark.parametrize("option", OPTIONS["callbacks"])
def test_every_callback_builds(option):
    cfg = compose([f"callbacks={option}"])
    assert all(isinstance(instantiate(cfg, f"callbacks.{name}"), Callback) for name in cfg.callbacks)


def test_callbacks_can_be_put_together():
    cfg = compose(["callbacks=[default,early_stopping]"])
    assert set(cfg.callbacks) == set(compose([]).callbacks) | {"early_stopping"}
    assert cfg.callbacks.early_stopping.monitor == "val/avg_acc"


def logger_option(option: str) -> object:
    """The option as a test parameter; marked slow where building it makes a database."""
    return pytest.param(option, marks=[pytest.mark.slow] if option == "mlflow" else [])


@pytest.mark.parametrize("option", [logger_option(option) for option in OPTIONS["logger"]])
def test_every_logger_builds(tmp_path, option):
    cfg = compose([f"logger={option}", f"paths.log_dir={tmp_path}"])
    loggers = [instantiate(cfg, f"logger.{name}") for name in cfg.logger or {}]
    assert all(isinstance(logger, Logger) for logger in loggers)
    assert len(loggers) == {"none": 0, "many": 2}.get(option, 1)


@pytest.mark.parametrize("option", OPTIONS["trainer"])
def test_every_trainer_builds_where_its_devices_are(monkeypatch, option):
    cuda = 2 if option in ("gpu", "ddp") else 0
    for module in ("lightning.pytorch.accelerators.cuda", "lightning.fabric.accelerators.cuda"):
        monkeypatch.setattr(f"{module}.num_cuda_devices", lambda: cuda)
    monkeypatch.setattr("lightning.fabric.accelerators.mps._get_all_available_mps_gpus", lambda: [0])
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: option == "mps"))
    trainer = build_trainer(compose([f"trainer={option}", "logger=none", "callbacks=none"]))
    assert isinstance(trainer, Trainer)
    kind = {"gpu": "CUDA", "ddp": "CUDA", "mps": "MPS"}.get(option, "CPU")
    assert type(trainer.accelerator).__name__ == f"{kind}Accelerator"
    assert trainer.num_devices == (2 if option.startswith("ddp") else 1)


@pytest.mark.parametrize("option", OPTIONS["hparams_search"])
def test_every_grid_is_of_options_that_compose_and_build(image_files, option):
    text = OmegaConf.load(CONFIGS / "hparams_search" / f"{option}.yaml")
    assert text.hydra.mode == "MULTIRUN"
    assert text.hydra.sweeper.params
    for key, values in text.hydra.sweeper.params.items():
        for value in str(values).split(","):
            override = f"{key}={value.strip()}"
            describe(tiny(image_files, f"hparams_search={option}", *of_vimh(option), override))


def experiment(name: str) -> object:
    """The experiment as a test parameter; marked slow where its network is large, by the suffix of its model's name."""
    size = re.search(r"_(\d+)m$", model_of(name))
    slow = [pytest.mark.slow] if size and int(size[1]) * 1_000_000 > LARGE else []
    return pytest.param(name, marks=slow)


def model_of(name: str) -> str:
    """The model that an experiment chooses, or the one that it is derived from."""
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    chosen = re.search(r"override /model: (\w+)", text)
    derived = re.search(r"^  - (\w+)$", text, flags=re.MULTILINE)
    return chosen[1] if chosen else model_of(derived[1]) if derived else ""


@pytest.mark.parametrize("name", [experiment(name) for name in OPTIONS["experiment"]])
def test_every_experiment_trains_two_batches(image_files, tmp_path, name):
    limits = [f"trainer.limit_{split}_batches={batches}" for split, batches in (("train", 2), ("val", 1), ("test", 1))]
    one = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "trainer.num_sanity_val_steps=0")
    epoch = ("trainer.max_epochs=1", "trainer.min_epochs=null", "model.compile=false", f"paths.output_dir={tmp_path}")
    cfg = compose(tiny(image_files, f"experiment={name}", *of_vimh(name), "data.batch_size=8", *limits, *one, *epoch))
    assert cfg.tags
    metrics = train(cfg)
    assert math.isfinite(metrics["train/loss"])
    assert metrics["grad/finite"] == 1
    assert cfg.optimized_metric in metrics
    assert "test/loss" in metrics
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_the_page_names_the_options_that_there_are():
    page = (CONFIGS.parent.parent / "docs" / "configuration.md").read_text()
    rows = [re.match(r"\| `(\w+)` \| (`.*?) \| ", line) for line in page.splitlines() if line.startswith("| ")]
    named = {row[1]: re.findall(r"`([\w*]+)`", row[2]) for row in rows if row and row[1] in {*OPTIONS, "local"}}
    assert set(named) == {*OPTIONS, "local"}
    for group, names in OPTIONS.items():
        assert [name for name in names if not any(fnmatch(name, pattern) for pattern in named[group])] == []
        assert [pattern for pattern in named[group] if not any(fnmatch(name, pattern) for name in names)] == []


def test_the_page_s_extras_and_their_defaults_are_those_of_the_config():
    page = (CONFIGS.parent.parent / "docs" / "configuration.md").read_text()
    documented = {m[1]: m[2] == "true" for m in re.finditer(r"^\| `extras\.(\w+)` \((\w+)\)", page, flags=re.MULTILINE)}
    assert documented == OmegaConf.load(CONFIGS / "extras" / "default.yaml")


def test_local_settings_win_over_an_experiment_and_not_over_a_debug_mode(monkeypatch, tmp_path):
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    (configs / "local").mkdir(exist_ok=True)
    monkeypatch.setattr("lhtx.compose.CONFIGS", configs)
    (configs / "local" / "default.yaml").unlink(missing_ok=True)
    assert compose(["experiment=vimh"]).trainer.max_epochs == 20
    text = "# @package _global_\npaths: {data_dir: /scratch}\ntrainer: {max_epochs: 7}\n"
    (configs / "local" / "default.yaml").write_text(text)
    cfg = compose(["experiment=vimh"])
    assert (cfg.trainer.max_epochs, cfg.paths.data_dir) == (7, "/scratch")
    assert cfg.data.data_dir.startswith("/scratch/vimh")
    assert compose(["experiment=vimh", "debug=limit"]).trainer.max_epochs == 3
    assert compose(["experiment=vimh", "trainer.max_epochs=9"]).trainer.max_epochs == 9
