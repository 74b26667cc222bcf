"""The statistics of `lhtx.callbacks.GradientStatistics` for many members at once; the arithmetic is in `lhtx.gradients`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lhtx.callbacks.gradient_statistics import PREFIX, GradientStatistics
from lhtx.gradients import ACROSS_STEPS, cosine, network_statistics, noise_statistics, norm_statistics

Means = dict[str, Tensor]
"""Parameter name → a member's mean gradient of an epoch."""


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of each member's gradient of each of P parameters, (K, …): float32 (K, P)."""
    # Half precision is summed up in single precision.
    types = [torch.promote_types(each.dtype, torch.float32) for each in gradients]
    found = [torch.linalg.vector_norm(each.flatten(1), dim=1, dtype=kind) for each, kind in zip(gradients, types, strict=True)]
    return torch.stack(found, 1).float()


class FusedGradients:
    """Gathers the gradients of K members over one epoch.

    Args:
        settings: the callback of the config; its counts and switches hold, and nothing goes to loggers.
        names: of the parameters that are trained, in the order of the gradients.
    """

    def __init__(self, settings: GradientStatistics, names: Iterable[str]) -> None:
        self._settings, self._names = settings, list(names)
        self._norms: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._steps = self._samples = 0

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor], samples: int) -> None:
        """One step: the gradients (K, …) of all parameters, and the batch's size."""
        counts = self._steps % self._settings.every_k_steps == 0
        self._steps += 1
        if not counts:
            return
        self._norms.append(norms(gradients))
        self._samples += samples
        if self._settings.across_steps and not self._sums:
            self._sums = [each.to(torch.promote_types(each.dtype, torch.float32), copy=True) for each in gradients]
        elif self._settings.across_steps:
            torch._foreach_add_(self._sums, list(gradients))

    @torch.no_grad()
    def compute(self, previous: Sequence[Means | None]) -> tuple[list[dict[str, float]], list[Means | None]]:
        """Each member's statistics by their logged names, and its mean gradient; `previous` are those of the epoch before."""
        counted = torch.stack(self._norms).cpu().double()  # (T, K, P)
        columns = {"finite": torch.isfinite(counted).all(2).all(0).double()}
        means: list[Means | None] = list(previous)
        if self._settings.across_network:
            steps = network_statistics(counted)
            columns |= {name: steps[name].mean(0) for name in ("norm_mean", "norm_std", "norm_ratio")}
            columns |= {"norm_max": steps["norm_max"].amax(0), "norm_min": steps["norm_min"].amin(0)}
        if self._settings.across_steps:
            mean = {name: total / len(counted) for name, total in zip(self._names, self._sums, strict=True)}
            columns |= self._across_steps(counted, mean, previous)
            means = [{name: each[member] for name, each in mean.items()} for member in range(counted.shape[1])]
        values = torch.stack([column.float() for column in columns.values()], 1).tolist()
        return [{f"{PREFIX}/{name}": value for name, value in zip(columns, row, strict=True)} for row in values], means

    def _across_steps(self, counted: Tensor, mean: Means, previous: Sequence[Means | None]) -> dict[str, Tensor]:
        """(K,) of each statistic."""
        square = (norms([*mean.values()]).cpu().double() ** 2).sum(1)
        statistics = noise_statistics(
            mean_square=square,
            sum_of_squares=(counted**2).sum(0).sum(1),
            steps=len(counted),
            batch_size=self._samples / len(counted),
        )
        statistics |= norm_statistics((counted**2).sum(2).sqrt())
        statistics["cosine"] = torch.full_like(square, torch.nan)
        known = [member for member, last in enumerate(previous) if last is not None and last.keys() == mean.keys()]
        if known:
            last = {name: torch.stack([previous[member][name].to(each) for member in known]) for name, each in mean.items()}
            dots = sum((mean[name][known] * last[name]).flatten(1).sum(1).cpu().double() for name in mean)
            last_square = (norms([*last.values()]).cpu().double() ** 2).sum(1)
            statistics["cosine"][known] = cosine(dots, square[known], last_square)
        return {name: statistics[name] for name in ACROSS_STEPS}
