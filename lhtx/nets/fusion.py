"""How scalars that belong to an image join what a network has read from it. The same for every network.

It knows nothing of images, nor of what the scalars mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.nets.checks import require_sizes


class AuxiliaryFusion(nn.Module):
    """Linear, ReLU, Dropout, Linear, ReLU on the auxiliary features, appended to the image's features.

    It stands before the heads of every network. Without auxiliary features it has no parameters and changes nothing.

    Args:
        network: the network's name, for messages.
        features: width F of the image's features.
        auxiliary_input_size: number A of auxiliary features; 0 builds no branch.
        auxiliary_hidden_size: width of the branch.
        dropout: probability of dropping a unit between its two layers, in [0, 1).

    Attributes:
        features: width of what comes out, F or F + auxiliary_hidden_size.

    Raises:
        ConfigError: for an auxiliary_input_size below 0 or an auxiliary_hidden_size below 1.
    """

    def __init__(
        self, network: str, features: int, auxiliary_input_size: int, auxiliary_hidden_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require_sizes(network, auxiliary_hidden_size=auxiliary_hidden_size)
        if auxiliary_input_size != 0:
            require_sizes(network, auxiliary_input_size=auxiliary_input_size)
        self.network, self.auxiliary_input_size, self.dropout = network, auxiliary_input_size, dropout
        self.features = features
        if auxiliary_input_size:
            self.linear1 = nn.Linear(auxiliary_input_size, auxiliary_hidden_size)
            self.linear2 = nn.Linear(auxiliary_hidden_size, auxiliary_hidden_size)
            self.features += auxiliary_hidden_size

    def forward(self, features: Tensor, auxiliary: Tensor | None) -> Tensor:
        """(B, F) and, where there is a branch, (B, A) → (B, `features`).

        Raises:
            ValueError: for auxiliary features that are missing, not expected or of another number. Looks at the shape only.
        """
        self._require_fitting(auxiliary)
        if auxiliary is None:
            return features
        hidden = F.dropout(F.relu(self.linear1(auxiliary)), self.dropout, self.training)
        return torch.cat([features, F.relu(self.linear2(hidden))], dim=1)

    def _require_fitting(self, auxiliary: Tensor | None) -> None:
        size = self.auxiliary_input_size
        if size == 0 and auxiliary is not None:
            raise ValueError(
                f"{self.network} was built with auxiliary_input_size=0 and got auxiliary features of shape "
                f"{tuple(auxiliary.shape)}; build it with their number, or hand it none"
            )
        if size > 0 and auxiliary is None:
            raise ValueError(
                f"{self.network} was built with auxiliary_input_size={size} and got no auxiliary features; they are required"
            )
        if auxiliary is not None and (auxiliary.ndim != 2 or auxiliary.shape[1] != size):
            raise ValueError(f"{self.network} takes auxiliary features of shape (B, {size}) and got {tuple(auxiliary.shape)}")
