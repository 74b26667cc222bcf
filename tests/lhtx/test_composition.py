"""Composing again: what Hydra itself would compose, from files that are merged once."""

import shutil
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lhtx import composition
from lhtx.compose import CONFIGS, compose
from lhtx.composition import composed, merge

OVERRIDES = [
    [],
    ["experiment=vimh", "model=vimh_mlp", "model.optimizer.lr=1e-3"],
    ["model.optimizer.lr=1e-3", "experiment=vimh", "seed=7", "+model.net.new={a: [1, 2]}", "++seed=8", "tags=[a,b]"],
    ["experiment=vimh", "~callbacks.gradient_statistics", "+callbacks.mine._target_=a.B", "test=false"],
    ["~experiment", "logger=csv", "trainer=cpu", "trainer.max_epochs=null", "paths.output_dir='${paths.log_dir}/x'"],
    ["debug=fdr", "data.target_width=0.5"],
    ["logger={tensorboard: null}", "seed=3"],
    ["hydra.run.dir=elsewhere", "seed=3"],
    ["+model@other=vimh_mlp", "seed=3"],
]
REFUSED = [
    ["model.nett.x=1"],
    ["experiment=vihm"],
    ["+seed=3"],
    ["seed@other=3"],
    ["seed=1,2"],
    ["seed=[1"],
    ["~model.nothing"],
    ["++model=vimh_cnn"],
    ["model=3"],
    ["model=[1]"],
    ["experiment=vimh", "trainer.max_epochs.x=3"],
]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "_merged", {})


def by_hydra(overrides: list[str]) -> str:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_yaml(hydra.compose("train", overrides=overrides))


def test_what_was_merged_before_is_not_merged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    merge(["experiment=vimh", "seed=3"], "train", CONFIGS)
    expected = by_hydra(["experiment=vimh", "seed=4"])
    monkeypatch.setattr(hydra, "compose", lambda *arguments, **options: pytest.fail("the files were merged again"))
    assert OmegaConf.to_yaml(composed(["experiment=vimh", "seed=4"], "train", CONFIGS)) == expected


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_composed_once_and_again_it_is_what_hydra_composes(overrides: list[str]) -> None:
    expected = by_hydra(overrides)
    for _ in range(2):
        cfg = composed(overrides, "train", CONFIGS)
        assert OmegaConf.to_yaml(cfg) == expected
        assert OmegaConf.is_struct(cfg)
        assert cfg._get_parent() is None
        cfg.trainer = None  # a copy: the next one is whole


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_it_is_refused_as_by_hydra(overrides: list[str]) -> None:
    with pytest.raises((HydraException, TypeError, ValueError)) as expected:
        by_hydra(overrides)
    with pytest.raises(expected.type) as found:
        composed(overrides, "train", CONFIGS)
    assert str(found.value) == str(expected.value)


def test_configs_that_differ_in_values_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = []
    compose_whole = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *given, **named: merged.append(named) or compose_whole(*given, **named))
    found = [composed(["model=vimh_mlp", f"seed={seed}"], "train", CONFIGS).seed for seed in range(4)]
    assert found == [0, 1, 2, 3]
    assert merged == [{"overrides": ["model=vimh_mlp"]}]
    composed(["model=vimh_cnn"], "train", CONFIGS)
    assert len(merged) == 2


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    directory = tmp_path / "configs"
    shutil.copytree(CONFIGS, directory)
    assert composed(["seed=3"], "train", directory).task_name == "train"
    train = directory / "train.yaml"
    train.write_text(train.read_text().replace("task_name: train", "task_name: another"))
    assert composed(["seed=3"], "train", directory).task_name == "another"
    (directory / "local").mkdir(exist_ok=True)
    (directory / "local" / "default.yaml").write_text("# @package _global_\ntask_name: local\n")
    assert composed(["seed=3"], "train", directory).task_name == "local"


def test_the_time_of_one_run_is_not_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHTX_ROOT", "/first")
    OmegaConf.register_new_resolver("lhtx.tick", iter(range(9)).__next__, use_cache=True)
    try:
        override = "paths.output_dir='${paths.root_dir}/${lhtx.tick:}'"
        assert [compose([override]).paths.output_dir for _ in range(2)] == ["/first/0", "/first/1"]
        monkeypatch.setenv("LHTX_ROOT", "/second")
        assert compose([override]).paths.output_dir == "/second/2"
    finally:
        OmegaConf.clear_resolver("lhtx.tick")
