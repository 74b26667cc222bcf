"""A small convolutional network: two convolutions, one hidden layer."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.errors import ConfigError
from lhtx.nets.checks import require_images, require_probabilities, require_sizes
from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import DIGITS, HeadKind, Heads

SMALLEST = 4
"""Pixels a side below which nothing is left after two poolings by 2."""


class SimpleCNN(nn.Module):
    """2 × (Conv 3×3, BatchNorm, ReLU, MaxPool 2), average pool to a grid, Linear, ReLU, Dropout, auxiliary fusion, heads.

    The grid is 7×7 where input_size // 4 is 7 (28 to 31 pixels), else 4×4.

    Args:
        input_channels: channels C of the images.
        conv1_channels, conv2_channels: channels of the two convolutions.
        fc_hidden: width of the hidden layer.
        dropout: probability of dropping a hidden unit, in [0, 1); half of it in the auxiliary branch.
        input_size: pixels a side. It sets the grid; images of other sizes, square or not, are pooled to it too.
        auxiliary_input_size: number F of auxiliary features; 0 builds no branch. See `lhtx.nets.fusion.AuxiliaryFusion`.
        auxiliary_hidden_size: width of the branch.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.

    Raises:
        ConfigError: for a size below 1, an input_size below 4, a dropout outside [0, 1), or heads that cannot be built.
    """

    def __init__(
        self,
        input_channels: int = 1,
        conv1_channels: int = 32,
        conv2_channels: int = 64,
        fc_hidden: int = 128,
        dropout: float = 0.25,
        input_size: int = 28,
        auxiliary_input_size: int = 0,
        auxiliary_hidden_size: int = 32,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
    ) -> None:
        super().__init__()
        require_sizes(
            "SimpleCNN",
            input_channels=input_channels,
            conv1_channels=conv1_channels,
            conv2_channels=conv2_channels,
            fc_hidden=fc_hidden,
            input_size=input_size,
        )
        require_probabilities("SimpleCNN", dropout=dropout)
        if input_size < SMALLEST:
            raise ConfigError(f"SimpleCNN: input_size is {input_size} pixels; two poolings by 2 need {SMALLEST} or more")
        self.input_channels = input_channels
        self.auxiliary_input_size = auxiliary_input_size
        self.dropout = dropout
        self.grid = 7 if input_size // 4 == 7 else 4
        self.conv1 = nn.Conv2d(input_channels, conv1_channels, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm2d(conv1_channels)
        self.conv2 = nn.Conv2d(conv1_channels, conv2_channels, kernel_size=3, padding=1)
        self.norm2 = nn.BatchNorm2d(conv2_channels)
        self.hidden = nn.Linear(conv2_channels * self.grid**2, fc_hidden)
        self.fusion = AuxiliaryFusion("SimpleCNN", fc_hidden, auxiliary_input_size, auxiliary_hidden_size, dropout / 2)
        self.heads = Heads(self.fusion.features, heads, head_kind)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, C, H, W) and, where the network has the branch, features (B, F) → what `Heads` returns.

        Raises:
            ValueError: for images of other channels or below 4 pixels a side; for auxiliary features that are missing,
                not expected or of another number.
        """
        require_images("SimpleCNN", image, self.input_channels, SMALLEST)
        maps = F.max_pool2d(F.relu(self.norm1(self.conv1(image))), 2)
        maps = F.max_pool2d(F.relu(self.norm2(self.conv2(maps))), 2)
        features = F.relu(self.hidden(_pool_to_grid(maps, self.grid).flatten(1)))
        features = F.dropout(features, self.dropout, self.training)
        return self.heads(self.fusion(features, auxiliary))


def _pool_to_grid(maps: Tensor, grid: int) -> Tensor:
    """Average (B, C, H, W) to (B, C, grid, grid), as adaptive pooling does.

    Where H and W are multiples or divisors of the grid this is a plain average pool or a repetition, whose gradients,
    unlike the adaptive one's, are deterministic on every device.
    """
    batch, channels, height, width = maps.shape
    if height % grid == 0 and width % grid == 0:
        return F.avg_pool2d(maps, (height // grid, width // grid))
    if grid % height == 0 and grid % width == 0:
        cells = maps[:, :, :, None, :, None].expand(-1, -1, -1, grid // height, -1, grid // width)
        return cells.reshape(batch, channels, grid, grid)
    return F.adaptive_avg_pool2d(maps, grid)
