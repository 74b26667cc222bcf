"""EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) with factors on its width and depth."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.nets.checks import require_images, require_positive, require_probabilities, require_sizes
from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import DIGITS, HeadKind, Heads
from lhtx.nets.stochastic_depth import StochasticDepth, linear_rates

STEM, LAST = 32, 1280
"""Channels of the first and of the last convolution of B0."""


class Stage(NamedTuple):
    """Blocks of one kind: how much the first layer expands, channels, number of blocks, stride of the first, kernel."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel_size: int


B0 = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
"""Table 1 of the paper, stages 2 to 8."""


class SimpleEfficientNet(nn.Module):
    """Conv 3×3 by 2, the blocks of B0, Conv 1×1, mean over the map, Dropout, auxiliary fusion, heads.

    Every convolution is followed by BatchNorm, and all but a block's last by swish. Stochastic depth rises linearly from 0
    in the first block to `drop_path_rate` in the last; it acts on the blocks that have a residual. Training needs batches
    of 2 or more where images have 32 pixels a side or fewer, which end as one pixel.

    Args:
        input_channels: channels C of the images.
        width_mult: factor on the channels of every layer, rounded up to a multiple of 8.
        depth_mult: factor on the number of blocks of every stage, rounded up.
        dropout_rate: probability of dropping a feature before the heads, in [0, 1); half of it in the auxiliary branch.
        drop_path_rate: probability of dropping the last block, in [0, 1).
        auxiliary_input_size: number F of auxiliary features; 0 builds no branch. See `lhtx.nets.fusion.AuxiliaryFusion`.
        auxiliary_hidden_size: width of the branch.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.

    Raises:
        ConfigError: for a size below 1, a factor not above 0, a probability outside [0, 1), or heads that cannot be built.
    """

    def __init__(
        self,
        input_channels: int = 1,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        dropout_rate: float = 0.2,
        drop_path_rate: float = 0.2,
        auxiliary_input_size: int = 0,
        auxiliary_hidden_size: int = 32,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
    ) -> None:
        super().__init__()
        name = "SimpleEfficientNet"
        require_sizes(name, input_channels=input_channels)
        require_positive(name, width_mult=width_mult, depth_mult=depth_mult)
        require_probabilities(name, dropout_rate=dropout_rate, drop_path_rate=drop_path_rate)
        self.input_channels = input_channels
        self.auxiliary_input_size = auxiliary_input_size
        self.dropout_rate = dropout_rate
        depths = [_round_up(stage.blocks * depth_mult) for stage in B0]
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        channels = _width(STEM, width_mult)
        self.stem = _convolution(input_channels, channels, 3, stride=2, swish=True)
        self.blocks = nn.Sequential()
        for stage, depth in zip(B0, depths, strict=True):
            width = _width(stage.channels, width_mult)
            for block in range(depth):
                stride = stage.stride if block == 0 else 1
                self.blocks.append(MBConv(channels, width, stage.expansion, stride, stage.kernel_size, next(rates)))
                channels = width
        features = _width(LAST, width_mult)
        self.last = _convolution(channels, features, 1, swish=True)
        self.fusion = AuxiliaryFusion(name, features, auxiliary_input_size, auxiliary_hidden_size, dropout_rate / 2)
        self.heads = Heads(self.fusion.features, heads, head_kind)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, C, H, W) and, where the network takes them, features (B, F) → what `Heads` returns.

        Raises:
            ValueError: for images of other channels; for auxiliary features that are missing, not expected or of another
                number.
        """
        require_images("SimpleEfficientNet", image, self.input_channels, 1)
        features = self.last(self.blocks(self.stem(image))).mean((2, 3))
        features = F.dropout(features, self.dropout_rate, self.training)
        return self.heads(self.fusion(features, auxiliary))


class MBConv(nn.Module):
    """Inverted bottleneck: expand by Conv 1×1, depthwise Conv, squeeze and excitation, Conv 1×1 to the new width.

    The input is added, with stochastic depth, where the block changes neither the map's size nor its channels.

    Args:
        channels: channels of the input.
        width: channels of the output.
        expansion: factor on `channels` inside the block; 1 leaves the first convolution out.
        stride: of the depthwise convolution.
        kernel_size: pixels a side of the depthwise convolution, odd.
        drop_path: probability of dropping the block.
    """

    def __init__(self, channels: int, width: int, expansion: int, stride: int, kernel_size: int, drop_path: float) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Identity() if expansion == 1 else _convolution(channels, inner, 1, swish=True)
        self.depthwise = _convolution(inner, inner, kernel_size, stride=stride, groups=inner, swish=True)
        self.excite = SqueezeExcitation(inner)
        self.project = _convolution(inner, width, 1)
        self.residual = stride == 1 and channels == width
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, width, ⌈H / stride⌉, ⌈W / stride⌉)."""
        branch = self.project(self.excite(self.depthwise(self.expand(maps))))
        return maps + self.drop_path(branch) if self.residual else branch


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) that is computed from all channels' means (Hu et al. 2018, arXiv:1709.01507).

    The gate is Linear to a quarter of the channels, swish, Linear back, sigmoid. The quarter is of the block's expanded
    channels; the paper on EfficientNet takes it of the channels before expansion.

    Args:
        channels: channels C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // 4)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        gates = self.excite(F.silu(self.squeeze(maps.mean((2, 3))))).sigmoid()
        return maps * gates[:, :, None, None]


def _convolution(
    channels: int, width: int, kernel_size: int, stride: int = 1, groups: int = 1, swish: bool = False
) -> nn.Sequential:
    """Conv without bias, BatchNorm and, where asked for, swish."""
    convolution = nn.Conv2d(channels, width, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), *([nn.SiLU()] if swish else []))


def _width(channels: int, factor: float) -> int:
    """`channels` times `factor`, rounded up to a multiple of 8."""
    return 8 * _round_up(channels * factor / 8)


def _round_up(number: float) -> int:
    """The next whole number; one that misses a whole number by a rounding error counts as that."""
    return math.ceil(round(number, 9))
