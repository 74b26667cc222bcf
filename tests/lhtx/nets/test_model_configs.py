"""Every model config builds, has the size that its name says and the page on networks states, and reads the dataset's node."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lhtx.compose import CONFIGS, instantiate

PAGE = Path(__file__).resolve().parents[3] / "docs" / "networks.md"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml") if not path.stem.startswith("_"))
DIGITS, CLASSES, MANY, NOTES = {"digit": 10}, {"class": 10}, {"class": 100}, {"note_number": 24, "log10_decay_time": 24}
DATASETS: dict[str, tuple[tuple[int, int, int], dict[str, int]]] = {
    "mnist_multihead": ((1, 28, 28), {"digit": 10, "thickness": 5, "smoothness": 3}),
    "mnist": ((1, 28, 28), DIGITS),
    "cifar10_multihead": ((3, 32, 32), {"class": 10, "domain": 2, "mobility": 3, "size": 3}),
    "cifar100": ((3, 32, 32), MANY),
    "cifar10": ((3, 32, 32), CLASSES),
    "digits": ((1, 8, 8), DIGITS),
    "vimh": ((1, 32, 32), NOTES),
}
"""Beginning of a model's name → images (C, H, W) and heads of the dataset that it is made for."""
PARAMETERS = {
    "mnist_sdn_8k": 8_470,
    "mnist_sdn_68k": 67_978,
    "mnist_mlp_67k": 67_466,
    "mnist_cnn_8k": 7_851,
    "mnist_cnn_69k": 68_994,
    "mnist_cnn_422k": 421_834,
    "mnist_multihead_cnn_423k": 422_866,
    "mnist_convnext_18k": 18_002,
    "mnist_convnext_73k": 73_402,
    "mnist_convnext_288k": 288_118,
    "mnist_convnext_725k": 724_938,
    "mnist_efficientnet_66k": 66_016,
    "mnist_efficientnet_7m": 7_155_082,
    "mnist_vit_38k": 37_770,
    "mnist_vit_210k": 210_058,
    "mnist_vit_822k": 821_514,
    "cifar10_cnn_1m": 1_130_250,
    "cifar10_multihead_cnn_1m": 1_134_354,
    "cifar10_convnext_123k": 122_898,
    "cifar10_convnext_309k": 309_238,
    "cifar10_convnext_288k": 288_214,
    "cifar10_efficientnet_5m": 4_994_882,
    "cifar10_vit_213k": 213_066,
    "cifar10_mlp_1m": 949_830,
    "cifar10_sdn_1m": 952_270,
    "cifar100_cnn_1m": 1_176_420,
    "cifar100_convnext_297k": 296_944,
    "cifar100_convnext_1m": 1_010_836,
    "cifar100_convnext_10m": 10_353_730,
    "cifar100_vit_219k": 218_916,
    "cifar100_efficientnet_5m": 5_087_132,
    "cifar100_mlp_1m": 1_005_720,
    "cifar100_sdn_1m": 1_008_160,
}
"""The sizes that are golden; those of other models are in the page's table alone."""


def configured(model: str, auxiliary_size: int = 0, **changes: Any) -> DictConfig:
    """The config of a model with the description of its dataset, `changes` made to the latter."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(f"model/{model}")
    (channels, height, width), heads = next(value for start, value in DATASETS.items() if model.startswith(start))
    shape = {"channels": channels, "height": height, "width": width} | changes
    dataset = {
        **shape,
        **{"name": model, "features": shape["channels"] * shape["height"] * shape["width"], "target_width": 0.0},
        **{"auxiliary_size": auxiliary_size, "head_sizes": heads, "class_names": {}},
        "heads": {
            name: {"classes": classes, "minimum": 0.0, "maximum": classes - 1.0, "step": 1.0} for name, classes in heads.items()
        },
    }
    return OmegaConf.merge(OmegaConf.to_container(cfg), {"dataset": dataset})


@pytest.fixture(scope="module")
def count() -> Callable[..., int]:
    """The number of parameters of a model's task, built on the meta device; each is built once."""
    known: dict[tuple, int] = {}

    def parameters(model: str, auxiliary_size: int = 0) -> int:
        if (model, auxiliary_size) not in known:
            with torch.device("meta"):
                task = instantiate(configured(model, auxiliary_size), "model")
            known[model, auxiliary_size] = sum(parameter.numel() for parameter in task.net.parameters())
        return known[model, auxiliary_size]

    return parameters


def test_every_golden_size_has_a_config():
    assert PARAMETERS.keys() <= set(MODELS)


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameter_counts(model, count):
    assert count(model) == PARAMETERS[model]


@pytest.mark.parametrize("model", MODELS)
def test_names_tell_the_size(model, count):
    if size := re.fullmatch(r".*_(\d+)([km])", model):
        assert round(count(model) / {"k": 1e3, "m": 1e6}[size[2]]) == int(size[1])
    else:
        assert model.startswith(("vimh", "digits"))
        assert count(model) <= 100_000


def test_the_page_states_the_size_of_every_model(count):
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|.*\| ([\d,]+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    stated = {model: int(number.replace(",", "")) for model, number in rows}
    assert stated == {model: count(model) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_models_take_the_auxiliary_features_of_the_dataset(model, count):
    """Linear(4, 32), Linear(32, 32), and 32 more columns in every head: 1,216 + 32 · classes."""
    classes = sum(next(heads for start, (_, heads) in DATASETS.items() if model.startswith(start)).values())
    assert count(model, auxiliary_size=4) - count(model) == 1_216 + 32 * classes


@pytest.mark.parametrize("model", [model for model in MODELS if model.startswith(("vimh", "digits"))])
def test_small_models_run_on_their_dataset(model):
    torch.manual_seed(0)
    cfg = configured(model, auxiliary_size=4)
    task = instantiate(cfg, "model")
    image = torch.rand(3, cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width)
    outputs = task({"image": image, "auxiliary": torch.rand(3, 4)})
    assert {name: output.shape for name, output in outputs.items()} == {
        name: (3, classes) for name, classes in cfg.dataset.head_sizes.items()
    }


@pytest.mark.parametrize("model", [model for model in MODELS if model.startswith("vimh")])
def test_models_take_images_that_are_not_square(model):
    cfg = configured(model, channels=2, height=40, width=64)
    outputs = instantiate(cfg, "model")({"image": torch.rand(3, 2, 40, 64)})
    assert outputs["note_number"].shape == (3, 24)
