"""The command line: the help, Hydra's multirun, and the processes that Lightning launches, which share one directory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

import lhtx.train
from lhtx.compose import compose
from lhtx.train import _run


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "lhtx.train", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_a_job_s_result_is_the_optimized_metric(monkeypatch, tmp_path, capsys):
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(lhtx.train.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(lhtx.train, "train", lambda cfg: {"val/avg_acc": 0.5, "val/loss": 2.0})
    assert _run(compose([])) == 0.5
    assert _run(compose(["optimized_metric=val/loss", "optimized_mode=min"])) == 2.0
    assert f"config, checkpoints, metrics and logs: {tmp_path}" in capsys.readouterr().out


@pytest.mark.slow
def test_help_is_ours(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "hparams_search: " in done.stdout
    assert "_base" not in done.stdout
    assert "optimized_metric: val/avg_acc" in done.stdout


@pytest.mark.slow
def test_a_grid_trains_each_of_its_settings_in_a_directory_of_its_own(image_files, tmp_path):
    quick = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.enable_model_summary=false", "logger=none")
    done = run(tmp_path, "hparams_search=digits_networks", f"paths.log_dir={tmp_path}", f"paths.data_dir={image_files}", *quick)
    assert done.returncode == 0, done.stderr
    (multirun,) = (tmp_path / "digits_networks" / "multiruns").iterdir()
    jobs = sorted(path for path in multirun.iterdir() if path.is_dir())
    networks = [OmegaConf.load(job / "config.yaml").model.net._target_.rpartition(".")[2] for job in jobs]
    assert networks == ["SimpleMLP", "SimpleDenseNet", "SimpleCNN"]
    assert all("val/avg_acc" in json.loads((job / "metrics.json").read_text()) for job in jobs)


@pytest.mark.slow
def test_two_launched_processes_share_one_directory_and_one_voice(quiet, tmp_path):
    shown = ("trainer.enable_progress_bar=true", "trainer.enable_model_summary=true", "extras.print_config=true")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "task_name=pair")
    overrides = [o for o in quiet("run", *shown, *two, "logger=csv") if not o.startswith("paths.output_dir")]
    done = run(tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    for words in ("epoch 1/2", "net.conv1 ", "\nconfig\n", "test/avg_acc", "config, checkpoints, metrics and logs"):
        assert f"\n{done.stdout}".count(words) == 1, words
    (output,) = (tmp_path / "logs" / "pair" / "runs").iterdir()
    assert {"config.yaml", "config_tree.txt", "metrics.json", "checkpoints", "csv"} <= {path.name for path in output.iterdir()}
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert json.loads((output / "metrics.json").read_text()).keys() >= {"test/loss", "val/avg_acc", "grad/snr"}


@pytest.mark.parametrize("command", ["lhtx.train", "lhtx.suite"])
def test_an_interruption_while_it_imports_is_one_line(command, tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")  # what a Ctrl-C in the long import of torch raises
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-m", command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "\ninterrupted\n")


def test_the_library_leaves_the_handling_of_errors_alone():
    assert sys.excepthook.__module__ != "lhtx"
