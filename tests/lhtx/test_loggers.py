"""Loggers: what each leaves behind, what a resumed run adds to it, and what is said where one is not installed."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lhtx.compose import compose, configure, instantiate
from lhtx.errors import ConfigError
from lhtx.loggers import CSVLogger
from lhtx.runs import log_hyperparameters
from lhtx.train import train


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "csv" / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def as_set(table: list[dict[str, str]]) -> set[tuple[tuple[str, str], ...]]:
    return {tuple(sorted(row.items())) for row in table}


@pytest.mark.parametrize(
    ("logger", "names"), [("tensorboard", ["tensorboard"]), ("csv", ["csv"]), ("many", ["csv", "tensorboard"])]
)
def test_loggers_write_into_the_run(quiet, tmp_path, logger, names):
    train(compose(quiet("run", f"logger={logger}", "trainer.max_epochs=1")))
    for name in names:
        files = [path.name for path in (tmp_path / "run" / name).iterdir()]
        assert any(file.startswith("events.out") for file in files) or "metrics.csv" in files
        assert "hparams.yaml" in files
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        ["checkpoints", "config.yaml", "metrics.json", *names]
    )


def test_loggers_can_be_put_together(quiet, tmp_path):
    train(compose(quiet("run", "logger=[csv,tensorboard]", "trainer.max_epochs=1")))
    assert {"csv", "tensorboard"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_resumed_run_goes_on_with_its_table(quiet, tmp_path):
    class Crash(Callback):
        def on_train_end(self, trainer, pl_module):
            raise RuntimeError("the machine went down")

    class CrashInside(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise RuntimeError("the machine went down")

    options = ("logger=csv", "trainer.max_epochs=3", "trainer.log_every_n_steps=1")
    train(compose(quiet("whole", *options)))
    whole = rows(tmp_path / "whole")
    assert [row["val/loss"] for row in whole if "val/loss" in row]
    for name, crash in (("end", Crash()), ("inside", CrashInside())):
        with pytest.raises(RuntimeError, match="went down"):
            train(compose(quiet(name, *options)), callbacks=[crash])
        train(compose(quiet(name, *options, f"ckpt_path={tmp_path / name / 'checkpoints' / 'last.ckpt'}")))
        assert as_set(rows(tmp_path / name)) == as_set(whole)
        assert len(rows(tmp_path / name)) == len(whole)


def test_a_new_run_in_the_same_place_begins_its_table_anew(tmp_path):
    for value in (1.0, 2.0):
        logger = CSVLogger(tmp_path, name="csv", version="")
        logger.log_metrics({"val/loss": value}, step=3)
        logger.save()
    assert rows(tmp_path) == [{"val/loss": "2.0", "step": "3"}]


def test_a_table_is_resumed_before_a_step_and_takes_new_columns(tmp_path):
    first = CSVLogger(tmp_path, name="csv", version="")
    for step in range(4):
        first.log_metrics({"val/loss": float(step)}, step=step)
    first.save()
    second = CSVLogger(tmp_path, name="csv", version="")
    second.resume_from(2)
    second.log_metrics({"val/loss": 20.0, "new": 1.0}, step=2)
    second.save()
    assert rows(tmp_path) == [
        {"val/loss": "0.0", "step": "0"},
        {"val/loss": "1.0", "step": "1"},
        {"new": "1.0", "step": "2", "val/loss": "20.0"},
    ]


@pytest.mark.parametrize("place", ["in a row", "in the last field", "in the header"])
def test_a_table_is_resumed_without_the_row_that_a_crash_cut_off(tmp_path, place):
    first = CSVLogger(tmp_path, name="csv", version="")
    for step in range(3):
        first.log_metrics({"a": step + 0.25, "b": step + 0.75}, step=step)
    first.save()
    file = tmp_path / "csv" / "metrics.csv"
    text = file.read_text()
    assert text.splitlines() == ["a,b,step", "0.25,0.75,0", "1.25,1.75,1", "2.25,2.75,2"]
    cut = {"in a row": text.index("2.75") - 2, "in the last field": text.rindex("2") + 1, "in the header": 3}[place]
    file.write_text(text[:cut])
    second = CSVLogger(tmp_path, name="csv", version="")
    second.resume_from(3)
    second.log_metrics({"a": 9.0, "b": 9.5}, step=3)
    second.save()
    kept = [] if place == "in the header" else [{"a": f"{n}.25", "b": f"{n}.75", "step": str(n)} for n in range(2)]
    assert rows(tmp_path) == [*kept, {"a": "9.0", "b": "9.5", "step": "3"}]


@pytest.mark.parametrize(("logger", "module"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_logger_that_is_not_installed_says_what_to_install(monkeypatch, quiet, logger, module):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{module}._{module.upper()}_AVAILABLE", Missing())
    with pytest.raises(ConfigError, match=rf"logger\.{logger}: .* needs a package .*pip install 'lhtx-sweeps\[{logger}\]'"):
        instantiate(compose([f"logger={logger}"]), f"logger.{logger}")


class Missing:
    """Stands for a package that is not there."""

    def __bool__(self) -> bool:
        return False


def test_no_logger_s_config_holds_a_secret():
    from lhtx.compose import CONFIGS

    for file in (CONFIGS / "logger").glob("*.yaml"):
        code = [line.partition("#")[0] for line in file.read_text().splitlines()]
        assert not [line for line in code if any(word in line.lower() for word in ("api_key", "password", "token"))]


@pytest.mark.slow
def test_wandb_logs_offline_each_run_its_own(quiet, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("first", "second"):
        train(compose(quiet(name, "logger=wandb", "logger.wandb.offline=true", "trainer.max_epochs=1")))
        (run,) = (tmp_path / name / "wandb").glob("offline-run-*")
        assert any(file.suffix == ".wandb" and file.stat().st_size > 0 for file in run.iterdir())
    assert sys.modules["wandb"].run is None


@pytest.mark.slow
def test_mlflow_logs_to_a_local_store(quiet, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    metrics = train(compose(quiet("run", "logger=mlflow", "task_name=try", "trainer.max_epochs=1")))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/logs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("try").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/loss"] == pytest.approx(metrics["val/loss"])
    assert run.data.params["seed"] == "42"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("WandbLogger", "wandb", "No API key configured. It needs WANDB_API_KEY in the environment"),
        ("MLFlowLogger", "mlflow", "No API key configured. MLFLOW_TRACKING_URI"),
    ],
)
def test_a_service_out_of_reach_is_one_message(kind, name, words):
    def refuse(self):
        raise RuntimeError("No API key configured.\nlong story")

    logger = type(kind, (), {"experiment": property(refuse)})()
    task = type("Task", (), {"net": torch.nn.Linear(1, 1)})()
    with pytest.raises(ConfigError, match=rf"^logger={name} cannot begin: {words}") as error:
        log_hyperparameters(configure(compose([f"logger={name}", "data=digits", "model=digits_mlp"])), task, [logger])
    assert "\n" not in str(error.value)


def test_hyperparameters_say_which_data_it_was_and_not_where_anything_lies(tmp_path, vimh_dataset):
    told = []
    logger = SimpleNamespace(experiment=None, log_hyperparams=told.append)
    data = ["model=vimh_mlp", f"data.data_dir={vimh_dataset}", "data.generate=null"]
    cfg = configure(compose(["experiment=vimh", *data, f"paths.output_dir={tmp_path}"]))
    log_hyperparameters(cfg, SimpleNamespace(net=torch.nn.Linear(3, 1)), [logger])
    assert (told[0]["parameters"], told[0]["data"]["data_dir"]) == (4, vimh_dataset.name)
    assert told[0]["trainer"]["max_epochs"] == cfg.trainer.max_epochs
    assert not any(str(place) in str(told[0]) for place in (tmp_path, vimh_dataset))
