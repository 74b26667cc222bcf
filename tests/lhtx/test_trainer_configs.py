"""The trainer group: what each option sets, which accelerator `auto` is, and that logging every n steps reaches the logger."""

import csv
import inspect
import json

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import OmegaConf

from lhtx.accelerators import choose
from lhtx.compose import CONFIGS, compose
from lhtx.errors import ConfigError
from lhtx.runs import build_trainer
from lhtx.train import train

OPTIONS = {
    "default": {},
    "cpu": {"accelerator": "cpu", "deterministic": True},
    "gpu": {"accelerator": "gpu", "precision": "bf16-mixed"},
    "mps": {"accelerator": "mps"},
    "ddp": {
        **{"accelerator": "gpu", "precision": "bf16-mixed"},
        **{"strategy": "ddp", "devices": -1, "sync_batchnorm": True},
    },
    "ddp_sim": {"accelerator": "cpu", "deterministic": True, "strategy": "ddp_spawn", "devices": 2},
}


def test_every_option_is_tested():
    assert set(OPTIONS) == {file.stem for file in (CONFIGS / "trainer").glob("*.yaml")}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_the_default_but_for_what_it_is_about(option, tmp_path):
    default, chosen = (
        OmegaConf.to_container(compose([f"trainer={name}", f"paths.output_dir={tmp_path}"]).trainer, resolve=True)
        for name in ("default", option)
    )
    assert chosen == default | OPTIONS[option]
    assert set(chosen) - {"_target_"} <= set(inspect.signature(lightning.Trainer).parameters)
    assert chosen["log_every_n_steps"] == 10
    assert chosen["use_distributed_sampler"] is False
    assert chosen["devices"] == (OPTIONS[option].get("devices", 1))


def built(*overrides: str) -> lightning.Trainer:
    return build_trainer(compose([*overrides, "callbacks=none", "logger=none"]))


@pytest.mark.parametrize(("option", "processes"), [("cpu", 1), ("ddp_sim", 2)])
def test_trainers_of_the_cpu(option, processes, tmp_path):
    trainer = built(f"trainer={option}", f"paths.output_dir={tmp_path}")
    assert isinstance(trainer.accelerator, CPUAccelerator)
    assert isinstance(trainer.strategy, DDPStrategy if processes == 2 else SingleDeviceStrategy)
    assert (trainer.world_size, trainer.num_devices) == (processes, processes)
    assert trainer.log_every_n_steps == 10
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("option", ["gpu", "mps", "ddp"])
def test_a_trainer_whose_device_is_not_there_is_refused(option):
    with pytest.raises(ConfigError, match=r"trainer: lightning\.Trainer refused its configuration: .*(gpu|MPSAccelerator)"):
        built(f"trainer={option}")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: cuda))
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: mps))
    assert choose("auto") == expected
    assert [choose(name) for name in ("cpu", "gpu", "mps")] == ["cpu", "gpu", "mps"]


def test_auto_is_what_the_trainer_gets(monkeypatch):
    monkeypatch.setattr("lhtx.runs.choose", {"auto": "cpu"}.__getitem__)
    assert isinstance(built("trainer.accelerator=auto").accelerator, CPUAccelerator)


def test_every_nth_step_reaches_the_logger_and_no_metric(quiet, tmp_path):
    options = ("logger=csv", "trainer.log_every_n_steps=3", "data.batch_size=20", "test=false")
    metrics = train(compose(quiet("run", *options)))
    (file,) = (tmp_path / "run").rglob("metrics.csv")
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    for name in ("train/loss_step", "lr", "grad/norm_mean"):
        steps = [int(row["step"]) for row in rows if row.get(name)]
        assert steps == [0, 3, 6, 9], name  # two epochs of 6 batches
    for name in ("train/loss_step", "lr"):
        assert name not in metrics
        assert name not in json.loads((tmp_path / "run" / "metrics.json").read_text())
