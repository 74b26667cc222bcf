"""A plain multilayer perceptron. Without batch statistics, so it trains at batch size 1."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.nets.heads import DIGITS, HeadKind, Heads, require_auxiliary, require_dropout, require_features, require_sizes


class SimpleMLP(nn.Module):
    """Flatten, 3 × (Linear, ReLU, Dropout), heads.

    Args:
        input_size: numbers in one image, C·H·W.
        lin1_size, lin2_size, lin3_size: widths of the hidden layers.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.
        dropout: probability of dropping a hidden unit, in [0, 1).

    Raises:
        ConfigError: for a size below 1, a dropout outside [0, 1), or heads that cannot be built.
    """

    auxiliary_input_size = 0
    normalisation: type[nn.Module] = nn.Identity
    """What stands between each Linear and its ReLU, built from the layer's width."""

    def __init__(
        self,
        input_size: int = 784,
        lin1_size: int = 256,
        lin2_size: int = 256,
        lin3_size: int = 256,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_sizes(name, input_size=input_size, lin1_size=lin1_size, lin2_size=lin2_size, lin3_size=lin3_size)
        require_dropout(name, dropout)
        self.input_size = input_size
        self.dropout = dropout
        self.lin1 = nn.Linear(input_size, lin1_size)
        self.norm1 = self.normalisation(lin1_size)
        self.lin2 = nn.Linear(lin1_size, lin2_size)
        self.norm2 = self.normalisation(lin2_size)
        self.lin3 = nn.Linear(lin2_size, lin3_size)
        self.norm3 = self.normalisation(lin3_size)
        self.heads = Heads(lin3_size, heads, head_kind)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, …) of `input_size` numbers each → what `Heads` returns. It takes no auxiliary features.

        Raises:
            ValueError: for images of another size, or auxiliary features.
        """
        require_features(type(self).__name__, image, self.input_size)
        require_auxiliary(type(self).__name__, auxiliary, self.auxiliary_input_size)
        features = image.flatten(1)
        for layer, norm in ((self.lin1, self.norm1), (self.lin2, self.norm2), (self.lin3, self.norm3)):
            features = F.relu(norm(layer(features)))
            if self.dropout:
                features = F.dropout(features, self.dropout, self.training)
        return self.heads(features)
