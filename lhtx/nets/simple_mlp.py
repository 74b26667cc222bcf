"""A plain multilayer perceptron. Without batch statistics, so it trains at batch size 1."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.nets.checks import require_features, require_probabilities, require_sizes
from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import DIGITS, HeadKind, Heads


class SimpleMLP(nn.Module):
    """Flatten, 3 × (Linear, ReLU, Dropout), auxiliary fusion, heads.

    Args:
        input_size: numbers in one image, C·H·W.
        lin1_size, lin2_size, lin3_size: widths of the hidden layers.
        dropout: probability of dropping a hidden unit, in [0, 1); half of it in the auxiliary branch.
        auxiliary_input_size: number F of auxiliary features; 0 builds no branch. See `lhtx.nets.fusion.AuxiliaryFusion`.
        auxiliary_hidden_size: width of the branch.
        heads: head name → number of classes.
        head_kind: `classification` or `regression`, see `lhtx.nets.heads.Heads`.

    Raises:
        ConfigError: for a size below 1, a dropout outside [0, 1), or heads that cannot be built.
    """

    normalisation: type[nn.Module] = nn.Identity
    """What stands between each Linear and its ReLU, built from the layer's width."""

    def __init__(
        self,
        input_size: int = 784,
        lin1_size: int = 256,
        lin2_size: int = 256,
        lin3_size: int = 256,
        dropout: float = 0.0,
        auxiliary_input_size: int = 0,
        auxiliary_hidden_size: int = 32,
        heads: Mapping[str, int] = DIGITS,
        head_kind: HeadKind = "classification",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_sizes(name, input_size=input_size, lin1_size=lin1_size, lin2_size=lin2_size, lin3_size=lin3_size)
        require_probabilities(name, dropout=dropout)
        self.input_size = input_size
        self.auxiliary_input_size = auxiliary_input_size
        self.dropout = dropout
        self.lin1 = nn.Linear(input_size, lin1_size)
        self.norm1 = self.normalisation(lin1_size)
        self.lin2 = nn.Linear(lin1_size, lin2_size)
        self.norm2 = self.normalisation(lin2_size)
        self.lin3 = nn.Linear(lin2_size, lin3_size)
        self.norm3 = self.normalisation(lin3_size)
        self.fusion = AuxiliaryFusion(name, lin3_size, auxiliary_input_size, auxiliary_hidden_size, dropout / 2)
        self.heads = Heads(self.fusion.features, heads, head_kind)

    def forward(self, image: Tensor, auxiliary: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images (B, …) of `input_size` numbers each and, where the network takes them, features (B, F) → see `Heads`.

        Raises:
            ValueError: for images of another size; for auxiliary features that are missing, not expected or of another
                number.
        """
        require_features(type(self).__name__, image, self.input_size)
        features = image.flatten(1)
        for layer, norm in ((self.lin1, self.norm1), (self.lin2, self.norm2), (self.lin3, self.norm3)):
            features = F.relu(norm(layer(features)))
            if self.dropout:
                features = F.dropout(features, self.dropout, self.training)
        return self.heads(self.fusion(features, auxiliary))
