"""ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808), from a few thousand parameters up."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.errors import ConfigError
from lhtx.nets.checks import height_and_width, require_images, require_positive, require_probabilities, require_sizes
from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import DIGITS, HeadKind, Heads
from lhtx.nets.stochastic_depth import StochasticDepth, linear_rates

EPSILON = 1e-6
SMALL_IMAGES = (28, 32)
"""Pixels of the shorter side for which the stem halves an image; it quarters all others."""


class ConvNeXtV2(nn.Module):
    """Stem, stages of blocks with a halving between them, mean over the map, LayerNorm, auxiliary fusion, heads.

    A block is depthwise Conv, LayerNorm, Linear to 4 × its width, GELU, GRN, Linear back, added to its input with
    stochastic depth, whose probability rises linearly from 0 in the first block of the network to `drop_path_rate` in its
    last.

    Args:
        in_chans: channels C of the images.
        depths: blocks in each stage.
        dims: width of each stage.
        drop_path_rate: probability of dropping the last block, in [0, 1).
        head_init_scale: factor on the initial weights of the heads.
        kernel_size: pixels a side of the depthwise convolutions, odd.
        input_size: pixels a side, or height and width. It chooses the stem; images of other sizes are taken too.
        stem_size: pixels a side of the patches that the stem makes one; None takes 2 for images whose shorter side is 28
            or 32 pixels and 4 for all others.
        auxiliary_input_size: number F of auxiliary features; 0 builds no branch. See `lhtx.nets.fusion.AuxiliaryFusion`.
        auxiliary_hidden_size: width of the branch.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.

    Raises:
        ConfigError: for a size below 1, depths and dims that do not pair, an even kernel, a probability outside [0, 1), an
            image too small for its stages, or heads that cannot be built.
    """

    def __init__(
        self,
        in_chans: int = 1,
        depths: Sequence[int] = (2, 2, 4, 2),
        dims: Sequence[int] = (12, 24, 48, 96),
        drop_path_rate: float = 0.0,
        head_init_scale: float = 1.0,
        kernel_size: int = 7,
        input_size: int | Sequence[int] = 28,
        stem_size: int | None = None,
        auxiliary_input_size: int = 0,
        auxiliary_hidden_size: int = 32,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
    ) -> None:
        super().__init__()
        require_sizes("ConvNeXtV2", in_chans=in_chans, kernel_size=kernel_size)
        _require_stages(depths, dims)
        require_probabilities("ConvNeXtV2", drop_path_rate=drop_path_rate)
        require_positive("ConvNeXtV2", head_init_scale=head_init_scale)
        if kernel_size % 2 == 0:
            raise ConfigError(
                f"ConvNeXtV2: kernel_size is {kernel_size}, and a kernel centred on its pixel is odd; take "
                f"{kernel_size - 1} or {kernel_size + 1}"
            )
        side = min(height_and_width("ConvNeXtV2", "input_size", input_size))
        if stem_size is None:
            stem_size = 2 if side in SMALL_IMAGES else 4
        require_sizes("ConvNeXtV2", stem_size=stem_size)
        self.smallest = stem_size * 2 ** (len(depths) - 1)
        if side < self.smallest:
            raise ConfigError(
                f"ConvNeXtV2: input_size is {input_size!r}, and a stem of {stem_size} pixels and {len(depths) - 1} halvings "
                f"between {len(depths)} stages need {self.smallest} pixels a side or more; take fewer stages (depths, dims) "
                "or a smaller stem_size"
            )
        self.in_chans = in_chans
        self.auxiliary_input_size = auxiliary_input_size
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        self.stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], stem_size, stride=stem_size), ChannelNorm(dims[0]))
        self.stages = nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
            halving = [] if stage == 0 else [ChannelNorm(dims[stage - 1]), nn.Conv2d(dims[stage - 1], width, 2, stride=2)]
            self.stages.append(nn.Sequential(*halving, *(Block(width, kernel_size, next(rates)) for _ in range(depth))))
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.fusion = AuxiliaryFusion("ConvNeXtV2", dims[-1], auxiliary_input_size, auxiliary_hidden_size)
        self.heads = Heads(self.fusion.features, heads, head_kind)
        for part in (self.stem, self.stages, self.heads):
            part.apply(_initialise)
        with torch.no_grad():
            for parameter in self.heads.parameters():
                parameter.mul_(head_init_scale)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, C, H, W) and, where the network takes them, features (B, F) → what `Heads` returns.

        Raises:
            ValueError: for images of other channels or too small for the stages; for auxiliary features that are missing,
                not expected or of another number.
        """
        require_images("ConvNeXtV2", image, self.in_chans, self.smallest)
        maps = self.stem(image)
        for stage in self.stages:
            maps = stage(maps)
        features = self.norm(maps.mean((2, 3)))
        return self.heads(self.fusion(features, auxiliary))


class Block(nn.Module):
    """One residual block, see `ConvNeXtV2`: figure 5 of the paper, right.

    Args:
        width: channels C of the map.
        kernel_size: pixels a side of the depthwise convolution.
        drop_path: probability of dropping the block.
    """

    def __init__(self, width: int, kernel_size: int, drop_path: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.expand = nn.Linear(width, 4 * width)
        self.grn = GlobalResponseNorm(4 * width)
        self.project = nn.Linear(4 * width, width)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        pixels = self.norm(self.depthwise(maps).permute(0, 2, 3, 1))
        pixels = self.project(self.grn(F.gelu(self.expand(pixels))))
        return maps + self.drop_path(pixels.permute(0, 3, 1, 2))


class GlobalResponseNorm(nn.Module):
    """GRN: X + γ · X · N + β with N = G / mean over channels of G, G the L2 norm of a channel over the map.

    Algorithm 1 of arXiv:2301.00808, where the mean stands for the sum of equation 2. γ and β start at 0, which makes the
    layer the identity.

    Args:
        width: channels C of the map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) → the same shape."""
        energies = pixels.pow(2).sum((1, 2), keepdim=True)
        norms = (energies + torch.finfo(energies.dtype).tiny).sqrt()  # the gradient of a channel of zeros is zero
        responses = norms / (norms.mean(-1, keepdim=True) + EPSILON)
        return torch.addcmul(self.beta, pixels, 1 + self.gamma * responses)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a map (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _require_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise a `ConfigError` unless both are whole numbers of 1 or more, one for each stage."""
    for name, sizes in (("depths", depths), ("dims", dims)):
        if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
            raise ConfigError(
                f"ConvNeXtV2: {name} is {sizes!r}; expected one whole number for each stage, such as [1, 1, 2, 1]"
            )
        require_sizes("ConvNeXtV2", **{f"{name}[{stage}]": size for stage, size in enumerate(sizes)})
    if len(depths) != len(dims):
        raise ConfigError(
            f"ConvNeXtV2: depths {list(depths)} has {len(depths)} stages and dims {list(dims)} has {len(dims)}; "
            "expected as many"
        )
