"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with an encoder written out here or torch's own."""

from collections.abc import Mapping, Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.errors import ConfigError
from lhtx.nets.checks import height_and_width, require_probabilities, require_sizes
from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import DIGITS, HeadKind, Heads


class VisionTransformer(nn.Module):
    """Patches to tokens, a class token before them, pre-norm encoder; the class token goes to fusion and heads.

    With a single classification head, Linear and Tanh stand between the class token and the fusion; with several heads, or
    for regression, nothing does.

    Args:
        n_channels: channels C of the images.
        image_size: pixels a side, or height and width.
        patch_size: pixels a side of a patch; divides both sides of the image.
        embed_dim: width E of a token.
        n_layers: layers of the encoder.
        n_attention_heads: attention heads of a layer; divides embed_dim.
        forward_mul: factor on embed_dim that gives the width of a layer's hidden units.
        dropout: probability of dropping, in [0, 1): an element of the tokens, of the attention, and of what each sublayer
            adds; half of it in the auxiliary branch.
        use_torch_layers: take `torch.nn.TransformerEncoder` for the encoder. It is the same function;
            `translate_encoder` carries weights from one to the other.
        auxiliary_input_size: number F of auxiliary features; 0 builds no branch. See `lhtx.nets.fusion.AuxiliaryFusion`.
        auxiliary_hidden_size: width of the branch.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.

    Raises:
        ConfigError: for a size below 1, patches that do not tile the image, attention heads that do not divide embed_dim, a
            dropout outside [0, 1), or heads that cannot be built.
    """

    def __init__(
        self,
        n_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        patch_size: int = 4,
        embed_dim: int = 64,
        n_layers: int = 6,
        n_attention_heads: int = 4,
        forward_mul: int = 2,
        dropout: float = 0.1,
        use_torch_layers: bool = False,
        auxiliary_input_size: int = 0,
        auxiliary_hidden_size: int = 32,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
    ) -> None:
        super().__init__()
        name = "VisionTransformer"
        require_sizes(name, n_channels=n_channels, patch_size=patch_size, embed_dim=embed_dim, n_layers=n_layers)
        require_sizes(name, n_attention_heads=n_attention_heads, forward_mul=forward_mul)
        require_probabilities(name, dropout=dropout)
        height, width = height_and_width(name, "image_size", image_size)
        if height % patch_size or width % patch_size:
            raise ConfigError(
                f"{name}: patch_size {patch_size} does not divide an image of {height}×{width} pixels. "
                f"Accepted: {_divisors(gcd(height, width))}"
            )
        if embed_dim % n_attention_heads:
            raise ConfigError(
                f"{name}: embed_dim {embed_dim} is not divisible by n_attention_heads {n_attention_heads}. Accepted heads for "
                f"this embed_dim: {_divisors(embed_dim)}"
            )
        self.image_shape = (n_channels, height, width)
        self.auxiliary_input_size = auxiliary_input_size
        self.dropout = dropout
        self.patches = nn.Conv2d(n_channels, embed_dim, patch_size, stride=patch_size)
        self.position = nn.Parameter(torch.empty(1, (height // patch_size) * (width // patch_size), embed_dim))
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        build = _torch_encoder if use_torch_layers else Encoder
        self.encoder = build(embed_dim, n_layers, n_attention_heads, forward_mul * embed_dim, dropout)
        single = len(heads) == 1 and head_kind == "classification"
        self.hidden = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.Tanh()) if single else nn.Identity()
        self.fusion = AuxiliaryFusion(name, embed_dim, auxiliary_input_size, auxiliary_hidden_size, dropout / 2)
        self.heads = Heads(self.fusion.features, heads, head_kind)
        # At the scale of the tokens: the 0.02 of wide transformers is next to nothing at these widths, and training crawls.
        nn.init.normal_(self.position, std=embed_dim**-0.5)
        nn.init.normal_(self.class_token, std=embed_dim**-0.5)
        for part in (self.patches, self.encoder, self.hidden, self.heads):
            part.apply(_initialise)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, C, H, W) and, where the network takes them, features (B, F) → what `Heads` returns.

        Raises:
            ValueError: for images of another shape; for auxiliary features that are missing, not expected or of another
                number.
        """
        if image.ndim != 4 or image.shape[1:] != self.image_shape:
            channels, height, width = self.image_shape
            raise ValueError(
                f"VisionTransformer was built for images (B, {channels}, {height}, {width}), and got {tuple(image.shape)}; "
                "set n_channels and image_size to their channels and pixels"
            )
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder(F.dropout(tokens, self.dropout, self.training))
        return self.heads(self.fusion(self.hidden(tokens[:, 0]), auxiliary))


class Encoder(nn.Module):
    """Layers of self-attention and hidden units, then LayerNorm; the function of `torch.nn.TransformerEncoder`.

    Args:
        embed_dim: width E of a token.
        n_layers: number of layers.
        n_attention_heads: attention heads of a layer; divides E.
        hidden_size: hidden units of a layer.
        dropout: probability of dropping.
    """

    def __init__(self, embed_dim: int, n_layers: int, n_attention_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(EncoderLayer(embed_dim, n_attention_heads, hidden_size, dropout) for _ in range(n_layers))
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, E) → the same shape."""
        return self.norm(self.layers(tokens))


class EncoderLayer(nn.Module):
    """X + attention(LayerNorm(X)), then X + Linear(GELU(Linear(LayerNorm(X)))); dropout on each addition.

    Arguments are those of `Encoder`.
    """

    def __init__(self, embed_dim: int, n_attention_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.self_attn = SelfAttention(embed_dim, n_attention_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, hidden_size)
        self.linear2 = nn.Linear(hidden_size, embed_dim)
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, E) → the same shape."""
        tokens = tokens + self._drop(self.self_attn(self.norm1(tokens)))
        hidden = self._drop(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self._drop(self.linear2(hidden))

    def _drop(self, tokens: Tensor) -> Tensor:
        return F.dropout(tokens, self.dropout, self.training)


class SelfAttention(nn.Module):
    """softmax(Q·Kᵀ / √d)·V in several heads of width d (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

    Args:
        embed_dim: width E of a token.
        n_attention_heads: number of heads; d = E / n_attention_heads.
        dropout: probability of dropping a weight of the softmax.
    """

    def __init__(self, embed_dim: int, n_attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.n_attention_heads = n_attention_heads
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, E) → the same shape."""
        batch, length, embed_dim = tokens.shape
        width = embed_dim // self.n_attention_heads
        projected = self.in_proj(tokens).view(batch, length, 3, self.n_attention_heads, width)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, S, d) each
        weights = (query * width**-0.5 @ key.transpose(2, 3)).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(batch, length, embed_dim))


def translate_encoder(weights: Mapping[str, Tensor], use_torch_layers: bool) -> dict[str, Tensor]:
    """The state dict of a `VisionTransformer` in the names of one that is built with `use_torch_layers`.

    The encoders differ in how they name the projection to queries, keys and values, and in nothing else.

    >>> written_out, torchs = VisionTransformer(), VisionTransformer(use_torch_layers=True)
    >>> torchs.load_state_dict(translate_encoder(written_out.state_dict(), use_torch_layers=True))
    <All keys matched successfully>
    """
    old, new = (".in_proj.", ".in_proj_") if use_torch_layers else (".in_proj_", ".in_proj.")
    return {name.replace(old, new) if name.startswith("encoder.") else name: tensor for name, tensor in weights.items()}


def _torch_encoder(
    embed_dim: int, n_layers: int, n_attention_heads: int, hidden_size: int, dropout: float
) -> nn.TransformerEncoder:
    """Torch's encoder in place of `Encoder`."""
    layer = nn.TransformerEncoderLayer(
        embed_dim, n_attention_heads, hidden_size, dropout, activation=nn.GELU(), batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, n_layers, norm=nn.LayerNorm(embed_dim), enable_nested_tensor=False)


def _initialise(module: nn.Module) -> None:
    """Weights by Glorot and Bengio (2010) and no biases, alike in both encoders.

    A fixed spread of 0.02, usual for wide models, starves narrow ones: 31 % against 90 % on the digits after 15 epochs.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight.flatten(1))  # a patch is one vector
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.zeros_(module.in_proj_bias)


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
