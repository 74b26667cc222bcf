"""Gradient clipping of many members at once, each by its own limit, as Lightning clips one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor


class Clipping:
    """What `trainer.gradient_clip_val` and `gradient_clip_algorithm` (`norm`, the default, or `value`) of K members say.

    The formulas are those of `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_`.
    """

    def __init__(self, trainers: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        by_value = [each.get("gradient_clip_algorithm") == "value" for each in trainers]
        limits = [inf if each.get("gradient_clip_val") is None else float(each["gradient_clip_val"]) for each in trainers]
        self._norms = self._tensor([inf if value else limit for limit, value in zip(limits, by_value, strict=True)], device)
        self._values = self._tensor([limit if value else inf for limit, value in zip(limits, by_value, strict=True)], device)

    @staticmethod
    def _tensor(limits: list[float], device: torch.device) -> Tensor | None:
        return None if min(limits) == inf else torch.tensor(limits, dtype=torch.float64, device=device)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Change the gradients (K, …) in place."""
        if self._norms is not None:
            parts = torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients], 1)
            share = (self._norms.to(parts) / (torch.linalg.vector_norm(parts, dim=1) + 1e-6)).clamp(max=1.0)
            for each in gradients:
                each.mul_(_column(share, each))
        if self._values is not None:
            for each in gradients:
                limit = _column(self._values.to(each), each)
                each.clamp_(-limit, limit)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
