"""Composing: every option composes, heads come from the dataset, and what does not compose is refused by name."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lhtx.compose import (
    CONFIGS,
    build_datamodule,
    build_task,
    check_network,
    compose,
    configure,
    describe,
    project_root,
    resolved,
)
from lhtx.config_errors import near, options
from lhtx.errors import ConfigError
from lhtx.train import train

ORDINAL = "model.loss._target_=lhtx.losses.Ordinal"
PLATEAU = "model.scheduler={_target_:torch.optim.lr_scheduler.ReduceLROnPlateau,_partial_:true}"
STOPPING = "+callbacks.stop={_target_:lightning.pytorch.callbacks.EarlyStopping"
OPTIONS = [(group, option) for group, names in options(CONFIGS).items() for option in names]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group, option):
    cfg = compose([f"{group}={option}"])
    assert {"data", "model", "trainer", "callbacks", "logger", "paths", "extras", "dataset"} <= set(cfg)
    assert "hydra" not in cfg


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.target_widht=1", ["data.target_widht=1", "no key 'target_widht' in data", "Did you mean target_width"]),
        ("modle=vimh_cnn", ["modle=vimh_cnn", "Did you mean model?", "experiment"]),
        ("model=vimh_cn", ["model=vimh_cn", "Did you mean vimh_cnn"]),
        ("experiment=none", ["experiment=none", "which there is not", "cifar10_cnn", "vimh,"]),
        ("model.lr=1", ["no key 'lr' in model", "The same name stands at model.optimizer.lr"]),
        ("model.net.conv3=1", ["no key 'conv3' in model.net", "conv1_channels, conv2_channels"]),
        ("seed.x=3", ["seed holds the value 42, so it has no key 'x'"]),
        ("data.batch_size=1,2", ["data.batch_size=1,2", "Ambiguous value"]),
        ("a=b=c", ["'a=b=c' cannot be read", "Expected key=value"]),
        ("+seed=3", ["+seed=3", "already at 'seed'"]),
        ("~model.depth", ["~model.depth", "no key 'depth' in model"]),
        ("data=[1,2]", ["data=[1,2]"]),
    ],
)
def test_an_override_that_does_not_compose_is_named_with_what_would(override, words):
    with pytest.raises(ConfigError) as error:
        compose(["trainer=cpu", override, "data.batch_size=32"])
    for word in words:
        assert word in str(error.value)


def test_of_two_bad_overrides_one_is_named():
    with pytest.raises(ConfigError, match=r"data\.batch_siz=3.*Did you mean batch_size"):
        compose(["data.batch_siz=3", "seeed=3"])


def test_composing_leaves_no_trace_in_hydra_s_global_state():
    from hydra.core.global_hydra import GlobalHydra

    compose([])
    assert not GlobalHydra.instance().is_initialized()


def test_near_lists_matches_and_accepted_values():
    assert near("vimh_cn", ["vimh_cnn", "other"]) == "Did you mean vimh_cnn? Accepted: other, vimh_cnn."
    assert near("xyz", ["b", "a"]) == "Accepted: a, b."
    assert near("k10", [f"k{i}" for i in range(100)]).startswith("Did you mean k10")
    assert "Accepted" not in near("k10", [f"k{i}" for i in range(100)])


def test_configure_writes_what_the_dataset_says_and_is_idempotent(small_data):
    cfg = configure(compose([*small_data, "data.target_width=1.5", "data.auxiliary_features=[decay_time]"]))
    assert cfg.dataset.head_sizes == {"note_number": 24, "log10_decay_time": 24}
    assert (cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width, cfg.dataset.features) == (1, 32, 32, 1024)
    assert (cfg.dataset.auxiliary_size, cfg.dataset.target_width) == (4, 1.5)
    assert cfg.dataset.heads.note_number == {"classes": 24, "minimum": 48.0, "maximum": 71.0, "step": 1.0}
    assert cfg.model.net.heads == cfg.dataset.head_sizes
    assert cfg.model.target_width == 1.5
    assert resolved(configure(cfg)) == resolved(cfg)


def test_the_output_directory_is_decided_when_composing(small_data):
    cfg = compose(small_data)
    assert configure(cfg).paths.output_dir == cfg.paths.output_dir
    assert compose(small_data).paths.output_dir != cfg.paths.output_dir


def test_configure_leaves_its_argument_alone(small_data):
    cfg = compose(small_data)
    configure(cfg)
    assert cfg.dataset is None


def test_a_resolved_config_gives_the_same_network(small_data):
    cfg = configure(compose([*small_data, "model=vimh_mlp"]))
    again = configure(OmegaConf.create(OmegaConf.to_yaml(resolved(cfg))))
    assert resolved(again) == resolved(cfg)
    torch.manual_seed(0)
    first = build_task(cfg).state_dict()
    torch.manual_seed(0)
    second = build_task(again).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "network", "parameters"),
    [("vimh_mlp", "SimpleMLP", 56_256), ("vimh_sdn", "SimpleDenseNet", 36_688), ("vimh_cnn", "SimpleCNN", 38_448)],
)
def test_describe_counts_parameters_and_names_metrics(small_data, model, network, parameters):
    description = describe([*small_data, f"model={model}"])
    assert description.network == network
    assert description.parameters == parameters
    task = build_task(description.config)
    assert sum(p.numel() for p in task.net.parameters()) == parameters
    assert {"val/avg_acc", "val/loss", "train/loss", "test/note_number_acc", "grad/snr", "grad/finite"} <= set(
        description.metrics
    )
    assert not [name for name in describe([*small_data, "callbacks=none"]).metrics if name.startswith("grad/")]


def test_describe_allocates_no_weights(small_data, monkeypatch):
    built = []
    monkeypatch.setattr("lhtx.compose.build_task", lambda cfg: built.append(build_task(cfg)) or built[0])
    describe(small_data)
    assert {parameter.device.type for parameter in built[0].parameters()} == {"meta"}


def test_auxiliary_branch_grows_with_its_option(small_data):
    features = "data.auxiliary_features=[decay_time]"
    plain, small, large = (
        describe([*small_data, *more]).parameters
        for more in ([], [features, "model.net.auxiliary_hidden_size=8"], [features, "model.net.auxiliary_hidden_size=32"])
    )
    # Linear(4, h), Linear(h, h) and h more inputs for each of 48 outputs.
    assert [small - plain, large - plain] == [h * 5 + h * (h + 1) + 48 * h for h in (8, 32)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimized_metric=val/acccuracy"], ["optimized_metric is 'val/acccuracy'", "never logs", "val/avg_acc"]),
        (["callbacks.best.monitor=val/los"], ["callbacks.best.monitor is 'val/los'", "Did you mean val/loss"]),
        (["callbacks=none", "optimized_metric=grad/snr"], ["optimized_metric is 'grad/snr'"]),
        (["optimized_metric=val/loss"], ["'val/loss' and optimized_mode is 'max'", "set optimized_mode=min"]),
        (["optimized_metric=train/loss"], ["set optimized_mode=min"]),
        (["optimized_mode=min"], ["'val/avg_acc' and optimized_mode is 'min'", "set optimized_mode=max"]),
        (["optimized_metric=val/note_number_acc", "optimized_mode=min"], ["set optimized_mode=max"]),
        ([ORDINAL, "optimized_metric=val/note_number_mae"], ["set optimized_mode=min"]),
        ([ORDINAL, "optimized_metric=val/mae_best"], ["set optimized_mode=min"]),
        ([ORDINAL, "optimized_metric=val/avg_mae"], ["set optimized_mode=min"]),
        ([f"{STOPPING},monitor:val/avg_acc}}"], ["callbacks.stop.mode is 'min'", "set callbacks.stop.mode=max"]),
        (["optimized_metric=test/loss"], ["optimized_metric is 'test/loss'", "after its last epoch only"]),
        (["trainer.limit_val_batches=0"], ["trainer.limit_val_batches is 0"]),
        (["trainer.check_val_every_n_epoch=21"], ["trainer.check_val_every_n_epoch is 21, more than the 20"]),
        ([PLATEAU, "trainer.check_val_every_n_epoch=2"], ["ReduceLROnPlateau", "trainer.check_val_every_n_epoch is 2"]),
        ([PLATEAU, "trainer.limit_val_batches=0", "optimized_metric=grad/snr"], ["ReduceLROnPlateau", "is 0"]),
        (["data.generate=null"], ["data.data_dir is", "data.generate.size", "Set data.data_dir"]),
        (["+model.net.depth=3"], ["model.net", "lhtx.nets.SimpleCNN", "depth", "Accepted: ", "fc_hidden"]),
        (["model.net._target_=lhtx.nets.SimpleCN"], ["model.net", "lhtx.nets.SimpleCN"]),
        (["model.net.dropout=2"], ["dropout", "2"]),
        (["data.batch_size=0"], ["batch_size is 0"]),
        (["data.heads=[note_numbr]"], ["note_numbr", "Did you mean note_number"]),
        (["+model.net.extra=${nowhere}"], ["nowhere"]),
        (["model.optimizer.lr=-1"], ["model.optimizer", "Invalid learning rate: -1"]),
        (["+model.optimizer.momentum=0.9"], ["model.optimizer", "torch.optim.AdamW", "momentum", "lr, "]),
    ],
)
def test_what_composes_but_cannot_be_built_is_refused_by_key(small_data, overrides, words):
    with pytest.raises(ConfigError) as error:
        describe([*small_data, *overrides])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimized_metric=val/loss", "optimized_mode=min"],
        ["optimized_metric=val/acc_best"],
        ["optimized_metric=grad/snr"],
        ["optimized_metric=grad/snr", "optimized_mode=min"],
        ["optimized_metric=null", "trainer.limit_val_batches=0"],
        ["train=false", "trainer.limit_val_batches=0"],
        ["trainer.check_val_every_n_epoch=20"],
        [f"{STOPPING},monitor:val/loss}}"],
        [PLATEAU],
    ],
)
def test_what_can_be_optimized_is_not_refused(small_data, overrides):
    metrics = describe([*small_data, *overrides]).metrics
    assert "test/loss" in metrics


def test_what_cannot_be_monitored_is_not_offered(small_data):
    with pytest.raises(ConfigError, match=r"Accepted: .*val/loss") as error:
        describe([*small_data, "optimized_metric=test/avg_acc"])
    assert "test/" not in str(error.value).partition("Accepted: ")[2]


@pytest.mark.parametrize(
    ("override", "key"),
    [("paths.log_dir=${nowhere}", "paths.log_dir"), ("+model.net.extra=${nowhere.at_all}", "model.net.extra")],
)
def test_a_reference_to_nothing_is_refused_where_it_stands(small_data, override, key):
    with pytest.raises(ConfigError, match=rf"^{key} is '\$\{{nowhere.*cannot be resolved.*Set {key}"):
        describe([*small_data, override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["digits_mlp", "model.net.input_size=100"], ["SimpleMLP", "images of 1×8×8", "input_size=100", "64 numbers"]),
        (["digits_cnn", "model.net.input_channels=3"], ["SimpleCNN", "images of 1×8×8", "(B, 3, H, W)"]),
        (["digits_vit", "model.net.image_size=16"], ["VisionTransformer", "images of 1×8×8", "16"]),
        (["digits_sdn", "model.net.input_size=100"], ["SimpleDenseNet", "images of 1×8×8", "64 numbers"]),
        (["digits_cnn", "model.net.auxiliary_input_size=2"], ["SimpleCNN", "auxiliary"]),
    ],
)
def test_a_network_that_does_not_take_the_data_is_refused_before_anything_is_made(tmp_path, overrides, words):
    overrides = ["data=digits", f"model={overrides[0]}", *overrides[1:], f"paths.output_dir={tmp_path / 'run'}"]
    for refused in (describe, lambda overrides: train(compose(overrides))):
        with pytest.raises(ConfigError) as info:
            refused(overrides)
        assert str(info.value).startswith("model.net: lhtx.nets.")
        for word in [*words, "the dataset digits gives", "leave the sizes under model.net to its config"]:
            assert word in str(info.value)
    assert not (tmp_path / "run").exists()


class Reads(nn.Module):
    """A network that looks at the numbers in an image, which nothing but a real one has."""

    auxiliary_input_size = 0

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.drop(image * image.max().item())


def test_checking_a_network_leaves_it_as_it_was_and_admits_what_only_real_images_can_tell():
    cfg = configure(compose(["data=digits", "model=digits_efficientnet"]))
    task = build_task(cfg)
    task.net.heads.eval()
    modes = [module.training for module in task.modules()]
    state, generator = {name: value.clone() for name, value in task.state_dict().items()}, torch.get_rng_state()
    check_network(cfg, task)
    assert [module.training for module in task.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    task.net = Reads()
    check_network(cfg, task)
    assert task.net.drop.training


def test_a_task_needs_a_configured_config():
    with pytest.raises(ConfigError, match="configure"):
        build_task(compose([]))


def test_datamodule_reads_nothing_before_it_is_asked(tmp_path):
    datamodule = build_datamodule(compose([f"data.data_dir={tmp_path / 'absent'}"]))
    assert type(datamodule).__name__ == "VIMHDataModule"
    assert not (tmp_path / "absent").exists()


def test_project_root_is_the_checkout_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (tmp_path.__class__(project_root()) / "pyproject.toml").is_file()
    monkeypatch.setenv("LHTX_ROOT", str(tmp_path))
    assert compose([]).paths.data_dir == f"{tmp_path}/data"
