"""Small instances of every network, for what must hold for all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import nn

from lhtx.nets import ConvNeXtV2, SimpleCNN, SimpleDenseNet, SimpleEfficientNet, SimpleMLP, VisionTransformer

SMALL: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "SimpleMLP": (SimpleMLP, {"input_size": 2 * 16 * 16, "lin1_size": 8, "lin2_size": 8, "lin3_size": 8, "dropout": 0.5}),
    "SimpleDenseNet": (
        SimpleDenseNet,
        {"input_size": 2 * 16 * 16, "lin1_size": 8, "lin2_size": 8, "lin3_size": 8, "dropout": 0.5},
    ),
    "SimpleCNN": (SimpleCNN, {"input_channels": 2, "conv1_channels": 4, "conv2_channels": 8, "fc_hidden": 8, "input_size": 16}),
    "ConvNeXtV2": (
        ConvNeXtV2,
        {"in_chans": 2, "depths": [1, 2], "dims": [4, 8], "kernel_size": 3, "drop_path_rate": 0.5, "input_size": 16},
    ),
    "SimpleEfficientNet": (SimpleEfficientNet, {"input_channels": 2, "width_mult": 0.1, "depth_mult": 0.3}),
    "VisionTransformer": (
        VisionTransformer,
        {"n_channels": 2, "image_size": 16, "embed_dim": 8, "n_layers": 2, "n_attention_heads": 2},
    ),
}
"""Name → class and the options of a small one that takes images of 2 × 16 × 16 and drops something in training."""
NAMES = [*SMALL, "VisionTransformer of torch"]


@pytest.fixture(params=NAMES)
def build(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    """Builds a small network from its heads and any options that all networks have; once for every network there is."""
    name, _, torchs = request.param.partition(" ")
    network, options = SMALL[name]
    torch_layers = {"use_torch_layers": True} if torchs else {}

    def factory(heads: Mapping[str, int], **more: Any) -> nn.Module:
        return network(**options, **torch_layers, heads=heads, **more)

    factory.name = name
    return factory


@pytest.fixture
def covered() -> set[str]:
    """The names of the networks that `build` builds."""
    return set(SMALL)
