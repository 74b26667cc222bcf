"""The data configs: each gives the heads, the sizes and the normalisation that it says, and refuses what it does not know."""

from pathlib import Path

import pytest

from lhtx.compose import CONFIGS, build_datamodule, compose, configure
from lhtx.data.normalisation import Constants
from lhtx.errors import ConfigError

HEADS = {
    "digits": {"digit": 10},
    "mnist": {"digit": 10},
    "mnist_multihead": {"digit": 10, "thickness": 5, "smoothness": 3},
    "cifar10": {"class": 10},
    "cifar10_multihead": {"class": 10, "domain": 2, "mobility": 3, "size": 3},
    "cifar100": {"fine": 100},
    "cifar100_coarse": {"coarse": 20},
    "cifar100_multihead": {"fine": 100, "coarse": 20},
}
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}


def test_every_config_is_looked_at_here() -> None:
    options = {file.stem for file in (CONFIGS / "data").glob("*.yaml")} - {"_base"}
    assert options == {*HEADS, "vimh"}  # VIMH is the default of every other test of a run


@pytest.mark.parametrize("name", HEADS)
def test_a_config_describes_its_dataset_and_loads_it(name: str, image_files: Path) -> None:
    family = name.partition("_")[0]
    place = [] if family == "digits" else [f"data.data_dir={image_files / family}"]
    cfg = configure(compose([f"data={name}", *place]))
    assert cfg.dataset.head_sizes == HEADS[name]
    assert (cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width) == SHAPES[family]
    assert {head: len(names) for head, names in cfg.dataset.class_names.items()} == HEADS[name]
    datamodule = build_datamodule(cfg)
    datamodule.setup()
    batch = next(iter(datamodule.val_dataloader()))
    assert batch["index"].shape[1] == len(HEADS[name])
    if family != "digits":
        assert len(datamodule.split.test) == 20
        assert isinstance(datamodule.normalisation, Constants)
        mean, deviation = datamodule.normalisation.of(range(SHAPES[family][0]))
        assert ((mean > 0.1) & (mean < 0.6) & (deviation > 0.2) & (deviation < 0.4)).all()


def test_constants_and_augmentation_can_be_overridden(image_files: Path) -> None:
    base = ["data=cifar10", f"data.data_dir={image_files / 'cifar10'}"]

    def built(*overrides: str):
        return build_datamodule(compose([*base, *overrides]))

    assert built("data.normalisation=train").normalisation == "train"
    assert built("data.normalisation={mean: 0.5, std: 0.25}").normalisation == Constants(0.5, 0.25)
    assert built("data.augmentation.cutout=8").augmentation.cutout == 8
    assert built("data.augmentation=null").augmentation.flip is False
    assert built("data.mirrors=[https://a.example]").mirrors == ["https://a.example"]


def test_a_misspelt_option_is_told_all_that_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"Did you mean batch_size.* Accepted: augmentation, .*data_dir, download, first_order, heads.*mirrors"
    ):
        build_datamodule(compose(["data=mnist", "+data.batchsize=3"]))
