"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382): training with residual branches dropped at random."""

import torch.nn.functional as F
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drops a residual branch for single images of a batch, with probability `p`, in training only.

    Branches that are kept are divided by 1 − p, so that the expectation stays what it is at evaluation.

    Args:
        p: probability of dropping, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """(B, …) → the same shape; `branch` itself at evaluation or for p = 0."""
        if not self.training or self.p == 0:
            return branch
        ones = branch.new_ones(branch.shape[0], *(1 for _ in branch.shape[1:]))
        return branch * F.dropout(ones, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def linear_rates(last: float, blocks: int) -> list[float]:
    """The drop probabilities of `blocks` successive blocks: from 0 in the first to `last` in the last, in equal steps.

    >>> linear_rates(0.2, 3)
    [0.0, 0.1, 0.2]
    """
    return [last * block / max(1, blocks - 1) for block in range(blocks)]
